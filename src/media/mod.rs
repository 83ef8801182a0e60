//! The media pipeline, without the network: source → frame (I420 pixels) → encoder → access unit, and
//! access unit → decoder → frame → sink.
//!
//! A *frame* is pixels, an *access unit* is one encoded picture (H.264, Annex B). Every stage is
//! synchronous and can be used and tested separately; callers run the stages on blocking threads.

pub mod colour;
pub mod decoder;
pub mod encoder;
pub mod frame;
pub mod h264;
pub mod quality;
pub mod sink;
pub mod source;

pub use colour::Colour;
pub use decoder::{DecodeError, Decoder};
pub use encoder::{Complexity, EncodeError, EncodedKeyframe, EncoderConfig, KeyframeEncoder};
pub use frame::{Frame, FrameError};
pub use h264::AccessUnit;
pub use quality::Quality;
pub use sink::{FrameRecord, FrameWriter, PictureFormat, SinkError, Written};
pub use source::{Captured, Source, SourceError, SourceOptions, SourceSpec};

/// Processes one picture. If an untrusted picture makes a library panic, that is an error of this
/// picture and does not end the thread; the caller must replace everything that `work` was changing.
///
/// # Errors
/// `work` panicked; the error is the panic message.
pub(crate) fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        format!("internal error: {}", text.unwrap_or("a library panicked"))
    })
}

#[cfg(test)]
mod tests {
    use super::guarded;

    #[test]
    fn a_panic_is_an_error() {
        assert_eq!(guarded(|| 1), Ok(1));
        let index = std::hint::black_box(5);
        let error = guarded(|| [1, 2][index]).unwrap_err();
        assert!(error.contains("out of bounds"), "{error}");
    }
}
