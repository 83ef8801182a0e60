//! Cameras on Linux: V4L2 with mapped buffers
//! (<https://docs.kernel.org/userspace-api/media/v4l/v4l2.html>).
//!
//! Listing a camera does not change its settings. Opening it sets both format and frame interval, so
//! the settings of the program that used it before do not matter.

use std::{
    fs,
    io::{self, ErrorKind},
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    time::{ClockId, clock_gettime},
};
use v4l::{
    Device as Node, Format, FourCC,
    buffer::{Flags, Metadata, Type},
    capability::Flags as Capability,
    format::Description,
    fraction::Fraction,
    frameinterval::FrameIntervalEnum,
    framesize::FrameSizeEnum,
    io::traits::CaptureStream,
    prelude::MmapStream,
    video::{Capture, capture::Parameters},
};

use super::{
    CameraFormat, PixelFormat, SourceError, format, holders,
    stream::{Device, FIRST_FRAME, RawFrame, Stream, USUAL_SIZE, Wanted},
};

/// Number of buffers to request: the usual number for V4L2 programs.
const BUFFERS: u32 = 4;
/// Maximum wait for a frame after the first one, in addition to the frame interval.
const STALLED: Duration = Duration::from_secs(2);
/// The interval assumed for a camera that does not report one.
const UNKNOWN_INTERVAL: (u32, u32) = (1, 30);

/// An open camera that delivers frames.
struct V4l2Stream {
    index: u32,
    name: String,
    format: CameraFormat,
    stride: u32,
    stream: MmapStream<'static>,
    started: bool,
}

/// The cameras of this machine, sorted by index.
pub(super) fn list() -> Result<Vec<Device>, SourceError> {
    let wrong = |e: io::Error| SourceError::ListCameras { cause: format!("/dev: {e}") };
    let mut indices: Vec<u32> = fs::read_dir("/dev")
        .map_err(wrong)?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_prefix("video")?.parse().ok())
        .collect();
    indices.sort_unstable();
    Ok(indices.into_iter().filter_map(look_at).collect())
}

/// Opens a camera with the best format.
pub(super) fn open(index: u32, wanted: Wanted) -> Result<Box<dyn Stream>, SourceError> {
    let node = Node::with_path(path(index)).map_err(|e| failure(index, "open", &e))?;
    let name = node.query_caps().map_err(|e| failure(index, "VIDIOC_QUERYCAP", &e))?.card;
    let mut format = format::choose(&formats(&node), wanted.size, wanted.pixels)
        .ok_or(SourceError::CameraFormat { index, wanted: wanted.pixels })?;
    let asked = Format::new(format.width, format.height, fourcc(format.pixels));
    let set = node.set_format(&asked).map_err(|e| failure(index, "VIDIOC_S_FMT", &e))?;
    if set.fourcc != asked.fourcc {
        let cause = format!("it was set to {}, but delivers {}", asked.fourcc, set.fourcc);
        return Err(SourceError::Camera { index, cause });
    }
    (format.width, format.height) = (set.width, set.height);
    let interval = Fraction::new(format.interval.0, format.interval.1);
    // Not every driver can set the interval.
    match node.set_params(&Parameters::new(interval)) {
        Ok(set) if set.interval.numerator > 0 && set.interval.denominator > 0 => {
            format.interval = (set.interval.numerator, set.interval.denominator);
        }
        Ok(_) => {}
        Err(error) => tracing::debug!("camera {index}: VIDIOC_S_PARM: {error}"),
    }
    let mut stream = MmapStream::with_buffers(&node, Type::VideoCapture, BUFFERS)
        .map_err(|e| failure(index, "VIDIOC_REQBUFS", &e))?;
    stream.set_timeout(FIRST_FRAME);
    let stride = if format.pixels == PixelFormat::Mjpg { 0 } else { set.stride };
    Ok(Box::new(V4l2Stream { index, name, format, stride, stream, started: false }))
}

impl Stream for V4l2Stream {
    fn describe(&self) -> String {
        format!("camera {} ({}), {}", self.index, self.name, self.format)
    }

