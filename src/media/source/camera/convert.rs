//! A camera's buffer becomes a frame: YUYV and NV12 directly, the rest through RGB.

use std::time::SystemTime;

use nokhwa::{Buffer, utils::FrameFormat};

use super::SourceError;
use crate::media::{
    frame::{Frame, FrameError},
    source::picture::decode_picture,
};

/// Converts a buffer.
pub(super) fn to_frame(
    index: u32,
    buffer: &Buffer,
    captured_at: SystemTime,
) -> Result<Frame, SourceError> {
    let (width, height) = (buffer.resolution().width(), buffer.resolution().height());
    let data = buffer.buffer();
    let frame = match buffer.source_frame_format() {
        FrameFormat::YUYV => Frame::from_yuyv(width, height, data, captured_at),
        FrameFormat::NV12 => Frame::from_nv12(width, height, data, captured_at),
        FrameFormat::RAWRGB => Frame::from_rgb8(width, height, data, captured_at),
        FrameFormat::RAWBGR => Frame::from_rgb8(width, height, &swap(data), captured_at),
        FrameFormat::GRAY => grey(width, height, data, captured_at),
        FrameFormat::MJPEG => {
            let frame = decode_picture(data, &format!("of camera {index}"))?;
            return Ok(Frame { captured_at, ..frame });
        }
    };
    frame.map_err(|e| SourceError::Camera { index, cause: e.to_string() })
}

fn swap(bgr: &[u8]) -> Vec<u8> {
    bgr.chunks_exact(3).flat_map(|pixel| [pixel[2], pixel[1], pixel[0]]).collect()
}

fn grey(w: u32, h: u32, data: &[u8], captured_at: SystemTime) -> Result<Frame, FrameError> {
    let chroma = vec![128; w.div_ceil(2) as usize * h.div_ceil(2) as usize];
    let stride = w.div_ceil(2) as usize;
    let planes = [(data, w as usize), (&chroma[..], stride), (&chroma[..], stride)];
    Frame::from_planes((w, h), planes, captured_at)
}

#[cfg(test)]
mod tests {
    use nokhwa::utils::Resolution;

    use super::*;

    fn convert(format: FrameFormat, data: &[u8]) -> Result<Frame, SourceError> {
        to_frame(0, &Buffer::new(Resolution::new(2, 2), data, format), SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn every_format_becomes_a_frame() {
        assert_eq!(convert(FrameFormat::YUYV, &[9, 128].repeat(4)).unwrap().y, [9; 4]);
        assert_eq!(convert(FrameFormat::NV12, &[9, 9, 9, 9, 7, 8]).unwrap().v, [8]);
        assert_eq!(convert(FrameFormat::GRAY, &[5; 4]).unwrap().u, [128]);
        let red = convert(FrameFormat::RAWRGB, &[255, 0, 0].repeat(4)).unwrap();
        assert_eq!(convert(FrameFormat::RAWBGR, &[0, 0, 255].repeat(4)).unwrap(), red);
    }

    #[test]
    fn short_and_broken_buffers_are_errors() {
        for format in
            [FrameFormat::YUYV, FrameFormat::NV12, FrameFormat::RAWRGB, FrameFormat::MJPEG]
        {
            let error = convert(format, &[0; 5]).unwrap_err();
            assert!(error.to_string().contains("camera 0"), "{error}");
        }
    }
}
