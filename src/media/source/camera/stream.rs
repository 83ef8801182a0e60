//! What a system's camera interface has to give.

use std::time::Duration;

use super::{PixelFormat, SourceError};

/// Longest wait for the first frame after a camera was opened: some take seconds to wake.
pub(super) const FIRST_FRAME: Duration = Duration::from_secs(5);

/// Picture size asked for when none is wanted.
pub(super) const USUAL_SIZE: (u32, u32) = (1280, 720);

/// A camera as the system lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// What `camera:N` takes.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Where it is: a device file, a USB path or the system's identifier.
    pub path: String,
    /// Where it is plugged in, the same after it was away; empty when the system does not say.
    pub bus: String,
    /// What it can deliver, of what is understood here; the largest first.
    pub formats: Vec<super::CameraFormat>,
    /// The programs that have it open, as far as may be seen.
    pub used_by: Vec<String>,
    /// Why it cannot be looked at; then `formats` is empty.
    pub error: Option<String>,
}

impl Device {
    /// The format that is taken when nothing else is asked for.
    #[must_use]
    pub fn usual_format(&self) -> Option<super::CameraFormat> {
        super::format::choose(&self.formats, USUAL_SIZE, None)
    }
}

/// What is wanted of a camera.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Picture size.
    pub(super) size: (u32, u32),
    /// The only pixel format to take.
    pub(super) pixels: Option<PixelFormat>,
}

/// One frame as the driver gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RawFrame {
    /// Width in pixels.
    pub(super) width: u32,
    /// Height in pixels.
    pub(super) height: u32,
    /// How the pixels lie.
    pub(super) pixels: PixelFormat,
    /// Bytes from one row of the first plane to the next; 0 when there is nothing between them.
    pub(super) stride: u32,
    /// The bytes.
    pub(super) data: Vec<u8>,
    /// How old it was when it came.
    pub(super) age: Duration,
}

/// An open camera.
pub(super) trait Stream {
    /// Name and format, human-readable.
    fn describe(&self) -> String;

    /// Waits for the next frame, at most [`FIRST_FRAME`] where the system allows it. `spare` is memory
    /// to store it in.
    ///
    /// # Errors
    /// No frame arrives. The camera has to be reopened.
    fn next(&mut self, spare: Vec<u8>) -> Result<RawFrame, SourceError>;
}
