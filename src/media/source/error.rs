//! Errors of sources, and their remedies.

use std::{io, path::PathBuf};

use super::{
    super::{decoder::DecodeError, frame::FrameError},
    camera::PixelFormat,
    foreign::{Foreign, INSTEAD},
};

/// Why a source delivers no picture. `name` is a path or `standard input`.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A file or directory cannot be opened.
    #[error("cannot open {}: {cause}", path.display())]
    Open {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: io::Error,
    },
    /// It exists, but is of the wrong kind, such as a directory with the name of a picture.
    #[error("cannot read {}: it is not a regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// Reading stopped.
    #[error("cannot read {name}: {cause}")]
    Read {
        /// Path or `standard input`.
        name: String,
        /// The cause.
        #[source]
        cause: io::Error,
    },
    /// A picture cannot be decoded.
    #[error("cannot decode the picture {name}: {cause}")]
    Picture {
        /// Path or `standard input`.
        name: String,
        /// The decoder's error.
        cause: String,
    },
    /// A directory contains no pictures.
    #[error("no picture (JPEG, PNG or WebP) in {}", path.display())]
    EmptyDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// A directory's pictures are all unreadable.
    #[error("none of the {count} pictures in {} can be read; the last error: {last}", path.display())]
    NoReadablePicture {
        /// The directory.
        path: PathBuf,
        /// Number of pictures tried.
        count: usize,
        /// Error of the last picture.
        last: Box<SourceError>,
    },
    /// The header of a y4m stream is not valid.
    #[error("{name} is not a valid y4m stream: {cause}")]
    Y4mHeader {
        /// Path or `standard input`.
        name: String,
        /// The cause.
        cause: String,
    },
    /// A y4m stream ends in the middle of a frame.
    #[error("{name} is cut off in frame {frame}: {got} of {expected} bytes")]
    Y4mTruncated {
        /// Path or `standard input`.
        name: String,
        /// The frame's number, from 1.
        frame: u64,
        /// Number of its bytes that were read.
        got: usize,
        /// Number of bytes of a complete frame.
        expected: usize,
    },
    /// An H.264 stream contains no IDR picture with its parameter sets.
    #[error(
        "no keyframe (IDR picture with SPS and PPS) in {name}{}",
        match intra {
            0 => String::new(),
            1 => ": its only intra picture is not an IDR picture (open GOP)".to_owned(),
            _ => format!(": none of its {intra} intra pictures is an IDR picture (open GOP)"),
        }
    )]
    NoKeyframe {
        /// Path or `standard input`.
        name: String,
        /// Number of intra pictures that are not IDR pictures.
        intra: u64,
    },
    /// The keyframes of an H.264 stream are of a kind that the decoder does not support.
    #[error("{name} cannot be decoded: {cause}")]
    Undecodable {
        /// Path or `standard input`.
        name: String,
        /// The cause.
        #[source]
        cause: DecodeError,
    },
    /// A stream contains data that is longer than any picture.
    #[error("{name} contains {bytes} bytes without a complete picture")]
    TooLong {
        /// Path or `standard input`.
        name: String,
        /// Number of bytes held when reading was stopped.
        bytes: usize,
    },
    /// A file or a stream is empty.
    #[error("{name} is empty")]
    Empty {
        /// Path or `standard input`.
        name: String,
    },
    /// Its format is known, but not supported.
    #[error("{name} is not a supported picture or stream: it looks like {}", format.name)]
    Foreign {
        /// Path or `standard input`.
        name: String,
        /// What it looks like.
        format: &'static Foreign,
        /// The path, if it is a file.
        path: Option<PathBuf>,
    },
    /// Its first bytes do not match any known format.
    #[error("{name} is not a supported picture or stream: {begin}")]
    UnknownFormat {
        /// Path or `standard input`.
        name: String,
        /// Human-readable description of its first bytes.
        begin: String,
    },
    /// Pictures cannot be scaled to the requested size.
    #[error("cannot scale pictures to {width}x{height}: {cause}")]
    Size {
        /// Requested width.
        width: u32,
        /// Requested height.
        height: u32,
        /// The cause.
        #[source]
        cause: FrameError,
    },
    /// There is no camera, or none with this index.
    #[error("no camera {}", index.map_or("found".to_owned(), |index| format!("with index {index}")))]
    NoCamera {
        /// The requested index.
        index: Option<u32>,
    },
    /// Another program is using the camera (EBUSY).
    #[error(
        "camera {index} is busy{}",
        if holders.is_empty() { String::new() } else { format!(": {} has it open", holders.join(", ")) }
    )]
    CameraBusy {
        /// The camera.
        index: u32,
        /// The programs that have it open, as far as permissions allow.
        holders: Vec<String>,
    },
    /// The camera may not be opened (EACCES).
    #[error("no permission to open camera {index}")]
    CameraDenied {
        /// The camera.
        index: u32,
    },
    /// The camera was unplugged (ENODEV).
    #[error("camera {index} is gone")]
    CameraGone {
        /// The camera.
        index: u32,
    },
    /// The camera is open, but no frames arrive.
    #[error("camera {index} delivers no frames (waited {waited_s} s)")]
    CameraSilent {
        /// The camera.
        index: u32,
        /// How long the caller waited, in seconds.
        waited_s: u64,
    },
    /// The camera offers no supported format.
    #[error(
        "camera {index} does not offer {}",
        wanted.map_or("YUYV, NV12, YU12, MJPG, RGB3, BGR3 or GREY", PixelFormat::fourcc)
    )]
    CameraFormat {
        /// The camera.
        index: u32,
        /// The required format, if any.
        wanted: Option<PixelFormat>,
    },
    /// The camera's driver or library failed for another reason.
    #[error("camera {index} failed: {cause}")]
    Camera {
        /// The camera.
        index: u32,
        /// The error of the driver or library.
        cause: String,
    },
    /// The list of cameras cannot be read.
    #[error("cannot list cameras: {cause}")]
    ListCameras {
        /// The error of the driver or library.
        cause: String,
    },
}

