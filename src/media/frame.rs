//! A frame: the pixels of one picture as I420 (planar 4:2:0), and its conversions from and to other
//! formats. Frames converted here are sRGB with the BT.601 matrix and limited range; decoded frames and
//! y4m frames have the colors that their streams specify.
//!
//! YUYV and NV12 from cameras are rearranged without a round trip through RGB. A frame always has an even
//! width and height, as 4:2:0 requires; an odd last column or row of the input is dropped.

use std::{borrow::Cow, time::SystemTime};

use fast_image_resize::{
    FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer,
    images::{Image, ImageRef},
};
use yuv::{BufferStoreMut, YuvConversionMode, YuvPlanarImage, YuvPlanarImageMut};

use super::colour::Colour;

/// The pixels of one picture in three planes without padding, with chroma halved in both directions
/// (I420).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Width in pixels, even.
    pub width: u32,
    /// Height in pixels, even.
    pub height: u32,
    /// Luma, `width * height` bytes.
    pub y: Vec<u8>,
    /// Blue difference, a quarter of the luma's bytes.
    pub u: Vec<u8>,
    /// Red difference, a quarter of the luma's bytes.
    pub v: Vec<u8>,
    /// How the planes are interpreted as colors.
    pub colour: Colour,
    /// When the pixels were captured.
    pub captured_at: SystemTime,
}

/// Why pixels could not be converted to a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Less than 2 pixels wide or high.
    #[error("a frame of {width}x{height} pixels is too small: both sides must be at least 2")]
    TooSmall {
        /// The given width.
        width: u32,
        /// The given height.
        height: u32,
    },
    /// There are fewer bytes than the format needs.
    #[error("{format} of {width}x{height} needs {needed} bytes, but only {given} were given")]
    TooShort {
        /// Name of the pixel format.
        format: &'static str,
        /// The given width.
        width: u32,
        /// The given height.
        height: u32,
        /// Number of bytes that the format needs.
        needed: usize,
        /// Number of bytes given.
        given: usize,
    },
    /// The conversion or the resizer failed.
    #[error("cannot convert {from} to {to}: {cause}")]
    Convert {
        /// Format or size before.
        from: String,
        /// Format or size after.
        to: String,
        /// The library's error.
        cause: String,
    },
}

impl Frame {
    /// Creates a frame from consecutive I420 planes without padding.
    ///
    /// # Errors
    /// The size is too small, or there are fewer than `width * height * 3 / 2` bytes (for odd sides,
    /// chroma is rounded up).
    pub fn from_i420(
        width: u32,
        height: u32,
        data: &[u8],
        captured_at: SystemTime,
    ) -> Result<Self, FrameError> {
        let (w, h) = (width as usize, height as usize);
        let (cw, ch) = (w.div_ceil(2), h.div_ceil(2));
        need("I420", width, height, w * h + 2 * cw * ch, data.len())?;
        let (y, chroma) = data.split_at(w * h);
        let (u, rest) = chroma.split_at(cw * ch);
        Self::from_planes((width, height), [(y, w), (u, cw), (&rest[..cw * ch], cw)], captured_at)
    }

    /// Creates a frame from the I420 planes Y, U and V, each with its stride (bytes from one row to the
    /// next).
    ///
    /// # Errors
    /// The size is too small, or a plane is shorter than its rows require.
    pub fn from_planes(
        (width, height): (u32, u32),
        planes: [(&[u8], usize); 3],
        captured_at: SystemTime,
    ) -> Result<Self, FrameError> {
        let (ew, eh) = even(width, height)?;
        let copy = |(data, stride): (&[u8], usize), w: usize, h: usize| {
            need("plane", w as u32, h as u32, stride.max(w) * (h - 1) + w, data.len())?;
            let mut out = Vec::with_capacity(w * h);
            for row in data.chunks(stride.max(w)).take(h) {
                out.extend_from_slice(&row[..w]);
            }
            Ok(out)
        };
        let (w, h) = (ew as usize, eh as usize);
        Ok(Self {
            width: ew,
            height: eh,
            y: copy(planes[0], w, h)?,
            u: copy(planes[1], w / 2, h / 2)?,
            v: copy(planes[2], w / 2, h / 2)?,
            colour: Colour::default(),
            captured_at,
        })
    }

    /// Creates a frame from RGB without padding, with 8 bits per channel.
    ///
    /// # Errors
    /// The size is too small, or there are fewer than `width * height * 3` bytes.
    pub fn from_rgb8(
        width: u32,
        height: u32,
        rgb: &[u8],
        captured_at: SystemTime,
    ) -> Result<Self, FrameError> {
        Self::from_rgb8_as(Colour::default(), (width, height), rgb, captured_at)
    }

