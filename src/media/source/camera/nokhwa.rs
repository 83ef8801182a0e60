//! Cameras on macOS and Windows: `AVFoundation` and Media Foundation through the library `nokhwa`.
//!
//! On Linux this is built only for tests, to keep it compiling. It is not used there, because `nokhwa`
//! waits for a frame without a timeout, changes a camera's settings when it lists it, and rejects a
//! camera in a state it does not know.
#![cfg_attr(target_os = "linux", allow(dead_code))]

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, SystemTime},
};

use nokhwa::{
    Buffer, Camera, NokhwaError,
    utils::{
        ApiBackend, CameraFormat as NokhwaFormat, CameraIndex, CameraInfo, FrameFormat,
        RequestedFormat, RequestedFormatType,
    },
};

use super::{
    CameraFormat, PixelFormat, SourceError, format, panic_text,
    stream::{Device, RawFrame, Stream, Wanted},
};

/// The library's names of the pixel formats.
const USABLE: [(FrameFormat, PixelFormat); 6] = [
    (FrameFormat::YUYV, PixelFormat::Yuyv),
    (FrameFormat::NV12, PixelFormat::Nv12),
    (FrameFormat::MJPEG, PixelFormat::Mjpg),
    (FrameFormat::RAWRGB, PixelFormat::Rgb3),
    (FrameFormat::RAWBGR, PixelFormat::Bgr3),
    (FrameFormat::GRAY, PixelFormat::Grey),
];

/// The library's names only.
const USABLE_FORMATS: [FrameFormat; 6] = [
    FrameFormat::YUYV,
    FrameFormat::NV12,
    FrameFormat::MJPEG,
    FrameFormat::RAWRGB,
    FrameFormat::RAWBGR,
    FrameFormat::GRAY,
];

/// Timestamps according to which a frame is older than this are ignored.
const PLAUSIBLE_AGE: Duration = Duration::from_secs(10);

/// An open camera that delivers frames.
struct NokhwaStream {
    index: u32,
    camera: Camera,
    format: CameraFormat,
}

/// The cameras of this machine, sorted by index.
pub(super) fn list() -> Result<Vec<Device>, SourceError> {
    let mut devices = Vec::new();
    for (index, info) in query()? {
        match open_any(index) {
            Ok(mut camera) => devices.push(device(index, &info, formats(&mut camera), None)),
            // A busy camera, or one without permission, is still a camera; other devices that cannot
            // be opened are not.
            Err(error @ (SourceError::CameraBusy { .. } | SourceError::CameraDenied { .. })) => {
                devices.push(device(index, &info, Vec::new(), Some(error.to_string())));
            }
            Err(error) => tracing::debug!("not listed: {error}"),
        }
    }
    Ok(devices)
}

/// Opens a camera with the best format.
pub(super) fn open(index: u32, wanted: Wanted) -> Result<Box<dyn Stream>, SourceError> {
    let wrong = |e: NokhwaError| classify(index, &e);
    let mut camera = open_any(index)?;
    let format = format::choose(&formats(&mut camera), wanted.size, wanted.pixels)
        .ok_or(SourceError::CameraFormat { index, wanted: wanted.pixels })?;
    let (library, _) = USABLE
        .into_iter()
        .find(|(_, ours)| *ours == format.pixels)
        .ok_or(SourceError::CameraFormat { index, wanted: wanted.pixels })?;
    // `Closest` fails when the exact size has no entry.
    let exact = NokhwaFormat::new_from(format.width, format.height, library, format.interval.1);
    let request = RequestedFormat::with_formats(RequestedFormatType::Exact(exact), &USABLE_FORMATS);
    camera.set_camera_requset(request).map_err(wrong)?;
    camera.open_stream().map_err(wrong)?;
    Ok(Box::new(NokhwaStream { index, camera, format }))
}

impl Stream for NokhwaStream {
    fn describe(&self) -> String {
        format!("camera {} ({}), {}", self.index, self.camera.info().human_name(), self.format)
    }

    fn next(&mut self, mut spare: Vec<u8>) -> Result<RawFrame, SourceError> {
        let buffer = self.camera.frame().map_err(|e| classify(self.index, &e))?;
        spare.clear();
        spare.extend_from_slice(buffer.buffer());
        Ok(RawFrame {
            width: buffer.resolution().width(),
            height: buffer.resolution().height(),
            pixels: self.format.pixels,
            stride: 0,
            data: spare,
            age: age(&buffer),
        })
    }
}

