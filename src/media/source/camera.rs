//! A camera: V4L2 on Linux, `AVFoundation` and Media Foundation elsewhere.
//!
//! Frames are as recent as the camera allows: a thread reads the camera continuously ([`reader`]),
//! and a frame that is too old when one is requested is skipped in favor of the next one. Only
//! requested frames are converted to I420.

mod convert;
mod format;
#[cfg(target_os = "linux")]
mod holders;
#[cfg(any(not(target_os = "linux"), test))]
mod nokhwa;
mod reader;
mod stream;
#[cfg(target_os = "linux")]
mod v4l2;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

#[cfg(not(target_os = "linux"))]
use self::nokhwa as system;
#[cfg(target_os = "linux")]
use self::v4l2 as system;
pub use self::{
    format::{CameraFormat, PixelFormat},
    stream::Device,
};
use self::{
    reader::{Arrived, Shared, State},
    stream::{FIRST_FRAME, USUAL_SIZE, Wanted},
};
use super::{Captured, Source, SourceError, SourceOptions};
use crate::media::frame::Frame;

/// How long a call waits for a frame: longer than the driver's own timeout, because the driver
/// reports the cause.
const WAIT: Duration = FIRST_FRAME.saturating_add(Duration::from_secs(1));
/// A frame older than this is skipped in favor of the next one.
const FRESH: Duration = Duration::from_millis(100);
/// Maximum wait for such a recent frame; after that, any frame received since the call is accepted.
const PATIENCE: Duration = Duration::from_secs(1);
/// Number of consecutive broken frames that count as an error.
const BROKEN: u32 = 3;

/// Which camera, and the requested format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CameraSpec {
    /// Its index as listed by `devices`; `None` for the first camera that can be opened.
    pub index: Option<u32>,
    /// The required pixel format; `None` for the best one.
    pub pixels: Option<PixelFormat>,
}

/// The newest frames of a camera.
pub(super) struct CameraSource {
    shared: Arc<Shared>,
    options: SourceOptions,
    /// Number of the last frame returned.
    given: u64,
    /// Time spent converting that frame.
    convert_time: Duration,
}

/// Lists the cameras of this machine with their formats; empty when there are none. Devices that
/// deliver no pictures, such as metadata nodes, are omitted.
///
/// # Errors
/// The system's list cannot be read.
pub fn list_devices() -> Result<Vec<Device>, SourceError> {
    catch_unwind(AssertUnwindSafe(system::list))
        .unwrap_or_else(|panic| Err(SourceError::ListCameras { cause: panic_text(panic.as_ref()) }))
}

impl CameraSource {
    /// Starts capturing and waits for the first frame.
    pub(super) fn open(spec: CameraSpec, options: SourceOptions) -> Result<Self, SourceError> {
        let shared = Arc::new(Shared::default());
        let wanted = Wanted { size: options.size.unwrap_or(USUAL_SIZE), pixels: spec.pixels };
        reader::start(spec, wanted, &shared)?;
        let source = Self { shared, options, given: 0, convert_time: Duration::ZERO };
        let mut state = source.shared.wait(WAIT, |s| s.newest.is_some() || s.failure.is_some());
        if let Some(failure) = state.failure.take() {
            return Err(failure);
        }
        if state.newest.is_none() {
            return Err(silent(&state));
        }
        drop(state);
        Ok(source)
    }

    /// The newest frame, or the next one if the newest is not recent enough.
    fn newest(&mut self) -> Result<Arrived, SourceError> {
        let (started, given) = (Instant::now(), self.given);
        let before = self.shared.lock().frames;
        let fresh = |state: &State| {
            state.newest.as_ref().is_some_and(|new| {
                let is_new = new.captured.elapsed() <= FRESH;
                // The frames of this camera may all be old when they arrive.
                let will_do = new.number > before && started.elapsed() >= PATIENCE;
                new.number > given && (is_new || will_do)
            })
        };
        let mut state = self.shared.wait(WAIT, |state| fresh(state) || state.failure.is_some());
        if !fresh(&state) {
            // Remove the failure, so that the next call waits for the camera to become available
            // again.
            let failure = state.failure.take();
            return Err(failure.unwrap_or_else(|| silent(&state)));
        }
        let arrived = state.newest.take().expect("a fresh frame is there");
        drop(state);
        self.given = arrived.number;
        Ok(arrived)
    }
}

impl Source for CameraSource {
    fn describe(&self) -> String {
        self.shared.lock().description.clone()
    }

