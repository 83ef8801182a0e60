//! The media line, without any network: source → frame (I420 pixels) → encoder → access unit, and
//! access unit → decoder → frame → sink.
//!
//! A *frame* is pixels, an *access unit* is one encoded picture (H.264, Annex B). Every stage is
//! synchronous and can be used and tested alone; callers run them on blocking threads.

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
