//! How close a decoded picture is to the original: PSNR and SSIM of the luma.
//!
//! SSIM is defined by Z. Wang et al., "Image Quality Assessment: From Error Visibility to Structural
//! Similarity", IEEE Transactions on Image Processing 13(4), 2004, here with windows of 8x8 pixels at every
//! fourth pixel, as in x264 and ffmpeg (which use a smaller C1: a difference of at most 1e-5 in a photo).

use super::{
    decoder::{DecodeError, Decoder},
    frame::Frame,
};

/// The constants C1 and C2 of Wang et al. for 8 bits, scaled to sums over 64 pixels, and C2 to variances
/// over 63.
const C1: f64 = 0.01 * 0.01 * 255.0 * 255.0 * 64.0 * 64.0;
const C2: f64 = 0.03 * 0.03 * 255.0 * 255.0 * 64.0 * 63.0;

/// Side of the blocks; each window consists of 2x2 blocks.
const BLOCK: usize = 4;

/// Quality of a decoded picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quality {
    /// Peak signal-to-noise ratio of the luma in dB; infinite for equal pictures.
    pub psnr_y: f64,
    /// Structural similarity of the luma; 1 for equal pictures.
    pub ssim_y: f64,
}

impl Quality {
    /// Compares two frames; `None` when their sizes differ or a side is less than 8 pixels.
    #[must_use]
    pub fn between(original: &Frame, decoded: &Frame) -> Option<Self> {
        Some(Self { psnr_y: original.psnr_y(decoded)?, ssim_y: original.ssim_y(decoded)? })
    }

    /// Decodes a keyframe and compares it with the original; if it was scaled down, the original is scaled
    /// down in the same way.
    ///
    /// # Errors
    /// The keyframe cannot be decoded.
    pub fn of_keyframe(original: &Frame, keyframe: &[u8]) -> Result<Option<Self>, DecodeError> {
        let decoded = Decoder::new()?.decode(keyframe)?;
        if (original.width, original.height) == (decoded.width, decoded.height) {
            return Ok(Self::between(original, &decoded));
        }
        Ok(Self::between(&original.resize(decoded.width, decoded.height)?, &decoded))
    }
}

impl Frame {
    /// Peak signal-to-noise ratio of the luma against `other`, in dB: infinite for equal pictures, `None`
    /// when the sizes differ.
    #[must_use]
    pub fn psnr_y(&self, other: &Self) -> Option<f64> {
        if (self.width, self.height) != (other.width, other.height) || self.y.is_empty() {
            return None;
        }
        let squares: u64 =
            self.y.iter().zip(&other.y).map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2)).sum();
        let mean = squares as f64 / self.y.len() as f64;
        Some(10.0 * (255.0 * 255.0 / mean).log10())
    }

    /// Structural similarity of the luma to `other`: 1 for equal pictures, `None` when the sizes differ or
    /// a side is less than 8 pixels.
    #[must_use]
    pub fn ssim_y(&self, other: &Self) -> Option<f64> {
        let (width, height) = (self.width as usize, self.height as usize);
        if (self.width, self.height) != (other.width, other.height) || width.min(height) < 2 * BLOCK
        {
            return None;
        }
        let rows = height / BLOCK;
        let (mut sum, mut count) = (0.0, 0u32);
        let mut above = sums(self, other, 0);
        for row in 1..rows {
            let below = sums(self, other, row);
            for (upper, lower) in above.windows(2).zip(below.windows(2)) {
                sum += similarity(upper[0] + upper[1] + lower[0] + lower[1]);
                count += 1;
            }
            above = below;
        }
        Some(sum / f64::from(count))
    }
}

/// Sums over the pixels of a block or window.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    a: u32,
    b: u32,
    /// a² + b².
    squares: u32,
    /// a·b.
    product: u32,
}

impl std::ops::Add for Sums {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            a: self.a + other.a,
            b: self.b + other.b,
            squares: self.squares + other.squares,
            product: self.product + other.product,
        }
    }
}

/// Sums of the blocks in one row of blocks.
fn sums(a: &Frame, b: &Frame, row: usize) -> Vec<Sums> {
    let width = a.width as usize;
    let mut blocks = vec![Sums::default(); width / BLOCK];
    for line in row * BLOCK..(row + 1) * BLOCK {
        let pixels = line * width..(line + 1) * width;
        let lines = a.y[pixels.clone()].chunks_exact(BLOCK).zip(b.y[pixels].chunks_exact(BLOCK));
        for (block, (a, b)) in blocks.iter_mut().zip(lines) {
            for (&a, &b) in a.iter().zip(b) {
                let (a, b) = (u32::from(a), u32::from(b));
                block.a += a;
                block.b += b;
                block.squares += a * a + b * b;
                block.product += a * b;
            }
        }
    }
    blocks
}

/// SSIM of one window of 64 pixels.
fn similarity(sums: Sums) -> f64 {
    let [a, b, squares, product] = [sums.a, sums.b, sums.squares, sums.product].map(f64::from);
    let variances = squares * 64.0 - a * a - b * b;
    let covariance = product * 64.0 - a * b;
    (2.0 * a * b + C1) * (2.0 * covariance + C2) / ((a * a + b * b + C1) * (variances + C2))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn frame(width: u32, height: u32, luma: impl Fn(u32, u32) -> u8) -> Frame {
        let (pixels, chroma) = (width * height, width * height / 4);
        let mut data: Vec<u8> = (0..pixels).map(|i| luma(i % width, i / width)).collect();
        data.extend(vec![128; 2 * chroma as usize]);
        Frame::from_i420(width, height, &data, SystemTime::UNIX_EPOCH).unwrap()
    }

    #[test]
    fn psnr_of_equal_and_different_pictures() {
        let a = frame(8, 8, |x, y| (x * 9 + y * 7) as u8);
        let b = frame(8, 8, |x, y| (x * 9 + y * 7) as u8 + 1);
        assert_eq!(a.psnr_y(&a), Some(f64::INFINITY));
        assert!((a.psnr_y(&b).unwrap() - 48.13).abs() < 0.01);
        assert_eq!(a.psnr_y(&a.resize(4, 4).unwrap()), None);
    }

    #[test]
    fn ssim_of_plain_pictures_depends_on_their_means() {
        // (2·100·120 + C1) / (100² + 120² + C1), with C1 = (0.01·255)².
        let (a, b) = (frame(16, 16, |_, _| 100), frame(16, 16, |_, _| 120));
        assert!((a.ssim_y(&b).unwrap() - 0.983_611).abs() < 1e-6);
        assert!((a.ssim_y(&a).unwrap() - 1.0).abs() < 1e-12);
        assert_eq!(a.ssim_y(&frame(16, 14, |_, _| 100)), None);
        let tiny = frame(6, 16, |_, _| 1);
        assert_eq!(tiny.ssim_y(&tiny), None);
    }

    /// The expected values are from `ffmpeg -lavfi ssim` and `psnr` of the same two pictures.
    #[test]
    fn psnr_and_ssim_match_ffmpeg() {
        let a = frame(64, 48, |x, y| ((x * x + 3 * y * y + x * y) % 251) as u8);
        let b = frame(64, 48, |x, y| {
            let luma = ((x * x + 3 * y * y + x * y) % 251) as i32;
            (luma + ((x * 7 + y * 13) % 51) as i32 - 25).clamp(0, 255) as u8
        });
        let quality = Quality::between(&a, &b).unwrap();
        assert!((quality.ssim_y - 0.980_355).abs() < 1e-4, "{quality:?}");
        assert!((quality.psnr_y - 24.952_767).abs() < 1e-3, "{quality:?}");
    }
}
