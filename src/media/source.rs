//! Where pictures come from: camera, test pattern, files, standard input, behind one trait.
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

/// What a source gives: pixels to encode, or a picture that is encoded already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Captured {
    /// Pixels.
    Frame(Frame),
    /// A keyframe, to be sent as it is.
    AccessUnit(AccessUnit),
}

/// A source of pictures. Calls block until there is one; run it on a thread of its own.
pub trait Source: Send {
    /// A human-readable description: one line, without a full stop.
    fn describe(&self) -> String;

    /// The next picture; for a live source the newest. `None` when the source has ended.
    ///
    /// # Errors
    /// The source failed. A camera may be read again: it is reopened when it comes back.
    fn next(&mut self) -> Result<Option<Captured>, SourceError>;

    /// How much of the last [`Source::next`] went into making a frame of what a camera gave. Reading
    /// a picture from a file counts as taking it.
    fn convert_time(&self) -> Duration {
        Duration::ZERO
    }
}

/// How pictures are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SourceOptions {
    /// Box that frames are fitted into, aspect kept. Without it frames keep their size, up to what the
    /// encoder takes. Access units are never changed.
    pub size: Option<(u32, u32)>,
}

impl SourceOptions {
    /// Brings a frame to the wanted size.
    ///
    /// # Errors
    /// The wanted size is too small.
    pub fn apply(&self, frame: Frame) -> Result<Frame, SourceError> {
        let size = (frame.width, frame.height);
        let limit = super::encoder::MAX_SIDES.0;
        // Frames that the encoder takes keep their size.
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

/// Opens a file for reading; a directory is refused.
fn open_file(path: &Path) -> Result<File, SourceError> {
    let wrong = |cause| SourceError::Open { path: path.to_owned(), cause };
    let file = File::open(path).map_err(wrong)?;
    if file.metadata().map_err(wrong)?.is_dir() {
        return Err(SourceError::NotAFile { path: path.to_owned() });
    }
    Ok(file)
}
