//! Finding, choosing and opening cameras.

use std::panic::{AssertUnwindSafe, catch_unwind};

use nokhwa::{
    Camera, NokhwaError,
    utils::{
        ApiBackend, CameraFormat as NokhwaFormat, CameraIndex, CameraInfo, FrameFormat,
        RequestedFormat, RequestedFormatType,
    },
};

use super::SourceError;

/// Pixel formats that are understood, the best first.
const USABLE: [FrameFormat; 6] = [
    FrameFormat::YUYV,
    FrameFormat::NV12,
    FrameFormat::MJPEG,
    FrameFormat::RAWRGB,
    FrameFormat::RAWBGR,
    FrameFormat::GRAY,
];

/// A camera as the system lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// What `camera:N` takes.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Where it is: a device file, a USB path or the system's identifier.
    pub path: String,
    /// What it can deliver, the largest first; empty when it cannot be opened.
    pub formats: Vec<CameraFormat>,
}

/// One format of a camera.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CameraFormat {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Pixel format: YUYV, NV12, MJPEG, RAWRGB, RAWBGR or GRAY.
    pub fourcc: String,
    /// Frames a second.
    pub fps: u32,
}

/// Lists the cameras of this machine with their formats; empty when there is none. Devices that give
/// no pictures, such as metadata nodes, are left out.
///
/// # Errors
/// The system's list cannot be read.
pub fn list_devices() -> Result<Vec<Device>, SourceError> {
    let mut devices = Vec::new();
    for (index, info) in query()? {
        match open_any(index) {
            Ok(mut camera) => {
                let formats = formats(&mut camera);
                devices.push(device(index, &info, &formats));
            }
            // A busy or forbidden camera is one; what cannot be opened otherwise is none.
            Err(SourceError::CameraBusy { .. } | SourceError::CameraDenied { .. }) => {
                devices.push(device(index, &info, &[]));
            }
            Err(error) => tracing::debug!("left out: {error}"),
        }
    }
    Ok(devices)
}