/// Age of a frame according to its timestamp; zero when it has no plausible timestamp.
fn age(buffer: &Buffer) -> Duration {
    buffer
        .capture_timestamp()
        .and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since))
        .and_then(|at| SystemTime::now().duration_since(at).ok())
        .filter(|age| *age < PLAUSIBLE_AGE)
        .unwrap_or_default()
}

/// Classifies failures by their remedies.
fn classify(index: u32, error: &NokhwaError) -> SourceError {
    let cause = error.to_string();
    let says = |words: &[&str]| words.iter().any(|word| cause.contains(word));
    if says(&["resource busy", "in use"]) {
        SourceError::CameraBusy { index, holders: Vec::new() }
    } else if says(&["No such device", "No such file", "disconnected"]) {
        SourceError::CameraGone { index }
    } else if says(&["ermission denied", "not permitted", "denied"]) {
        SourceError::CameraDenied { index }
    } else {
        SourceError::Camera { index, cause }
    }
}

/// Cameras sorted by index: the library's list has no defined order.
fn query() -> Result<Vec<(u32, CameraInfo)>, SourceError> {
    ask_for_access();
    let wrong = |cause: String| SourceError::ListCameras { cause };
    let list = catch_unwind(AssertUnwindSafe(|| nokhwa::query(ApiBackend::Auto)))
        .map_err(|_| wrong("the camera library panicked".to_owned()))?
        .map_err(|e| wrong(e.to_string()))?;
    let mut cameras: Vec<(u32, CameraInfo)> =
        list.into_iter().filter_map(|info| Some((info.index().as_index().ok()?, info))).collect();
    cameras.sort_by_key(|(index, _)| *index);
    cameras.dedup_by_key(|(index, _)| *index);
    Ok(cameras)
}

/// macOS asks the user before a program may access cameras.
fn ask_for_access() {
    #[cfg(target_os = "macos")]
    {
        let (answer, answered) = std::sync::mpsc::channel();
        nokhwa::nokhwa_initialize(move |allowed| drop(answer.send(allowed)));
        // Without an answer, listing the cameras fails with its own message.
        let _ = answered.recv_timeout(Duration::from_mins(1));
    }
}

/// Opens a camera in whatever format it offers first.
fn open_any(index: u32) -> Result<Camera, SourceError> {
    let request = RequestedFormat::with_formats(RequestedFormatType::None, &USABLE_FORMATS);
    let open = || Camera::new(CameraIndex::Index(index), request);
    catch_unwind(AssertUnwindSafe(open))
        .map_err(|panic| SourceError::Camera { index, cause: panic_text(panic.as_ref()) })?
        .map_err(|e| classify(index, &e))
}

fn formats(camera: &mut Camera) -> Vec<CameraFormat> {
    let mut found: Vec<CameraFormat> = camera
        .compatible_camera_formats()
        .unwrap_or_default()
        .iter()
        .filter_map(|offered| {
            let (_, pixels) = USABLE.into_iter().find(|(name, _)| *name == offered.format())?;
            let (width, height) = (offered.width(), offered.height());
            let interval = (1, offered.frame_rate());
            (interval.1 > 0).then_some(CameraFormat { width, height, pixels, interval })
        })
        .collect();
    format::sort(&mut found);
    found
}

fn device(
    index: u32,
    info: &CameraInfo,
    formats: Vec<CameraFormat>,
    error: Option<String>,
) -> Device {
    // The system's identifier of the device.
    let bus = info.misc();
    let path = if bus.is_empty() { info.description().to_owned() } else { bus.clone() };
    Device { index, name: info.human_name(), path, bus, formats, used_by: Vec::new(), error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_classified() {
        let kind = |text: &str| classify(3, &NokhwaError::OpenStreamError(text.to_owned()));
        assert!(matches!(kind("Device or resource busy"), SourceError::CameraBusy { .. }));
        assert!(matches!(kind("No such device"), SourceError::CameraGone { index: 3 }));
        assert!(matches!(kind("Permission denied"), SourceError::CameraDenied { .. }));
        let other = kind("Input/output error");
        assert!(other.to_string().contains("Input/output") && !other.remedy().is_empty());
    }

    #[test]
    fn every_usable_format_is_requested() {
        assert_eq!(USABLE.map(|(name, _)| name), USABLE_FORMATS);
    }
}
