//! A camera (V4L2, `AVFoundation`, Media Foundation through `nokhwa`).
//!
//! Drivers queue frames: one that is asked only now and then hands out old ones. So a thread of its own
//! takes every frame as it comes and keeps the newest; the conversion to I420 happens only for frames
//! that are asked for. The thread opens the camera anew, with growing pauses, whenever it fails.

mod convert;
mod device;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime},
};

use nokhwa::{Buffer, Camera};

pub use self::device::{CameraFormat, Device, list_devices};
use super::{Captured, Source, SourceError, SourceOptions};

/// How long a call waits for a frame.
const WAIT: Duration = Duration::from_secs(5);
/// A frame older than this is not given, a newer one is waited for.
const MAX_AGE: Duration = Duration::from_secs(2);
/// Pauses between attempts to open the camera anew.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// Picture size asked for when none is wanted.
const USUAL_SIZE: (u32, u32) = (1280, 720);

/// The newest frames of a camera.
pub(super) struct CameraSource {
    index: u32,
    shared: Arc<Shared>,
    options: SourceOptions,
    /// Number of the frame given last.
    given: u64,
    /// Time the conversion of that one took.
    convert_time: Duration,
    description: String,
}

/// What the capture thread and its user share.
#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    newest: Option<Arrived>,
    frames: u64,
    /// Why there are no frames, until there are some.
    failure: Option<SourceError>,
    description: String,
    stop: bool,
}

struct Arrived {
    buffer: Buffer,
    number: u64,
    at: Instant,
    captured_at: SystemTime,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `done` or the time is over.
    fn wait(&self, time: Duration, done: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        self.changed
            .wait_timeout_while(self.lock(), time, |state| !done(state))
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }
}

impl CameraSource {
    /// Starts capturing and waits for the first frame.
    pub(super) fn open(index: Option<u32>, options: SourceOptions) -> Result<Self, SourceError> {
        let index = device::choose(index)?;
        let shared = Arc::new(Shared::default());
        let thread_shared = Arc::clone(&shared);
        let wanted = options.size.unwrap_or(USUAL_SIZE);
        thread::Builder::new()
            .name(format!("camera {index}"))
            .spawn(move || capture(index, wanted, &thread_shared))
            .map_err(|e| SourceError::Camera { index, cause: e.to_string() })?;
        let mut source = Self {
            index,
            shared,
            options,
            given: 0,
            convert_time: Duration::ZERO,
            description: String::new(),
        };
        let mut state = source.shared.wait(WAIT, |s| s.newest.is_some() || s.failure.is_some());
        if let Some(failure) = state.failure.take() {
            return Err(failure);
        }
        if state.newest.is_none() {
            return Err(SourceError::CameraSilent { index, waited_s: WAIT.as_secs() });
        }
        let description = state.description.clone();
        drop(state);
        source.description = description;
        Ok(source)
    }
}

impl Source for CameraSource {
    fn describe(&self) -> String {
        self.description.clone()
    }

    fn next(&mut self) -> Result<Option<Captured>, SourceError> {
        let given = self.given;
        let fresh = |state: &State| {
            state
                .newest
                .as_ref()
                .is_some_and(|new| new.number > given && new.at.elapsed() < MAX_AGE)
        };
        let mut state = self.shared.wait(WAIT, |state| fresh(state) || state.failure.is_some());
        if !fresh(&state) {
            let index = self.index;
            let silent = SourceError::CameraSilent { index, waited_s: WAIT.as_secs() };
            // Taken, so that the next call waits for the camera to come back.
            return Err(state.failure.take().unwrap_or(silent));
        }
        let arrived = state.newest.take().expect("a fresh frame is there");
        drop(state);
        self.given = arrived.number;
        let begun = Instant::now();
        let frame = convert::to_frame(self.index, &arrived.buffer, arrived.captured_at)?;
        let frame = self.options.apply(frame)?;
        self.convert_time = begun.elapsed();
        Ok(Some(Captured::Frame(frame)))
    }

    fn convert_time(&self) -> Duration {
        self.convert_time
    }
}

impl Drop for CameraSource {
    /// Tells the thread to end. It is not waited for: a camera that hangs would hang its user, too.
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
    }
}

