//! Parses the value of `--source`.

use std::{
    ffi::OsStr,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use super::CameraSpec;

/// A source: `camera[:N[:FORMAT]]`, `pattern[:WxH]`, the path of a file, pipe or directory, or `-`.
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
    /// A file or a pipe; its format is detected from its first bytes.
    File(PathBuf),
    /// The pictures in a directory, in the order of their names, repeated.
    Directory(PathBuf),
    /// Standard input; its format is detected from its first bytes.
    Stdin,
}

/// Text that is not a valid source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// The camera is not valid.
    #[error(
        "`{0}` is not a valid camera: expected `camera`, `camera:N` or `camera:N:FORMAT`; `orion-peer devices` lists N and FORMAT, such as NV12"
    )]
    Camera(String),
    /// The pattern is not valid.
    #[error(
        "`{0}` is not a valid pattern: expected `pattern` or `pattern:WxH`, 16x16 to 3840x2160"
    )]
    Pattern(String),
    /// Neither a keyword nor an existing path.
    #[error(
        "`{0}` is not a valid source: expected camera[:N[:FORMAT]], pattern[:WxH], the path of a file or a directory, or - for standard input"
    )]
    Unknown(String),
}

impl SourceSpec {
    /// Whether it is live, so that an old picture is not worth sending.
    #[must_use]
    pub fn is_live(&self) -> bool {
        matches!(self, Self::Camera(_) | Self::Pattern { .. })
    }

    /// Whether it can be opened again and starts from the beginning: pipes cannot.
    #[must_use]
    pub fn is_repeatable(&self) -> bool {
        match self {
            Self::Camera(_) | Self::Pattern { .. } | Self::Directory(_) => true,
            Self::File(path) => path.is_file(),
            Self::Stdin => false,
        }
    }

    /// Parses the value; file names need not be UTF-8.
    ///
    /// # Errors
    /// The text is not a valid source.
    pub fn from_os_str(text: &OsStr) -> Result<Self, SpecError> {
        match text.to_str() {
            Some(text) => text.parse(),
            None => path_spec(Path::new(text)),
        }
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
            _ => path_spec(Path::new(text)),
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
            Self::File(path) | Self::Directory(path) => write!(f, "{}", path.display()),
            Self::Stdin => f.write_str("-"),
        }
    }
}

fn path_spec(path: &Path) -> Result<SourceSpec, SpecError> {
    let text = path.as_os_str().as_encoded_bytes();
    let slash = text.ends_with(b"/");
    match path.metadata() {
        Ok(meta) if meta.is_dir() => Ok(SourceSpec::Directory(path.to_owned())),
        Ok(meta) if is_stdin(&meta) => Ok(SourceSpec::Stdin),
        _ if slash => Ok(SourceSpec::Directory(path.to_owned())),
        // A missing path is reported when it is opened; a single word is a misspelled keyword.
        Err(error)
            if error.kind() == std::io::ErrorKind::NotFound
                && !text.iter().any(|byte| b"/.".contains(byte)) =>
        {
            Err(SpecError::Unknown(path.display().to_string()))
        }
        _ => Ok(SourceSpec::File(path.to_owned())),
    }
}

/// Whether a file, pipe, terminal or socket is standard input: `/dev/stdin`, or another name for it.
/// Otherwise text lines would also be read from it; in addition, a socket cannot be opened by that name.
fn is_stdin(meta: &std::fs::Metadata) -> bool {
    #[cfg(unix)]
    {
        use std::os::{fd::AsFd, unix::fs::MetadataExt};
        let stdin = std::io::stdin().as_fd().try_clone_to_owned().map(std::fs::File::from);
        stdin
            .and_then(|stdin| stdin.metadata())
            .is_ok_and(|stdin| (stdin.dev(), stdin.ino()) == (meta.dev(), meta.ino()))
    }
    #[cfg(not(unix))]
    {
        let _ = meta;
        false
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
    fn keywords_and_paths_are_parsed() {
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
        for path in ["a/B.JPG", "x.y4m", "x.h264", "x.mp4", "a/photo", "./camera", "Cargo.toml"] {
            assert_eq!(parse(path), Ok(SourceSpec::File(path.into())));
        }
        assert_eq!(parse("nowhere/"), Ok(SourceSpec::Directory("nowhere/".into())));
        assert_eq!(
            parse(env!("CARGO_MANIFEST_DIR")).unwrap().to_string(),
            env!("CARGO_MANIFEST_DIR")
        );
        assert_eq!(parse("pattrn"), Err(SpecError::Unknown("pattrn".into())));
    }

    #[cfg(unix)]
    #[test]
    fn file_names_need_not_be_utf_8() {
        use std::os::unix::ffi::OsStrExt;
        let name = OsStr::from_bytes(b"caf\xe9.jpg");
        assert_eq!(SourceSpec::from_os_str(name), Ok(SourceSpec::File(name.into())));
        assert_eq!(SourceSpec::File(name.into()).to_string(), "caf\u{fffd}.jpg");
        assert_eq!(SourceSpec::from_os_str(OsStr::new("-")), Ok(SourceSpec::Stdin));
    }
}
