//! Converts a camera's buffer to a frame: YUV directly, other formats through RGB.

use std::{borrow::Cow, time::SystemTime};

use super::{PixelFormat, stream::RawFrame};
use crate::media::{
    frame::{Frame, FrameError},
    source::picture::decode_jpeg,
};

/// Converts a buffer; the error is a human-readable cause.
pub(super) fn to_frame(raw: &RawFrame, captured_at: SystemTime) -> Result<Frame, String> {
    let (width, height) = (raw.width, raw.height);
    let frame = match raw.pixels {
        PixelFormat::Yuyv => {
            let data = tight(raw, width.next_multiple_of(2) as usize * 2);
            Frame::from_yuyv(width, height, &data, captured_at)
        }
        PixelFormat::Nv12 => {
            let data = tight(raw, width.next_multiple_of(2) as usize);
            Frame::from_nv12(width, height, &data, captured_at)
        }
        PixelFormat::Yu12 => planar(raw, captured_at),
        PixelFormat::Rgb3 => {
            Frame::from_rgb8(width, height, &tight(raw, width as usize * 3), captured_at)
        }
        PixelFormat::Bgr3 => {
            let data = swap(&tight(raw, width as usize * 3));
            Frame::from_rgb8(width, height, &data, captured_at)
        }
        PixelFormat::Grey => grey(raw, captured_at),
        PixelFormat::Mjpg => {
            let decoded = decode_jpeg(&raw.data, "of the camera").map_err(|e| e.to_string())?;
            return Ok(Frame { captured_at, ..decoded.frame });
        }
    };
    frame.map_err(|e| e.to_string())
}

/// The rows without the padding between them; only for formats whose planes have rows of equal
/// length.
fn tight(raw: &RawFrame, row: usize) -> Cow<'_, [u8]> {
    let stride = raw.stride as usize;
    if stride <= row {
        return Cow::Borrowed(&raw.data);
    }
    Cow::Owned(
        raw.data.chunks(stride).flat_map(|line| &line[..row.min(line.len())]).copied().collect(),
    )
}

/// I420: the rows of the chroma planes are half as long, including the padding between them.
fn planar(raw: &RawFrame, captured_at: SystemTime) -> Result<Frame, FrameError> {
    let (width, height) = (raw.width as usize, raw.height as usize);
    let stride = if raw.stride == 0 { width } else { raw.stride as usize };
    let chroma = stride.div_ceil(2);
    let cut = |at: usize| raw.data.split_at_checked(at).map_or(&[][..], |(_, rest)| rest);
    let u = stride * height;
    let v = u + chroma * height.div_ceil(2);
    let planes = [(&raw.data[..], stride), (cut(u), chroma), (cut(v), chroma)];
    Frame::from_planes((raw.width, raw.height), planes, captured_at)
}

fn swap(bgr: &[u8]) -> Vec<u8> {
    bgr.chunks_exact(3).flat_map(|pixel| [pixel[2], pixel[1], pixel[0]]).collect()
}

/// Gray samples have full range (0 to 255), a frame has limited range (16 to 235).
fn grey(raw: &RawFrame, captured_at: SystemTime) -> Result<Frame, FrameError> {
    let (half_width, half_height) = (raw.width.div_ceil(2), raw.height.div_ceil(2));
    let chroma = vec![128; half_width as usize * half_height as usize];
    let chroma = (&chroma[..], half_width as usize);
    let luma = (&raw.data[..], raw.stride.max(raw.width) as usize);
    let mut frame =
        Frame::from_planes((raw.width, raw.height), [luma, chroma, chroma], captured_at)?;
    for luma in &mut frame.y {
        *luma = (16 + (u32::from(*luma) * 219 + 127) / 255) as u8;
    }
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn raw(pixels: PixelFormat, stride: u32, data: &[u8]) -> RawFrame {
        let data = data.to_vec();
        RawFrame { width: 2, height: 2, pixels, stride, data, age: Duration::ZERO }
    }

    fn convert(pixels: PixelFormat, stride: u32, data: &[u8]) -> Result<Frame, String> {
        to_frame(&raw(pixels, stride, data), SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn every_format_becomes_a_frame() {
        let yuyv = convert(PixelFormat::Yuyv, 0, &[9, 7, 9, 8].repeat(2)).unwrap();
        assert_eq!((&yuyv.y[..], yuyv.u[0], yuyv.v[0]), (&[9; 4][..], 7, 8));
        assert_eq!(convert(PixelFormat::Nv12, 0, &[9, 9, 9, 9, 7, 8]).unwrap(), yuyv);
        assert_eq!(convert(PixelFormat::Yu12, 0, &[9, 9, 9, 9, 7, 8]).unwrap(), yuyv);
        let grey = convert(PixelFormat::Grey, 0, &[0, 255, 0, 255]).unwrap();
        assert_eq!((&grey.y[..], grey.u[0]), (&[16, 235, 16, 235][..], 128));
        let red = convert(PixelFormat::Rgb3, 0, &[255, 0, 0].repeat(4)).unwrap();
        assert_eq!(convert(PixelFormat::Bgr3, 0, &[0, 0, 255].repeat(4)).unwrap(), red);
    }

    #[test]
    fn padding_between_rows_is_removed() {
        let yuyv = convert(PixelFormat::Yuyv, 6, &[9, 7, 9, 8, 0, 0].repeat(2)).unwrap();
        assert_eq!((&yuyv.y[..], yuyv.u[0], yuyv.v[0]), (&[9; 4][..], 7, 8));
        let nv12 = [9, 9, 0, 0, 9, 9, 0, 0, 7, 8, 0, 0];
        assert_eq!(convert(PixelFormat::Nv12, 4, &nv12).unwrap(), yuyv);
        let yu12 = [9, 9, 0, 0, 9, 9, 0, 0, 7, 0, 8, 0];
        assert_eq!(convert(PixelFormat::Yu12, 4, &yu12).unwrap(), yuyv);
        assert_eq!(convert(PixelFormat::Grey, 3, &[0, 0, 9, 0, 0, 9]).unwrap().y, [16; 4]);
    }

    #[test]
    fn a_picture_without_huffman_tables_is_decoded() {
        let mut jpeg = Vec::new();
        let pixels: Vec<u8> = (0..16 * 16 * 3).map(|n| (n / 3) as u8).collect();
        image::codecs::jpeg::JpegEncoder::new(&mut jpeg)
            .encode(&pixels, 16, 16, image::ExtendedColorType::Rgb8)
            .unwrap();
        // These are the standard tables: the picture is the same without them.
        let mut without = jpeg.clone();
        while let Some(at) = without.windows(2).position(|pair| pair == [0xff, 0xc4]) {
            let length = usize::from(u16::from_be_bytes([without[at + 2], without[at + 3]]));
            without.drain(at..at + 2 + length);
        }
        assert!(without.len() < jpeg.len());
        let frame = convert(PixelFormat::Mjpg, 0, &without).unwrap();
        assert_eq!(frame, convert(PixelFormat::Mjpg, 0, &jpeg).unwrap());
    }

    #[test]
    fn short_and_broken_buffers_are_errors() {
        for pixels in PixelFormat::ALL {
            for length in [0, 1, 3] {
                convert(pixels, 0, &vec![0; length]).unwrap_err();
            }
        }
    }
}
