//! The formats that cameras offer, and the choice between them.

use std::{fmt, str::FromStr};

/// The supported pixel formats by their V4L2 names (`FourCC`s), best first: formats that preserve
/// more of the picture and need less work come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PixelFormat {
    /// Packed 4:2:2.
    Yuyv,
    /// 4:2:0: a luma plane and one plane with both chroma components.
    Nv12,
    /// 4:2:0 in three planes (I420).
    Yu12,
    /// One JPEG picture per frame.
    Mjpg,
    /// Packed RGB with 8 bits per channel.
    Rgb3,
    /// Packed BGR with 8 bits per channel.
    Bgr3,
    /// Luma only.
    Grey,
}

impl PixelFormat {
    /// All formats, best first.
    pub const ALL: [Self; 7] =
        [Self::Yuyv, Self::Nv12, Self::Yu12, Self::Mjpg, Self::Rgb3, Self::Bgr3, Self::Grey];

    /// The V4L2 name.
    #[must_use]
    pub fn fourcc(self) -> &'static str {
        match self {
            Self::Yuyv => "YUYV",
            Self::Nv12 => "NV12",
            Self::Yu12 => "YU12",
            Self::Mjpg => "MJPG",
            Self::Rgb3 => "RGB3",
            Self::Bgr3 => "BGR3",
            Self::Grey => "GREY",
        }
    }
}

impl fmt::Display for PixelFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.fourcc())
    }
}

impl FromStr for PixelFormat {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let is_it = |format: &&Self| format.fourcc().eq_ignore_ascii_case(text);
        Self::ALL.iter().find(is_it).copied().ok_or(())
    }
}

/// One format of a camera.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CameraFormat {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Pixel format.
    pub pixels: PixelFormat,
    /// Time from one frame to the next as a fraction of a second: numerator and denominator.
    pub interval: (u32, u32),
}

impl CameraFormat {
    /// Frames per second, rounded to two decimals.
    #[must_use]
    pub fn fps(&self) -> f64 {
        let (numerator, denominator) = self.interval;
        (f64::from(denominator) / f64::from(numerator.max(1)) * 100.0).round() / 100.0
    }
}

impl fmt::Display for CameraFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{} {} at {} fps", self.width, self.height, self.pixels, self.fps())
    }
}

/// The format whose size is nearest to the requested one; among equals, the one with the best pixel
/// format, then the one whose frame rate is nearest to 30. `pixels` allows only one pixel format.
pub(super) fn choose(
    offered: &[CameraFormat],
    wanted: (u32, u32),
    pixels: Option<PixelFormat>,
) -> Option<CameraFormat> {
    let distance = |format: &CameraFormat| {
        // A size that is too small loses detail, one that is too large costs only time.
        let weight = if format.width < wanted.0 || format.height < wanted.1 { 2 } else { 1 };
        let across = u64::from(format.width.abs_diff(wanted.0));
        weight * (across + u64::from(format.height.abs_diff(wanted.1)))
    };
    let from_30 = |format: &CameraFormat| ((format.fps() - 30.0).abs() * 100.0) as u64;
    offered
        .iter()
        .filter(|format| pixels.is_none_or(|pixels| pixels == format.pixels))
        .min_by_key(|format| (distance(format), format.pixels, from_30(format)))
        .copied()
}

/// Sorts formats for display: by size in descending order, by pixel format, then by frame rate in
/// descending order.
pub(super) fn sort(formats: &mut Vec<CameraFormat>) {
    formats.sort_by(|a, b| {
        let size = |format: &CameraFormat| (format.width, format.height);
        size(b).cmp(&size(a)).then(a.pixels.cmp(&b.pixels)).then(b.fps().total_cmp(&a.fps()))
    });
    formats.dedup();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(width: u32, height: u32, pixels: PixelFormat, fps: u32) -> CameraFormat {
        CameraFormat { width, height, pixels, interval: (1, fps) }
    }

    #[test]
    fn size_takes_precedence_over_pixel_format_and_frame_rate() {
        let offered = [
            format(1920, 1080, PixelFormat::Mjpg, 30),
            format(1280, 720, PixelFormat::Mjpg, 30),
            format(1280, 720, PixelFormat::Yuyv, 5),
            CameraFormat { interval: (2, 25), ..format(1280, 720, PixelFormat::Yuyv, 0) },
            format(640, 480, PixelFormat::Yuyv, 30),
        ];
        assert_eq!(choose(&offered, (1280, 720), None), Some(offered[3]));
        assert_eq!(choose(&offered, (1600, 900), None), Some(offered[0]));
        assert_eq!(choose(&offered, (320, 240), None), Some(offered[4]));
        assert_eq!(choose(&offered, (320, 240), Some(PixelFormat::Mjpg)), Some(offered[1]));
        assert_eq!(choose(&offered, (320, 240), Some(PixelFormat::Nv12)), None);
        assert_eq!(choose(&[], (320, 240), None), None);
    }

    #[test]
    fn formats_are_shown_by_descending_size_and_only_once() {
        let small = format(640, 480, PixelFormat::Yuyv, 30);
        let slow = format(1280, 720, PixelFormat::Yuyv, 5);
        let other = format(1280, 720, PixelFormat::Nv12, 30);
        let odd = CameraFormat { interval: (2, 25), ..slow };
        let mut formats = vec![small, other, slow, odd, slow];
        sort(&mut formats);
        assert_eq!(formats, [odd, slow, other, small]);
        assert_eq!(odd.to_string(), "1280x720 YUYV at 12.5 fps");
    }

    #[test]
    fn names_are_parsed_to_formats() {
        for pixels in PixelFormat::ALL {
            assert_eq!(pixels.to_string().to_lowercase().parse(), Ok(pixels));
        }
        assert_eq!("H264".parse::<PixelFormat>(), Err(()));
    }
}
