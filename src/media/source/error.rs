//! What can go wrong with a source, and what to try.

use std::{io, path::PathBuf};

use super::{
    super::{decoder::DecodeError, frame::FrameError},
    camera::PixelFormat,
    foreign::{Foreign, INSTEAD},
};

/// Why a source gives no picture. `name` is a path, or `standard input`.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A file or directory cannot be opened.
    #[error("cannot open {}: {cause}", path.display())]
    Open {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        #[source]
        cause: io::Error,
    },
    /// It is there, but of the wrong kind, such as a directory with the name of a picture.
    #[error("cannot read {}: it is not a regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// Reading stopped.
    #[error("cannot read {name}: {cause}")]
    Read {
        /// What was read.
        name: String,
        /// Why it stopped.
        #[source]
        cause: io::Error,
    },
    /// A picture cannot be decoded.
    #[error("cannot decode the picture {name}: {cause}")]
    Picture {
        /// What was read.
        name: String,
        /// What the decoder said.
        cause: String,
    },
    /// A directory holds no pictures.
    #[error("no picture (JPEG, PNG or WebP) in {}", path.display())]
    EmptyDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// A directory's pictures are all unreadable.
    #[error("none of the {count} pictures in {} can be read; the last: {last}", path.display())]
    NoReadablePicture {
        /// The directory.
        path: PathBuf,
        /// How many were tried.
        count: usize,
        /// What was wrong with the last one.
        last: Box<SourceError>,
    },
    /// The header of a y4m stream makes no sense.
    #[error("{name} is not a valid y4m stream: {cause}")]
    Y4mHeader {
        /// What was read.
        name: String,
        /// What is wrong.
        cause: String,
    },
    /// A y4m stream ends in the middle of a frame.
    #[error("{name} is cut off in frame {frame}: {got} of {expected} bytes")]
    Y4mTruncated {
        /// What was read.
        name: String,
        /// The frame's number, from 1.
        frame: u64,
        /// Bytes of it that are there.
        got: usize,
        /// Bytes a frame has.
        expected: usize,
    },
    /// An H.264 stream holds no IDR picture with its parameter sets.
    #[error(
        "no keyframe (IDR picture with SPS and PPS) in {name}{}",
        match intra {
            0 => String::new(),
            1 => ": its only intra picture is not an IDR picture (open GOP)".to_owned(),
            _ => format!(": none of its {intra} intra pictures is an IDR picture (open GOP)"),
        }
    )]
    NoKeyframe {
        /// What was read.
        name: String,
        /// Intra pictures that are not IDR pictures.
        intra: u64,
    },
    /// The keyframes of an H.264 stream are of a kind that the decoder does not take.
    #[error("{name} cannot be decoded: {cause}")]
    Undecodable {
        /// What was read.
        name: String,
        /// Why not.
        #[source]
        cause: DecodeError,
    },
    /// A stream holds something longer than any picture.
    #[error("{name} holds {bytes} bytes without a complete picture")]
    TooLong {
        /// What was read.
        name: String,
        /// Bytes held when it was given up.
        bytes: usize,
    },
    /// A file or a stream is empty.
    #[error("{name} is empty")]
    Empty {
        /// What was read.
        name: String,
    },
    /// It is of a known format that is not read here.
    #[error("{name} is not a picture or stream orion-peer knows: it looks like {}", format.name)]
    Foreign {
        /// What was read.
        name: String,
        /// What it looks like.
        format: &'static Foreign,
        /// The file, if it is one.
        path: Option<PathBuf>,
    },
    /// Its first bytes are those of no known format.
    #[error("{name} is not a picture or stream orion-peer knows: {begin}")]
    UnknownFormat {
        /// What was read.
        name: String,
        /// What it begins with, in words.
        begin: String,
    },
    /// Pictures of the wanted size cannot be made.
    #[error("cannot scale pictures to {width}x{height}: {cause}")]
    Size {
        /// Width wanted.
        width: u32,
        /// Height wanted.
        height: u32,
        /// Why not.
        #[source]
        cause: FrameError,
    },
    /// There is no camera, or none with this index.
    #[error("no camera {}", index.map_or("found".to_owned(), |index| format!("with index {index}")))]
    NoCamera {
        /// The index asked for.
        index: Option<u32>,
    },
    /// Another program has the camera (EBUSY).
    #[error(
        "camera {index} is busy{}",
        if holders.is_empty() { String::new() } else { format!(": {} has it open", holders.join(", ")) }
    )]
    CameraBusy {
        /// The camera.
        index: u32,
        /// The programs that have it open, as far as may be seen.
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
    #[error("camera {index} gives no frames (waited {waited_s} s)")]
    CameraSilent {
        /// The camera.
        index: u32,
        /// How long was waited, in seconds.
        waited_s: u64,
    },
    /// The camera has no format that can be used here.
    #[error(
        "camera {index} does not offer {}",
        wanted.map_or("YUYV, NV12, YU12, MJPG, RGB3, BGR3 or GREY", PixelFormat::fourcc)
    )]
    CameraFormat {
        /// The camera.
        index: u32,
        /// The only format that was to be taken.
        wanted: Option<PixelFormat>,
    },
    /// The camera's driver or library failed otherwise.
    #[error("camera {index} failed: {cause}")]
    Camera {
        /// The camera.
        index: u32,
        /// What was said.
        cause: String,
    },
    /// The list of cameras cannot be read.
    #[error("cannot list cameras: {cause}")]
    ListCameras {
        /// What was said.
        cause: String,
    },
}

impl SourceError {
    /// Whether nothing more can come from a source that has given pictures: its stream cannot be read on.
    /// Everything else is about one picture, or about a camera that may come back.
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

    /// What to try.
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
                "write it with `ffmpeg -i INPUT -pix_fmt yuv420p FILE.y4m`, 8 bits a sample"
            }
            Self::Y4mTruncated { .. } => {
                "the frames before it were used; write the file again, complete"
            }
            Self::TooLong { .. } => "check the program that writes it: no picture is that long",
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
            Self::CameraGone { .. } => "plug it in again: it is reopened as soon as it is back",
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