    fn from_rgb8_as(
        colour: Colour,
        (width, height): (u32, u32),
        rgb: &[u8],
        captured_at: SystemTime,
    ) -> Result<Self, FrameError> {
        let (w, h) = even(width, height)?;
        need("RGB", width, height, width as usize * height as usize * 3, rgb.len())?;
        let (luma, chroma) = (w as usize * h as usize, w as usize * h as usize / 4);
        let mut planar = YuvPlanarImageMut {
            y_plane: BufferStoreMut::Owned(vec![0; luma]),
            y_stride: w,
            u_plane: BufferStoreMut::Owned(vec![0; chroma]),
            u_stride: w / 2,
            v_plane: BufferStoreMut::Owned(vec![0; chroma]),
            v_stride: w / 2,
            width: w,
            height: h,
        };
        let rows = &rgb[..width as usize * 3 * h as usize];
        yuv::rgb_to_yuv420(
            &mut planar,
            rows,
            width * 3,
            colour.yuv_range(),
            colour.yuv_matrix(),
            YuvConversionMode::Balanced,
        )
        .map_err(|e| convert_error("RGB", "I420", &e))?;
        let owned = |plane: BufferStoreMut<'_, u8>| match plane {
            BufferStoreMut::Owned(data) => data,
            BufferStoreMut::Borrowed(data) => data.to_vec(),
        };
        Ok(Self {
            width: w,
            height: h,
            y: owned(planar.y_plane),
            u: owned(planar.u_plane),
            v: owned(planar.v_plane),
            colour,
            captured_at,
        })
    }

    /// Creates a frame from YUYV (packed 4:2:2, V4L2 `YUYV`); the chroma of two rows is averaged.
    ///
    /// # Errors
    /// The size is too small, or there are fewer than `width * height * 2` bytes.
    pub fn from_yuyv(
        width: u32,
        height: u32,
        data: &[u8],
        captured_at: SystemTime,
    ) -> Result<Self, FrameError> {
        let (ew, eh) = even(width, height)?;
        let stride = width.next_multiple_of(2) as usize * 2;
        need("YUYV", width, height, stride * height as usize, data.len())?;
        let row = ew as usize * 2;
        let (mut y, mut u, mut v) = planes(ew as usize * eh as usize);
        let average = |a: u8, b: u8| u16::midpoint(u16::from(a), u16::from(b) + 1) as u8;
        for rows in data.chunks_exact(stride * 2).take(eh as usize / 2) {
            let (top, bottom) = (&rows[..row], &rows[stride..stride + row]);
            y.extend(top.chunks_exact(2).map(|p| p[0]));
            y.extend(bottom.chunks_exact(2).map(|p| p[0]));
            let pairs = || top.chunks_exact(4).zip(bottom.chunks_exact(4));
            u.extend(pairs().map(|(a, b)| average(a[1], b[1])));
            v.extend(pairs().map(|(a, b)| average(a[3], b[3])));
        }
        Ok(Self { width: ew, height: eh, y, u, v, colour: Colour::default(), captured_at })
    }

    /// Creates a frame from NV12 (luma plane, then one plane of alternating U and V).
    ///
    /// # Errors
    /// The size is too small, or there are fewer than `width * height * 3 / 2` bytes.
    pub fn from_nv12(
        width: u32,
        height: u32,
        data: &[u8],
        captured_at: SystemTime,
    ) -> Result<Self, FrameError> {
        let (ew, eh) = even(width, height)?;
        let luma_size = width as usize * height as usize;
        let chroma_stride = width.next_multiple_of(2) as usize;
        let chroma_size = chroma_stride * height.div_ceil(2) as usize;
        need("NV12", width, height, luma_size + chroma_size, data.len())?;
        let (luma, chroma) = data.split_at(luma_size);
        let (mut y, mut u, mut v) = planes(luma_size);
        for row in luma.chunks_exact(width as usize).take(eh as usize) {
            y.extend_from_slice(&row[..ew as usize]);
        }
        for row in chroma.chunks_exact(chroma_stride).take(eh as usize / 2) {
            let row = &row[..ew as usize];
            u.extend(row.chunks_exact(2).map(|p| p[0]));
            v.extend(row.chunks_exact(2).map(|p| p[1]));
        }
        Ok(Self { width: ew, height: eh, y, u, v, colour: Colour::default(), captured_at })
    }

    /// The pixels as RGB without padding, with 8 bits per channel.
    ///
    /// # Errors
    /// The planes do not have the sizes of a frame.
    pub fn to_rgb8(&self) -> Result<Vec<u8>, FrameError> {
        let planar = YuvPlanarImage {
            y_plane: &self.y,
            y_stride: self.width,
            u_plane: &self.u,
            u_stride: self.width / 2,
            v_plane: &self.v,
            v_stride: self.width / 2,
            width: self.width,
            height: self.height,
        };
        let mut rgb = vec![0; self.width as usize * self.height as usize * 3];
        yuv::yuv420_to_rgb(
            &planar,
            &mut rgb,
            self.width * 3,
            self.colour.yuv_range(),
            self.colour.yuv_matrix(),
        )
        .map_err(|e| convert_error("I420", "RGB", &e))?;
        Ok(rgb)
    }

    /// The same picture with the BT.601 matrix, which applies to formats that do not specify one.
    ///
    /// # Errors
    /// The planes do not have the sizes of a frame.
    pub fn to_bt601(&self) -> Result<Cow<'_, Self>, FrameError> {
        if self.colour.is_bt601() {
            return Ok(Cow::Borrowed(self));
        }
        let (size, rgb) = ((self.width, self.height), self.to_rgb8()?);
        Self::from_rgb8_as(self.colour.bt601(), size, &rgb, self.captured_at).map(Cow::Owned)
    }

    /// The same picture scaled up or down to the maximum size that fits into `width` x `height`,
    /// undistorted and with even sides.
    ///
    /// # Errors
    /// The box is smaller than 2 pixels in one direction, or the resizer fails.
    pub fn fit(&self, width: u32, height: u32) -> Result<Self, FrameError> {
        let (w, h) = fitted((self.width, self.height), (width, height))?;
        self.resize(w, h)
    }

    /// The same picture scaled to this size, whatever its aspect ratio; odd sides lose a pixel.
    ///
    /// # Errors
    /// The size is too small, or the resizer fails.
    pub fn resize(&self, width: u32, height: u32) -> Result<Self, FrameError> {
        let (w, h) = even(width, height)?;
        if (w, h) == (self.width, self.height) {
            return Ok(self.clone());
        }
        let mut resizer = Resizer::new();
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Lanczos3));
        let mut plane = |data: &[u8], from: (u32, u32), to: (u32, u32)| {
            let wrong = |e: &dyn std::fmt::Display| {
                convert_error(&format!("{}x{}", from.0, from.1), &format!("{}x{}", to.0, to.1), e)
            };
            let source =
                ImageRef::new(from.0, from.1, data, PixelType::U8).map_err(|e| wrong(&e))?;
            let mut scaled = Image::new(to.0, to.1, PixelType::U8);
            resizer.resize(&source, &mut scaled, &options).map_err(|e| wrong(&e))?;
            Ok(scaled.into_vec())
        };
        let half = |(w, h): (u32, u32)| (w / 2, h / 2);
        let from = (self.width, self.height);
        Ok(Self {
            width: w,
            height: h,
            y: plane(&self.y, from, (w, h))?,
            u: plane(&self.u, half(from), half((w, h)))?,
            v: plane(&self.v, half(from), half((w, h)))?,
            colour: self.colour,
            captured_at: self.captured_at,
        })
    }
}