impl SourceError {
    /// Whether the source cannot deliver any more pictures because its stream cannot be read any further.
    /// All other errors affect one picture, or a camera that may become available again.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Read { .. }
                | Self::Y4mHeader { .. }
                | Self::Y4mTruncated { .. }
                | Self::TooLong { .. }
                | Self::NoCamera { .. }
        )
    }

    /// What the user can do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Open { cause, .. } if cause.kind() == io::ErrorKind::PermissionDenied => {
                "check the file's permissions"
            }
            Self::Open { .. } => "check the path",
            Self::NotAFile { .. } => "use a file, or a directory of pictures",
            Self::Read { .. } => "check the disk or the program that writes the stream",
            Self::Picture { .. } => {
                "open it in an image viewer, and save it again as JPEG or PNG"
            }
            Self::EmptyDirectory { .. } => "put JPEG or PNG pictures into it, or use `pattern`",
            Self::NoReadablePicture { last, .. } => return last.remedy(),
            Self::Y4mHeader { .. } => {
                "write it with `ffmpeg -i INPUT -pix_fmt yuv420p FILE.y4m`, with 8 bits per sample"
            }
            Self::Y4mTruncated { .. } => {
                "write the complete file again; the frames before the incomplete one were used"
            }
            Self::TooLong { .. } => "check the program that writes it: no picture is that large",
            Self::NoKeyframe { intra: 1.., .. } => {
                "encode it with closed GOPs: \
                 `ffmpeg -i INPUT -c:v libx264 -x264-params open-gop=0:keyint=30 out.h264`"
            }
            Self::NoKeyframe { .. } => {
                "write it as Annex B, with SPS and PPS: \
                 `ffmpeg -i INPUT -map 0:v:0 -c copy -bsf:v dump_extra -f h264 out.h264`"
            }
            Self::Undecodable { .. } => {
                "encode it as 4:2:0 with 8 bits, progressive, at most 3840 pixels wide: `ffmpeg -i INPUT -vf \
                 bwdif=deint=interlaced,scale='min(3840,iw)':-2,format=yuv420p -c:v libx264 -profile:v high -g 30 \
                 out.h264`"
            }
            Self::Empty { .. } => "check the program that writes it",
            Self::Foreign { format, path, .. } => return format.remedy(path.as_deref()),
            Self::UnknownFormat { .. } => INSTEAD,
            Self::Size { .. } => "request a size of at least 16x16",
            Self::NoCamera { .. } => {
                "see `orion-peer devices`; without a camera use `--source pattern` or a picture"
            }
            Self::CameraBusy { index, holders } if holders.is_empty() => {
                return format!(
                    "close the program that uses the camera (`sudo fuser -v /dev/video{index}` names \
                     it on Linux), or choose another with `--source camera:N`"
                );
            }
            Self::CameraBusy { .. } => {
                "close that program, or choose another camera with `--source camera:N`"
            }
            Self::CameraDenied { .. } => {
                "allow camera access in the system settings; on Linux join the group `video`"
            }
            Self::CameraGone { .. } => "plug it in again: it is reopened automatically",
            Self::CameraSilent { .. } => {
                "check the camera's switch or cover; unplug it and plug it in again"
            }
            Self::CameraFormat { wanted: Some(_), .. } => {
                "see `orion-peer devices` for the formats of each camera"
            }
            Self::CameraFormat { .. } => "use another camera",
            Self::Camera { .. } | Self::ListCameras { .. } => {
                "see `orion-peer devices`; unplug the camera and plug it in again"
            }
        }
        .to_owned()
    }
}
