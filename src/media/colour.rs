//! What the numbers of a frame's planes mean as colours (ITU-T H.264 §E.2.1, H.273 §8.3).

use yuv::{YuvRange, YuvStandardMatrix};

/// Matrix between YUV and RGB, `matrix_coefficients`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Matrix {
    /// BT.601 (5 and 6), and whatever is not told or not known.
    #[default]
    Bt601,
    /// BT.709 (1).
    Bt709,
    /// BT.2020, non-constant luminance (9).
    Bt2020,
}

/// Matrix and range of a frame. Without any word on them a stream is BT.601 of limited range, as in
/// WebRTC; Chromium says BT.709 of full range for what it takes from a canvas.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Colour {
    /// Matrix.
    pub matrix: Matrix,
    /// Luma from 0 to 255 instead of 16 to 235, `video_full_range_flag`.
    pub full_range: bool,
}

impl Colour {
    /// By the fields of an SPS; `matrix_coefficients` may be absent.
    #[must_use]
    pub fn coded(full_range: bool, matrix_coefficients: Option<u32>) -> Self {
        let matrix = match matrix_coefficients {
            Some(1) => Matrix::Bt709,
            Some(9) => Matrix::Bt2020,
            _ => Matrix::Bt601,
        };
        Self { matrix, full_range }
    }

    pub(super) fn yuv_range(self) -> YuvRange {
        if self.full_range { YuvRange::Full } else { YuvRange::Limited }
    }

    pub(super) fn yuv_matrix(self) -> YuvStandardMatrix {
        match self.matrix {
            Matrix::Bt601 => YuvStandardMatrix::Bt601,
            Matrix::Bt709 => YuvStandardMatrix::Bt709,
            Matrix::Bt2020 => YuvStandardMatrix::Bt2020,
        }
    }
}