/// The maximum even sides that have `from`'s aspect ratio and fit into `to`.
///
/// # Errors
/// A side of the box is less than 2.
pub fn fitted(from: (u32, u32), to: (u32, u32)) -> Result<(u32, u32), FrameError> {
    let to = even(to.0, to.1)?;
    even(from.0, from.1)?;
    let scale = (f64::from(to.0) / f64::from(from.0)).min(f64::from(to.1) / f64::from(from.1));
    let side = |from: u32, limit: u32| {
        let nearest = (f64::from(from) * scale / 2.0).round() as u32 * 2;
        nearest.clamp(2, limit)
    };
    Ok((side(from.0, to.0), side(from.1, to.1)))
}

fn even(width: u32, height: u32) -> Result<(u32, u32), FrameError> {
    if width < 2 || height < 2 {
        return Err(FrameError::TooSmall { width, height });
    }
    Ok((width & !1, height & !1))
}

/// Empty planes with capacity for this many luma samples and their chroma.
fn planes(luma: usize) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let chroma = || Vec::with_capacity(luma / 4);
    (Vec::with_capacity(luma), chroma(), chroma())
}

fn need(
    format: &'static str,
    width: u32,
    height: u32,
    needed: usize,
    given: usize,
) -> Result<(), FrameError> {
    if given < needed {
        return Err(FrameError::TooShort { format, width, height, needed, given });
    }
    Ok(())
}