    fn next(&mut self, mut spare: Vec<u8>) -> Result<RawFrame, SourceError> {
        let index = self.index;
        let started = Instant::now();
        let silent = || SourceError::CameraSilent { index, waited_s: started.elapsed().as_secs() };
        let meta = loop {
            let operation = if self.started { "VIDIOC_DQBUF" } else { "VIDIOC_STREAMON" };
            let (data, meta) = self.stream.next().map_err(|error| match error.kind() {
                ErrorKind::TimedOut => silent(),
                _ => failure(index, operation, &error),
            })?;
            // The driver marks frames that were damaged in transfer.
            if !meta.flags.contains(Flags::ERROR) {
                let used = if meta.bytesused == 0 { data.len() } else { meta.bytesused as usize };
                spare.clear();
                spare.extend_from_slice(&data[..used.min(data.len())]);
                break *meta;
            }
            if started.elapsed() > FIRST_FRAME {
                return Err(silent());
            }
        };
        if !self.started {
            self.started = true;
            let interval = Duration::from_secs_f64(1.0 / self.format.fps().clamp(0.01, 1000.0));
            self.stream.set_timeout(STALLED + interval);
        }
        Ok(RawFrame {
            width: self.format.width,
            height: self.format.height,
            pixels: self.format.pixels,
            stride: self.stride,
            data: spare,
            age: age(&meta),
        })
    }
}

fn path(index: u32) -> String {
    format!("/dev/video{index}")
}

fn fourcc(pixels: PixelFormat) -> FourCC {
    FourCC { repr: pixels.fourcc().as_bytes().try_into().expect("a FourCC has four letters") }
}

/// Age of a frame according to its timestamp; zero when the timestamp is not from the monotonic clock.
fn age(meta: &Metadata) -> Duration {
    if !meta.flags.contains(Flags::TIMESTAMP_MONOTONIC) {
        return Duration::ZERO;
    }
    let now = clock_gettime(ClockId::Monotonic);
    let now = Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32);
    now.saturating_sub(Duration::from(meta.timestamp))
}

/// Classifies failures by their remedies.
fn failure(index: u32, operation: &str, error: &io::Error) -> SourceError {
    match Errno::from_io_error(error) {
        Some(Errno::BUSY) => {
            SourceError::CameraBusy { index, holders: holders::of(path(index).as_ref()) }
        }
        Some(Errno::NODEV | Errno::NXIO | Errno::NOENT) => SourceError::CameraGone { index },
        Some(Errno::ACCESS | Errno::PERM) => SourceError::CameraDenied { index },
        _ => SourceError::Camera { index, cause: format!("{operation}: {error}") },
    }
}

/// Queries a device file; `None` when it is not a camera, such as a metadata node.
fn look_at(index: u32) -> Option<Device> {
    let path = path(index);
    let mut device = Device {
        index,
        name: fs::read_to_string(format!("/sys/class/video4linux/video{index}/name"))
            .map_or_else(|_| path.clone(), |name| name.trim().to_owned()),
        bus: String::new(),
        formats: Vec::new(),
        used_by: holders::of(path.as_ref()),
        error: None,
        path,
    };
    let looked = Node::with_path(&device.path).and_then(|node| Ok((node.query_caps()?, node)));
    match looked {
        Ok((caps, node)) => {
            let needed = Capability::VIDEO_CAPTURE | Capability::STREAMING;
            if !caps.capabilities.contains(needed) {
                return None;
            }
            device.formats = formats(&node);
            (device.name, device.bus) = (caps.card, caps.bus);
        }
        Err(error) => match failure(index, "open", &error) {
            SourceError::CameraGone { .. } => return None,
            other => device.error = Some(other.to_string()),
        },
    }
    Some(device)
}

/// The supported formats that a camera offers.
fn formats(node: &Node) -> Vec<CameraFormat> {
    let mut found = Vec::new();
    for Description { fourcc, .. } in node.enum_formats().unwrap_or_default() {
        let Some(pixels) = fourcc.str().ok().and_then(|name| name.parse::<PixelFormat>().ok())
        else {
            continue;
        };
        for size in node.enum_framesizes(fourcc).unwrap_or_default() {
            for (width, height) in sizes(&size.size) {
                let offered = node.enum_frameintervals(fourcc, width, height).unwrap_or_default();
                let mut intervals: Vec<(u32, u32)> =
                    offered.iter().flat_map(|offer| intervals(&offer.interval)).collect();
                if intervals.is_empty() {
                    intervals.push(UNKNOWN_INTERVAL);
                }
                found.extend(intervals.into_iter().map(|interval| CameraFormat {
                    width,
                    height,
                    pixels,
                    interval,
                }));
            }
        }
    }
    format::sort(&mut found);
    found
}

