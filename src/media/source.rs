//! Sources of pictures behind one trait: camera, test pattern, files and standard input.
//!
//! Files and streams end; a single picture, a directory, the pattern and the camera never do.

mod camera;
mod content;
mod directory;
mod error;
mod foreign;
mod h264_file;
mod jpeg;
mod mjpeg;
mod pattern;
mod picture;
mod spec;
mod srgb;
mod stream;
mod y4m;

pub use camera::{CameraFormat, CameraSpec, Device, PixelFormat, list_devices};
pub use error::SourceError;
pub use foreign::Foreign;
pub use h264_file::H264Source;
pub use mjpeg::MjpegSource;
pub use pattern::PatternSource;
pub use picture::{PictureSource, read_picture};
pub use spec::{SourceSpec, SpecError};
pub use stream::open_stream;
pub use y4m::Y4mSource;

use std::{fs::File, path::Path, time::Duration};

use super::{encoder::bounded, frame::Frame, h264::AccessUnit};

/// A picture from a source: pixels to encode, or an already encoded picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Captured {
    /// Pixels.
    Frame(Frame),
    /// A keyframe, to be sent unchanged.
    AccessUnit(AccessUnit),
}

/// A source of pictures. Calls block until there is a picture; run the source on its own thread.
pub trait Source: Send {
    /// A human-readable description: one line, without a full stop.
    fn describe(&self) -> String;

    /// The next picture; from a live source, the newest. `None` when the source has ended.
    ///
    /// # Errors
    /// The source failed. A camera may be read again: it is reopened when it is available again.
    fn next(&mut self) -> Result<Option<Captured>, SourceError>;

    /// The part of the last [`Source::next`] that was spent converting a camera's buffer to a frame.
    /// Reading a picture from a file counts as capturing.
    fn convert_time(&self) -> Duration {
        Duration::ZERO
    }
}

/// Requested properties of the pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SourceOptions {
    /// Box that frames are fitted into, with their aspect ratio preserved. Without it, frames keep their
    /// size, up to the encoder's maximum. Access units are never changed.
    pub size: Option<(u32, u32)>,
}

impl SourceOptions {
    /// Scales a frame to the requested size.
    ///
    /// # Errors
    /// The requested size is too small.
    pub fn apply(&self, frame: Frame) -> Result<Frame, SourceError> {
        let size = (frame.width, frame.height);
        let limit = super::encoder::MAX_SIDES.0;
        // Frames that the encoder supports keep their size.
        let wanted = self.size.unwrap_or((size.0.min(limit), size.1.min(limit)));
        let scaled = match bounded(size, wanted) {
            Ok(bounded) if bounded == size => return Ok(frame),
            Ok(bounded) => frame.resize(bounded.0, bounded.1),
            Err(cause) => Err(cause),
        };
        scaled.map_err(|cause| SourceError::Size { width: wanted.0, height: wanted.1, cause })
    }
}

/// Opens a source.
///
/// # Errors
/// The source does not exist, or does not contain a picture. A camera is open once its first frame arrives.
pub fn open(spec: &SourceSpec, options: SourceOptions) -> Result<Box<dyn Source>, SourceError> {
    Ok(match spec {
        SourceSpec::Camera(spec) => Box::new(camera::CameraSource::open(*spec, options)?),
        SourceSpec::Pattern { width, height } => {
            let (width, height) = options.size.unwrap_or((*width, *height));
            Box::new(PatternSource::new(width, height)?)
        }
        SourceSpec::File(path) => stream::open_path(path, options)?,
        SourceSpec::Directory(path) => Box::new(directory::DirectorySource::open(path, options)?),
        SourceSpec::Stdin => open_stream(Box::new(std::io::stdin()), "standard input", options)?,
    })
}

/// Opens a file for reading; a directory is rejected.
fn open_file(path: &Path) -> Result<File, SourceError> {
    let wrong = |cause| SourceError::Open { path: path.to_owned(), cause };
    let file = File::open(path).map_err(wrong)?;
    if file.metadata().map_err(wrong)?.is_dir() {
        return Err(SourceError::NotAFile { path: path.to_owned() });
    }
    Ok(file)
}