/// Body of the capture thread.
fn capture(index: u32, wanted: (u32, u32), shared: &Shared) {
    let mut pause = BACK_OFF.0;
    while !shared.lock().stop {
        let before = shared.lock().frames;
        // The library panics on some devices and data; that must not take the program with it.
        let run = catch_unwind(AssertUnwindSafe(|| run_once(index, wanted, shared)));
        let failure = match run {
            Ok(Ok(())) => return,
            Ok(Err(failure)) => failure,
            Err(panic) => SourceError::Camera { index, cause: panic_text(panic.as_ref()) },
        };
        let mut state = shared.lock();
        tracing::debug!("{failure}");
        state.failure = Some(failure);
        if state.frames > before {
            pause = BACK_OFF.0;
        }
        drop(state);
        shared.changed.notify_all();
        drop(shared.wait(pause, |state| state.stop));
        pause = (pause * 2).min(BACK_OFF.1);
    }
}

/// Opens the camera and takes frames until it fails (`Err`) or nobody wants them (`Ok`).
fn run_once(index: u32, wanted: (u32, u32), shared: &Shared) -> Result<(), SourceError> {
    let mut camera = device::open(index, wanted)?;
    let wrong = |e: nokhwa::NokhwaError| device::classify(index, &e);
    camera.open_stream().map_err(wrong)?;
    shared.lock().description = describe(index, &camera);
    loop {
        let buffer = camera.frame().map_err(wrong)?;
        let captured_at = capture_time(&buffer);
        let mut state = shared.lock();
        if state.stop {
            return Ok(());
        }
        state.frames += 1;
        state.failure = None;
        let number = state.frames;
        state.newest = Some(Arrived { buffer, number, at: Instant::now(), captured_at });
        drop(state);
        shared.changed.notify_all();
    }
}

/// The driver's time of capture when it makes sense, else now.
fn capture_time(buffer: &Buffer) -> SystemTime {
    let now = SystemTime::now();
    buffer
        .capture_timestamp()
        .and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since))
        .filter(|at| now.duration_since(*at).is_ok_and(|age| age < MAX_AGE))
        .unwrap_or(now)
}

fn describe(index: u32, camera: &Camera) -> String {
    let (name, format) = (camera.info().human_name(), camera.camera_format());
    let (width, height) = (format.width(), format.height());
    format!("camera {index} ({name}) at {width}x{height} {}", format.format())
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
    use nokhwa::utils::{FrameFormat, Resolution};

    use super::*;

    fn source(shared: &Arc<Shared>) -> CameraSource {
        CameraSource {
            index: 7,
            shared: Arc::clone(shared),
            options: SourceOptions::default(),
            given: 0,
            convert_time: Duration::ZERO,
            description: String::new(),
        }
    }

    fn arrive(shared: &Shared, luma: u8) {
        let buffer = Buffer::new(Resolution::new(2, 2), &[luma, 128].repeat(4), FrameFormat::YUYV);
        let mut state = shared.lock();
        state.frames += 1;
        let (number, at, captured_at) = (state.frames, Instant::now(), SystemTime::now());
        state.newest = Some(Arrived { buffer, number, at, captured_at });
    }

    #[test]
    fn only_the_newest_frame_is_given_and_only_once() {
        let shared = Arc::new(Shared::default());
        let mut camera = source(&shared);
        arrive(&shared, 1);
        arrive(&shared, 2);
        let Ok(Some(Captured::Frame(frame))) = camera.next() else { panic!() };
        assert_eq!(frame.y, [2; 4]);
        let later = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            arrive(&later, 3);
            later.changed.notify_all();
        });
        let Ok(Some(Captured::Frame(frame))) = camera.next() else { panic!() };
        assert_eq!(frame.y, [3; 4]);
        thread.join().unwrap();
    }

    #[test]
    fn a_failure_is_told_once_and_frames_after_it_are_given() {
        let shared = Arc::new(Shared::default());
        let mut camera = source(&shared);
        shared.lock().failure = Some(SourceError::CameraGone { index: 7 });
        assert!(matches!(camera.next(), Err(SourceError::CameraGone { index: 7 })));
        arrive(&shared, 4);
        assert!(matches!(camera.next(), Ok(Some(_))));
    }
}