fn convert_error(from: &str, to: &str, cause: &dyn std::fmt::Display) -> FrameError {
    FrameError::Convert { from: from.to_owned(), to: to.to_owned(), cause: cause.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: SystemTime = SystemTime::UNIX_EPOCH;

    #[test]
    fn odd_sides_lose_a_pixel() {
        let frame = Frame::from_rgb8(5, 3, &[128; 45], T).unwrap();
        assert_eq!((frame.width, frame.height), (4, 2));
        assert_eq!((frame.y.len(), frame.u.len(), frame.v.len()), (8, 2, 2));
        assert!(matches!(Frame::from_rgb8(1, 9, &[0; 27], T), Err(FrameError::TooSmall { .. })));
    }

    #[test]
    fn colors_are_bt601_with_limited_range() {
        let white = Frame::from_rgb8(2, 2, &[255; 12], T).unwrap();
        assert_eq!((white.y[0], white.u[0], white.v[0]), (235, 128, 128));
        let red = Frame::from_rgb8(2, 2, &[255, 0, 0].repeat(4), T).unwrap();
        assert!(red.y[0].abs_diff(81) <= 1 && red.u[0].abs_diff(90) <= 1, "{red:?}");
        assert!(red.v[0].abs_diff(240) <= 1, "{red:?}");
        let back = red.to_rgb8().unwrap();
        assert!(back[0] > 250 && back[1] < 5 && back[2] < 5, "{back:?}");
    }

    #[test]
    fn other_color_spaces_are_respected() {
        let colour = Colour { full_range: true, matrix: 1, ..Colour::default() };
        let grey = Frame::from_i420(2, 2, &[255, 255, 255, 255, 128, 128], T).unwrap();
        let white = Frame { colour, ..grey };
        assert_eq!(white.to_rgb8().unwrap(), [255; 12]);
        // Red by BT.709: 0.2126 of full luma.
        let red = Frame::from_i420(2, 2, &[54, 54, 54, 54, 99, 255], T).unwrap();
        let red = Frame { colour, ..red };
        let rgb = red.to_rgb8().unwrap();
        assert!(rgb[0] > 250 && rgb[1] < 5 && rgb[2] < 5, "{rgb:?}");
        let usual = red.to_bt601().unwrap();
        assert_eq!(usual.colour, Colour { full_range: true, ..Colour::default() });
        // Red by BT.601: 0.299 of full luma.
        assert!(usual.y[0].abs_diff(76) <= 1 && usual.v[0].abs_diff(255) <= 1, "{usual:?}");
        assert!(usual.to_rgb8().unwrap()[0] > 250);
    }

    #[test]
    fn yuyv_averages_two_rows_of_chroma() {
        let frame = Frame::from_yuyv(2, 2, &[1, 10, 2, 20, 3, 30, 4, 41], T).unwrap();
        assert_eq!(frame.y, [1, 2, 3, 4]);
        assert_eq!((frame.u[0], frame.v[0]), (20, 31));
        assert!(matches!(Frame::from_yuyv(2, 2, &[0; 7], T), Err(FrameError::TooShort { .. })));
    }

    #[test]
    fn nv12_chroma_is_split_into_planes() {
        let frame = Frame::from_nv12(4, 2, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], T).unwrap();
        assert_eq!(frame.y, [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!((frame.u, frame.v), (vec![9, 11], vec![10, 12]));
    }

    #[test]
    fn the_planes_of_i420_with_odd_sides_are_found() {
        let mut data = vec![1; 9];
        data.extend([2; 4]);
        data.extend([3; 4]);
        let frame = Frame::from_i420(3, 3, &data, T).unwrap();
        assert_eq!((frame.y, frame.u, frame.v), (vec![1; 4], vec![2], vec![3]));
    }

    #[test]
    fn fitting_preserves_the_aspect_ratio() {
        assert_eq!(fitted((4000, 3000), (1280, 720)).unwrap(), (960, 720));
        assert_eq!(fitted((640, 480), (1280, 720)).unwrap(), (960, 720));
        assert_eq!(fitted((5312, 2988), (1280, 720)).unwrap(), (1280, 720));
        assert_eq!(fitted((1080, 1920), (1280, 720)).unwrap(), (406, 720));
        assert_eq!(fitted((100, 100), (33, 77)).unwrap(), (32, 32));
        assert!(fitted((100, 100), (1, 77)).is_err());
    }
}
