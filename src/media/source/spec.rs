//! `--source`: what is typed, and what it means.

use std::{
    fmt,
    fs::File,
    path::{Path, PathBuf},
    str::FromStr,
};

use super::{CameraSpec, SourceError};

/// A source by name:
/// `camera[:N[:FORMAT]]`, `pattern[:WxH]`, `FILE.y4m`, `FILE.jpg`, `FILE.png`, `DIR`, `FILE.h264` or `-`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceSpec {
    /// A camera.
    Camera(CameraSpec),
    /// The moving test pattern.
    Pattern {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// A y4m file.
    Y4m(PathBuf),
    /// One JPEG or PNG picture, again and again.
    Picture(PathBuf),
    /// The pictures of a directory in the order of their names, again and again.
    Directory(PathBuf),
    /// The keyframes of an H.264 file (Annex B).
    H264(PathBuf),
    /// Standard input: y4m, H.264, JPEG, MJPEG or PNG, told apart by the first bytes.
    Stdin,
}

/// A word that names no source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Not a camera index.
    #[error(
        "`{0}` is no camera: write `camera`, `camera:N` or `camera:N:FORMAT` with N and FORMAT, such as NV12, as `orion-peer devices` lists them"
    )]
    Camera(String),
    /// Not a picture size.
    #[error("`{0}` is no pattern: write `pattern` or `pattern:WxH`, 16x16 to 3840x2160")]
    Pattern(String),
    /// Neither a known word, nor a directory, nor a known kind of file.
    #[error(
        "`{0}` is no source: known are camera[:N[:FORMAT]], pattern[:WxH], a directory, - for standard input, and files named .y4m, .jpg, .jpeg, .png or .h264"
    )]
    Unknown(String),
}

impl SourceSpec {
    /// Whether it shows what is there now, so that an older picture is not worth sending.
    #[must_use]
    pub fn is_live(&self) -> bool {
        matches!(self, Self::Camera(_) | Self::Pattern { .. })
    }
}

impl FromStr for SourceSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (word, argument) = match text.split_once(':') {
            Some((word, argument)) => (word, Some(argument)),
            None => (text, None),
        };
        match (word, argument) {
            ("-", None) => Ok(Self::Stdin),
            ("camera", None) => Ok(Self::Camera(CameraSpec::default())),
            ("camera", Some(camera)) => parse_camera(camera)
                .map(Self::Camera)
                .ok_or_else(|| SpecError::Camera(text.to_owned())),
            ("pattern", None) => Ok(Self::Pattern { width: 1280, height: 720 }),
            ("pattern", Some(size)) => parse_size(size)
                .map(|(width, height)| Self::Pattern { width, height })
                .ok_or_else(|| SpecError::Pattern(text.to_owned())),
            _ => path_spec(text),
        }
    }
}

impl fmt::Display for SourceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Camera(CameraSpec { index: None, .. }) => f.write_str("camera"),
            Self::Camera(CameraSpec { index: Some(index), pixels: None }) => {
                write!(f, "camera:{index}")
            }
            Self::Camera(CameraSpec { index: Some(index), pixels: Some(pixels) }) => {
                write!(f, "camera:{index}:{pixels}")
            }
            Self::Pattern { width, height } => write!(f, "pattern:{width}x{height}"),
            Self::Y4m(path) | Self::Picture(path) | Self::Directory(path) | Self::H264(path) => {
                write!(f, "{}", path.display())
            }
            Self::Stdin => f.write_str("-"),
        }
    }
}

/// The extensions of pictures that can be read.
pub(super) fn is_picture(path: &Path) -> bool {
    matches!(extension(path).as_str(), "jpg" | "jpeg" | "png")
}

/// Opens a file for reading; a directory or device is refused.
pub(super) fn open_file(path: &Path) -> Result<File, SourceError> {
    let wrong = |cause| SourceError::Open { path: path.to_owned(), cause };
    let file = File::open(path).map_err(wrong)?;
    let kind = file.metadata().map_err(wrong)?.file_type();
    // Pipes have a name, too: `<(ffmpeg …)`.
    if kind.is_dir() {
        return Err(SourceError::NotAFile { path: path.to_owned() });
    }
    Ok(file)
}

fn extension(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase()
}

fn path_spec(text: &str) -> Result<SourceSpec, SpecError> {
    let path = PathBuf::from(text);
    if path.is_dir() || text.ends_with('/') {
        return Ok(SourceSpec::Directory(path));
    }
    match extension(&path).as_str() {
        "y4m" => Ok(SourceSpec::Y4m(path)),
        "h264" | "264" | "avc" => Ok(SourceSpec::H264(path)),
        _ if is_picture(&path) => Ok(SourceSpec::Picture(path)),
        _ => Err(SpecError::Unknown(text.to_owned())),
    }
}

fn parse_camera(text: &str) -> Option<CameraSpec> {
    let (index, pixels) = match text.split_once(':') {
        Some((index, pixels)) => (index, Some(pixels.parse().ok()?)),
        None => (text, None),
    };
    Some(CameraSpec { index: Some(index.parse().ok()?), pixels })
}

fn parse_size(text: &str) -> Option<(u32, u32)> {
    let (width, height) = text.split_once('x')?;
    let (width, height): (u32, u32) = (width.parse().ok()?, height.parse().ok()?);
    let fits = width.min(height) >= 16 && width.max(height) <= 3840 && width.min(height) <= 2160;
    fits.then_some((width, height))
}

#[cfg(test)]
mod tests {
    use super::{super::PixelFormat, *};

    #[test]
    fn words_and_files() {
        let parse = |text: &str| text.parse::<SourceSpec>();
        let camera = |index, pixels| Ok(SourceSpec::Camera(CameraSpec { index, pixels }));
        assert_eq!(parse("camera"), camera(None, None));
        assert_eq!(parse("camera:2"), camera(Some(2), None));
        assert_eq!(parse("camera:2:nv12"), camera(Some(2), Some(PixelFormat::Nv12)));
        assert_eq!(parse("camera:2:nv12").unwrap().to_string(), "camera:2:NV12");
        assert_eq!(parse("camera:2:H264"), Err(SpecError::Camera("camera:2:H264".into())));
        assert_eq!(parse("camera:x"), Err(SpecError::Camera("camera:x".into())));
        assert_eq!(parse("pattern"), Ok(SourceSpec::Pattern { width: 1280, height: 720 }));
        assert_eq!(parse("pattern:64x48"), Ok(SourceSpec::Pattern { width: 64, height: 48 }));
        assert!(parse("pattern:8x8").is_err() && parse("pattern:64").is_err());
        assert_eq!(parse("-"), Ok(SourceSpec::Stdin));
        assert_eq!(parse("a/B.JPG"), Ok(SourceSpec::Picture("a/B.JPG".into())));
        assert_eq!(parse("x.y4m"), Ok(SourceSpec::Y4m("x.y4m".into())));
        assert_eq!(parse("x.h264"), Ok(SourceSpec::H264("x.h264".into())));
        assert_eq!(parse("nowhere/"), Ok(SourceSpec::Directory("nowhere/".into())));
        assert_eq!(
            parse(env!("CARGO_MANIFEST_DIR")).unwrap().to_string(),
            env!("CARGO_MANIFEST_DIR")
        );
        assert_eq!(parse("x.mp4"), Err(SpecError::Unknown("x.mp4".into())));
    }
}
