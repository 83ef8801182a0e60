//! The interface to a system's cameras.

use std::time::Duration;

use super::{PixelFormat, SourceError};

/// Maximum wait for the first frame after a camera was opened: some take seconds to start.
pub(super) const FIRST_FRAME: Duration = Duration::from_secs(5);

/// Picture size to request when the user requests none.
pub(super) const USUAL_SIZE: (u32, u32) = (1280, 720);

/// A camera as the system lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The index for `camera:N`.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// A device file, a USB path or the system's identifier.
    pub path: String,
    /// The port it is plugged into, which stays the same after it is reconnected; empty when the
    /// system does not report it.
    pub bus: String,
    /// The supported formats that it offers, in descending order of size.
    pub formats: Vec<super::CameraFormat>,
    /// The programs that have it open, as far as permissions allow.
    pub used_by: Vec<String>,
    /// Why it cannot be queried; in this case `formats` is empty.
    pub error: Option<String>,
}

impl Device {
    /// The format that is used when none is requested.
    #[must_use]
    pub fn usual_format(&self) -> Option<super::CameraFormat> {
        super::format::choose(&self.formats, USUAL_SIZE, None)
    }
}

/// Requested format of a camera.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Picture size.
    pub(super) size: (u32, u32),
    /// The required pixel format, if any.
    pub(super) pixels: Option<PixelFormat>,
}

/// One frame as delivered by the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RawFrame {
    /// Width in pixels.
    pub(super) width: u32,
    /// Height in pixels.
    pub(super) height: u32,
    /// Pixel format.
    pub(super) pixels: PixelFormat,
    /// Bytes from one row of the first plane to the next; 0 when there is no padding between them.
    pub(super) stride: u32,
    /// The bytes.
    pub(super) data: Vec<u8>,
    /// Its age when it was received.
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