/// The sizes of an entry; for a range, the usual sizes in it and its ends.
fn sizes(offer: &FrameSizeEnum) -> Vec<(u32, u32)> {
    let range = match offer {
        FrameSizeEnum::Discrete(size) => return vec![(size.width, size.height)],
        FrameSizeEnum::Stepwise(range) => range,
    };
    let usual = [USUAL_SIZE, (320, 240), (640, 360), (640, 480), (1920, 1080), (3840, 2160)];
    let fits = |side: u32, min: u32, max: u32, step: u32| {
        (min..=max).contains(&side) && (side - min).is_multiple_of(step.max(1))
    };
    let inside = usual.into_iter().filter(|(width, height)| {
        fits(*width, range.min_width, range.max_width, range.step_width)
            && fits(*height, range.min_height, range.max_height, range.step_height)
    });
    let ends = [(range.min_width, range.min_height), (range.max_width, range.max_height)];
    inside.chain(ends).collect()
}

/// The intervals of an entry; for a range, its ends, and 1/30 s if it lies between them.
fn intervals(offer: &FrameIntervalEnum) -> Vec<(u32, u32)> {
    let pair = |fraction: &Fraction| (fraction.numerator, fraction.denominator);
    let found = match offer {
        FrameIntervalEnum::Discrete(interval) => vec![pair(interval)],
        FrameIntervalEnum::Stepwise(range) => {
            let seconds = |(n, d): (u32, u32)| f64::from(n) / f64::from(d);
            let (min, max) = (pair(&range.min), pair(&range.max));
            let middle = (1, 30);
            let between = (seconds(min)..=seconds(max)).contains(&seconds(middle));
            [min, max].into_iter().chain(between.then_some(middle)).collect()
        }
    };
    found
        .into_iter()
        .filter(|(numerator, denominator)| *numerator > 0 && *denominator > 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use v4l::{frameinterval, framesize};

    use super::*;

    #[test]
    fn failures_are_classified() {
        let kind = |errno: Errno| failure(4711, "VIDIOC_S_FMT", &errno.into());
        assert!(matches!(kind(Errno::BUSY), SourceError::CameraBusy { index: 4711, .. }));
        assert!(matches!(kind(Errno::NODEV), SourceError::CameraGone { .. }));
        assert!(matches!(kind(Errno::ACCESS), SourceError::CameraDenied { .. }));
        let other = kind(Errno::IO);
        assert!(other.to_string().contains("VIDIOC_S_FMT: Input/output error"), "{other}");
    }

    #[test]
    fn a_range_of_sizes_yields_the_usual_sizes_and_its_ends() {
        let range = framesize::Stepwise {
            min_width: 32,
            max_width: 1920,
            step_width: 16,
            min_height: 32,
            max_height: 1080,
            step_height: 4,
        };
        let sizes = sizes(&FrameSizeEnum::Stepwise(range));
        assert!(sizes.contains(&(1280, 720)) && sizes.contains(&(32, 32)));
        assert!(sizes.contains(&(1920, 1080)) && !sizes.contains(&(3840, 2160)));
    }

    #[test]
    fn a_range_of_intervals_yields_30_fps_and_its_ends() {
        let range = |min: (u32, u32), max: (u32, u32)| {
            intervals(&FrameIntervalEnum::Stepwise(frameinterval::Stepwise {
                min: Fraction::new(min.0, min.1),
                max: Fraction::new(max.0, max.1),
                step: Fraction::new(1, 1),
            }))
        };
        assert_eq!(range((1, 60), (1, 1)), [(1, 60), (1, 1), (1, 30)]);
        assert_eq!(range((1, 15), (1, 5)), [(1, 15), (1, 5)]);
        assert_eq!(range((0, 0), (1, 5)), [(1, 5)]);
    }
}