/// The camera to open: the one asked for, or the first that has a usable format.
pub(super) fn choose(index: Option<u32>) -> Result<u32, SourceError> {
    let cameras = query()?;
    if let Some(index) = index {
        let known = cameras.iter().any(|(known, _)| *known == index);
        return if known { Ok(index) } else { Err(SourceError::NoCamera { index: Some(index) }) };
    }
    let mut first_error = None;
    for (index, _) in cameras {
        match open_any(index).map(|mut camera| formats(&mut camera)) {
            Ok(formats) if pick(&formats, (1, 1)).is_some() => return Ok(index),
            Ok(_) => {}
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Err(first_error.unwrap_or(SourceError::NoCamera { index: None }))
}

/// Opens a camera with the format that suits best.
pub(super) fn open(index: u32, wanted: (u32, u32)) -> Result<Camera, SourceError> {
    let mut camera = open_any(index)?;
    let offered = formats(&mut camera);
    let format = pick(&offered, wanted).ok_or(SourceError::CameraFormat { index })?;
    let request = RequestedFormat::with_formats(RequestedFormatType::Exact(format), &USABLE);
    camera.set_camera_requset(request).map_err(|e| classify(index, &e))?;
    Ok(camera)
}

/// Tells the kinds of failure apart that have a remedy of their own.
pub(super) fn classify(index: u32, error: &NokhwaError) -> SourceError {
    let cause = error.to_string();
    let says = |words: &[&str]| words.iter().any(|word| cause.contains(word));
    if says(&["os error 16)", "resource busy", "in use"]) {
        SourceError::CameraBusy { index }
    } else if says(&[
        "os error 19)",
        "os error 2)",
        "os error 6)",
        "No such device",
        "No such file",
    ]) {
        SourceError::CameraGone { index }
    } else if says(&["os error 13)", "os error 1)", "ermission denied", "not permitted"]) {
        SourceError::CameraDenied { index }
    } else {
        SourceError::Camera { index, cause }
    }
}

/// Cameras by index, in order: the system's list is in none.
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

/// macOS asks its user before a program may see cameras.
fn ask_for_access() {
    #[cfg(target_os = "macos")]
    {
        let (tell, told) = std::sync::mpsc::channel();
        nokhwa::nokhwa_initialize(move |allowed| drop(tell.send(allowed)));
        // Without an answer the listing fails by itself, with a message.
        let _ = told.recv_timeout(std::time::Duration::from_secs(60));
    }
}

/// Opens a camera in whatever format it offers first.
fn open_any(index: u32) -> Result<Camera, SourceError> {
    reset_format(index);
    let request = RequestedFormat::with_formats(RequestedFormatType::None, &USABLE);
    let open = || Camera::new(CameraIndex::Index(index), request);
    catch_unwind(AssertUnwindSafe(open))
        .map_err(|panic| SourceError::Camera { index, cause: super::panic_text(panic.as_ref()) })?
        .map_err(|e| classify(index, &e))
}

/// `nokhwa` refuses a device whose *present* state it does not know, and another program may have left
/// one behind: a frame interval that is not 1/n, a pixel format it has no name for. Such a state is
/// replaced first; every failure here shows again, with its cause, when the camera is opened.
#[cfg(target_os = "linux")]
fn reset_format(index: u32) {
    use v4l::{
        Device, FourCC,
        video::{Capture, capture::Parameters},
    };
    const KNOWN: [&[u8; 4]; 6] = [b"YUYV", b"NV12", b"MJPG", b"RGB3", b"BGR3", b"GRAY"];
    let Ok(device) = Device::new(index as usize) else { return };
    let Ok(mut format) = Capture::format(&device) else { return };
    if !KNOWN.contains(&&format.fourcc.repr) {
        let offered = device.enum_formats().unwrap_or_default();
        let usable = KNOWN.iter().find(|known| offered.iter().any(|f| f.fourcc.repr == ***known));
        if let Some(usable) = usable {
            format.fourcc = FourCC::new(usable);
            format.stride = 0;
            let _ = Capture::set_format(&device, &format);
        }
    }
    if Capture::params(&device).is_ok_and(|params| params.interval.numerator != 1) {
        let _ = Capture::set_params(&device, &Parameters::with_fps(30));
    }
}

#[cfg(not(target_os = "linux"))]
fn reset_format(_index: u32) {}

fn formats(camera: &mut Camera) -> Vec<NokhwaFormat> {
    camera.compatible_camera_formats().unwrap_or_default()
}

fn device(index: u32, info: &CameraInfo, formats: &[NokhwaFormat]) -> Device {
    let mut formats: Vec<CameraFormat> = formats
        .iter()
        .map(|format| CameraFormat {
            width: format.width(),
            height: format.height(),
            fourcc: format.format().to_string(),
            fps: format.frame_rate(),
        })
        .collect();
    formats.sort_by(|a, b| b.cmp(a));
    formats.dedup();
    let description = info.description();
    let path = description.rsplit_once("@ ").map_or(description, |(_, path)| path);
    let misc = info.misc();
    let path = if misc.is_empty() { path.to_owned() } else { misc };
    Device { index, name: info.human_name(), path, formats }
}

/// The format whose size is nearest to the wanted one; of those the one that needs the least work,
/// then the one with a frame rate nearest to 30.
fn pick(offered: &[NokhwaFormat], wanted: (u32, u32)) -> Option<NokhwaFormat> {
    let rank = |format: &NokhwaFormat| USABLE.iter().position(|f| *f == format.format());
    let distance = |format: &NokhwaFormat| {
        let (width, height) = (format.width(), format.height());
        // Too small loses detail, too large only time.
        let weight = if width < wanted.0 || height < wanted.1 { 2 } else { 1 };
        weight * (u64::from(width.abs_diff(wanted.0)) + u64::from(height.abs_diff(wanted.1)))
    };
    offered
        .iter()
        .filter(|format| rank(format).is_some() && format.frame_rate() > 0)
        .min_by_key(|format| (distance(format), rank(format), format.frame_rate().abs_diff(30)))
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(width: u32, height: u32, format: FrameFormat, fps: u32) -> NokhwaFormat {
        NokhwaFormat::new_from(width, height, format, fps)
    }

    #[test]
    fn nearest_size_then_least_work() {
        let offered = [
            format(1920, 1080, FrameFormat::MJPEG, 30),
            format(1280, 720, FrameFormat::MJPEG, 30),
            format(1280, 720, FrameFormat::YUYV, 5),
            format(1280, 720, FrameFormat::YUYV, 10),
            format(640, 480, FrameFormat::YUYV, 30),
        ];
        assert_eq!(pick(&offered, (1280, 720)), Some(offered[3]));
        assert_eq!(pick(&offered, (1600, 900)), Some(offered[0]));
        assert_eq!(pick(&offered, (320, 240)), Some(offered[4]));
        assert_eq!(pick(&[], (320, 240)), None);
    }

    #[test]
    fn causes_are_told_apart() {
        let kind = |text: &str| classify(3, &NokhwaError::OpenStreamError(text.to_owned()));
        assert!(matches!(
            kind("Device or resource busy (os error 16)"),
            SourceError::CameraBusy { index: 3 }
        ));
        assert!(matches!(kind("No such device (os error 19)"), SourceError::CameraGone { .. }));
        assert!(matches!(
            kind("Permission denied (os error 13)"),
            SourceError::CameraDenied { .. }
        ));
        let other = kind("Input/output error (os error 5)");
        assert!(other.to_string().contains("os error 5") && !other.remedy().is_empty());
    }
}