    fn next(&mut self) -> Result<Option<Captured>, SourceError> {
        let mut tries = 0;
        loop {
            let arrived = self.newest()?;
            let started = Instant::now();
            match converted(&arrived) {
                Ok(frame) => {
                    let frame = self.options.apply(frame)?;
                    self.convert_time = started.elapsed();
                    return Ok(Some(Captured::Frame(frame)));
                }
                Err(cause) if tries + 1 == BROKEN => {
                    let index = self.shared.lock().index;
                    return Err(SourceError::Camera { index, cause });
                }
                Err(cause) => tracing::debug!("broken frame: {cause}"),
            }
            tries += 1;
        }
    }

    fn convert_time(&self) -> Duration {
        self.convert_time
    }
}

impl Drop for CameraSource {
    /// Asks the thread to end without waiting for it: otherwise a camera that hangs would block its
    /// user, too.
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
    }
}

fn silent(state: &State) -> SourceError {
    SourceError::CameraSilent { index: state.index, waited_s: WAIT.as_secs() }
}

/// Converts a frame; picture decoders may panic on malformed data from a camera.
fn converted(arrived: &Arrived) -> Result<Frame, String> {
    let convert = || convert::to_frame(&arrived.raw, arrived.captured_at);
    catch_unwind(AssertUnwindSafe(convert)).unwrap_or_else(|panic| Err(panic_text(panic.as_ref())))
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    format!("the camera library panicked: {}", text.unwrap_or("no message"))
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::{stream::RawFrame, *};

    fn source(shared: &Arc<Shared>) -> CameraSource {
        CameraSource {
            shared: Arc::clone(shared),
            options: SourceOptions::default(),
            given: 0,
            convert_time: Duration::ZERO,
        }
    }

    fn raw(luma: u8, age: Duration) -> RawFrame {
        let data = [luma, 128].repeat(4);
        RawFrame { width: 2, height: 2, pixels: PixelFormat::Yuyv, stride: 0, data, age }
    }

    fn arrive(shared: &Shared, luma: u8) {
        shared.arrive(raw(luma, Duration::ZERO));
    }

    fn luma(camera: &mut CameraSource) -> u8 {
        let Ok(Some(Captured::Frame(frame))) = camera.next() else { panic!("no frame") };
        frame.y[0]
    }

    #[test]
    fn only_the_newest_frame_is_returned_and_only_once() {
        let shared = Arc::new(Shared::default());
        let mut camera = source(&shared);
        arrive(&shared, 1);
        arrive(&shared, 2);
        assert_eq!(luma(&mut camera), 2);
        let later = Arc::clone(&shared);
        let thread = thread::spawn(move || arrive(&later, 3));
        assert_eq!(luma(&mut camera), 3);
        thread.join().unwrap();
    }

    #[test]
    fn an_old_frame_is_skipped_in_favor_of_the_next() {
        let shared = Arc::new(Shared::default());
        let mut camera = source(&shared);
        shared.arrive(raw(1, 2 * FRESH));
        let later = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            arrive(&later, 2);
        });
        assert_eq!(luma(&mut camera), 2);
        thread.join().unwrap();
    }

    #[test]
    fn a_camera_with_only_old_frames_returns_one_received_since_the_call() {
        let shared = Arc::new(Shared::default());
        let mut camera = source(&shared);
        let later = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            for number in 1..=13 {
                later.arrive(raw(number, 2 * FRESH));
                thread::sleep(FRESH);
            }
        });
        assert!(luma(&mut camera) > 1);
        thread.join().unwrap();
    }

    #[test]
    fn one_broken_frame_is_skipped_and_several_are_an_error() {
        let shared = Arc::new(Shared::default());
        let mut camera = source(&shared);
        let broken = || RawFrame { data: vec![1], ..raw(0, Duration::ZERO) };
        let later = Arc::clone(&shared);
        shared.arrive(broken());
        let thread = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            arrive(&later, 9);
        });
        assert_eq!(luma(&mut camera), 9);
        thread.join().unwrap();
        let later = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            for _ in 0..2 * BROKEN {
                later.arrive(broken());
                thread::sleep(Duration::from_millis(20));
            }
        });
        assert!(matches!(camera.next(), Err(SourceError::Camera { .. })));
        thread.join().unwrap();
    }

    #[test]
    fn a_failure_is_reported_once_and_later_frames_are_returned() {
        let shared = Arc::new(Shared::default());
        let mut camera = source(&shared);
        shared.lock().failure = Some(SourceError::CameraGone { index: 7 });
        assert!(matches!(camera.next(), Err(SourceError::CameraGone { index: 7 })));
        arrive(&shared, 4);
        assert_eq!(luma(&mut camera), 4);
    }
}
