//! Why a frame could not be encoded.

use super::{MIN_BUDGET, MIN_SIDE};
use crate::media::frame::FrameError;

/// Why a frame could not be encoded.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// `OpenH264` could not be started.
    #[error("cannot start the H.264 encoder for {width}x{height}: {cause}")]
    Start {
        /// Width of the picture.
        width: u32,
        /// Height of the picture.
        height: u32,
        /// The error from `OpenH264`.
        #[source]
        cause: openh264::Error,
    },
    /// The frame is smaller than `OpenH264` supports.
    #[error("cannot encode {width}x{height}: both sides must be at least {MIN_SIDE} pixels")]
    TooSmall {
        /// Width of the frame.
        width: u32,
        /// Height of the frame.
        height: u32,
    },
    /// The frame is larger than `OpenH264` supports.
    #[error(
        "cannot encode {width}x{height}: the maximum is 3840x2160 or 2160x3840 pixels; use a smaller size"
    )]
    TooLarge {
        /// Width of the frame.
        width: u32,
        /// Height of the frame.
        height: u32,
    },
    /// The budget is too small for any picture.
    #[error("cannot encode a keyframe in {max_bytes} bytes: the minimum is {MIN_BUDGET}")]
    BudgetTooSmall {
        /// The budget.
        max_bytes: usize,
    },
    /// Even the smallest picture is over the budget.
    #[error("cannot encode {width}x{height} in {max_bytes} bytes, even scaled down")]
    DoesNotFit {
        /// Width of the frame.
        width: u32,
        /// Height of the frame.
        height: u32,
        /// The budget.
        max_bytes: usize,
    },
    /// `OpenH264` rejected the QP.
    #[error("cannot set QP {qp}: OpenH264 returned {code}")]
    SetQp {
        /// The QP.
        qp: u8,
        /// `OpenH264`'s return code.
        code: i32,
    },
    /// `OpenH264` rejected the slices.
    #[error("cannot divide {width}x{height} into slices: OpenH264 returned {code}")]
    SetSlices {
        /// Width of the picture.
        width: u32,
        /// Height of the picture.
        height: u32,
        /// `OpenH264`'s return code.
        code: i32,
    },
    /// The picture could not be scaled down.
    #[error("cannot scale the frame: {0}")]
    Scale(#[from] FrameError),
}
