//! The thread that reads a camera, and the state it shares with its user.
//!
//! Drivers queue frames: a camera that is read only occasionally returns old ones. So the thread takes
//! every frame as it arrives and keeps the newest. When the camera fails, the thread reopens it, with
//! growing pauses, even if the camera reappears under another index.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime},
};

use super::{
    CameraSpec, SourceError,
    stream::{Device, RawFrame, Stream, Wanted},
    system,
};
use crate::lock::locked;

/// Pauses between attempts to reopen the camera: minimum and maximum.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));

/// State shared by the thread and its user.
#[derive(Default)]
pub(super) struct Shared {
    state: Mutex<State>,
    pub(super) changed: Condvar,
}

/// State of the camera.
#[derive(Default)]
pub(super) struct State {
    /// The newest frame, until it is taken.
    pub(super) newest: Option<Arrived>,
    /// Number of frames received.
    pub(super) frames: u64,
    /// Why there are no frames, until a frame arrives or the error is taken.
    pub(super) failure: Option<SourceError>,
    /// Index of the camera: the requested one, or the one that is open.
    pub(super) index: u32,
    /// Name and format of the open camera.
    pub(super) description: String,
    /// Asks the thread to end.
    pub(super) stop: bool,
}

/// A frame that was received.
pub(super) struct Arrived {
    /// The frame.
    pub(super) raw: RawFrame,
    /// Its number, from 1.
    pub(super) number: u64,
    /// When it was captured.
    pub(super) captured: Instant,
    /// The same on the wall clock.
    pub(super) captured_at: SystemTime,
}

impl Arrived {
    fn new(raw: RawFrame, number: u64) -> Self {
        let (now, wall) = (Instant::now(), SystemTime::now());
        let captured = now.checked_sub(raw.age).unwrap_or(now);
        let captured_at = wall.checked_sub(raw.age).unwrap_or(wall);
        Self { raw, number, captured, captured_at }
    }
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    /// Waits until `done` returns true or the time has elapsed.
    pub(super) fn wait(
        &self,
        time: Duration,
        done: impl Fn(&State) -> bool,
    ) -> MutexGuard<'_, State> {
        self.changed
            .wait_timeout_while(self.lock(), time, |state| !done(state))
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }

    /// Replaces the previous frame with this one; returns the memory of the previous frame for reuse.
    pub(super) fn arrive(&self, raw: RawFrame) -> Vec<u8> {
        let mut state = self.lock();
        state.frames += 1;
        state.failure = None;
        let arrived = Arrived::new(raw, state.frames);
        let before = state.newest.replace(arrived);
        drop(state);
        self.changed.notify_all();
        before.map(|before| before.raw.data).unwrap_or_default()
    }

    fn fail(&self, failure: SourceError) {
        tracing::debug!("{failure}");
        self.lock().failure = Some(failure);
        self.changed.notify_all();
    }
}

/// Starts the thread, which ends soon after `stop` is set.
pub(super) fn start(
    spec: CameraSpec,
    wanted: Wanted,
    shared: &Arc<Shared>,
) -> Result<(), SourceError> {
    let index = spec.index.unwrap_or_default();
    shared.lock().index = index;
    let shared = Arc::clone(shared);
    thread::Builder::new()
        .name("camera".to_owned())
        .spawn(move || read(spec, wanted, &shared))
        .map(drop)
        .map_err(|e| SourceError::Camera { index, cause: format!("cannot start a thread: {e}") })
}

fn read(spec: CameraSpec, wanted: Wanted, shared: &Shared) {
    let mut pause = BACK_OFF.0;
    let mut seen = None;
    while !shared.lock().stop {
        let before = shared.lock().frames;
        // Camera libraries panic on some devices; that must not end the program.
        let run =
            catch_unwind(AssertUnwindSafe(|| read_until_it_fails(spec, wanted, &mut seen, shared)));
        match run {
            Ok(Ok(())) => return,
            Ok(Err(failure)) => shared.fail(failure),
            Err(panic) => {
                let index = shared.lock().index;
                let cause = super::panic_text(panic.as_ref());
                shared.fail(SourceError::Camera { index, cause });
            }
        }
        if shared.lock().frames > before {
            pause = BACK_OFF.0;
        }
        drop(shared.wait(pause, |state| state.stop));
        pause = (pause * 2).min(BACK_OFF.1);
    }
}

/// Opens the camera and takes frames until it fails (`Err`) or is asked to stop (`Ok`).
fn read_until_it_fails(
    spec: CameraSpec,
    wanted: Wanted,
    seen: &mut Option<Device>,
    shared: &Shared,
) -> Result<(), SourceError> {
    let (index, mut stream) = open(spec, wanted, seen)?;
    let description = stream.describe();
    tracing::debug!("open: {description}");
    {
        let mut state = shared.lock();
        (state.index, state.description) = (index, description);
    }
    let mut spare = Vec::new();
    loop {
        let raw = stream.next(spare)?;
        if shared.lock().stop {
            return Ok(());
        }
        spare = shared.arrive(raw);
    }
}

/// Opens the requested camera, or else the first one that can be opened. A camera that was open before
/// is opened again, even if its index has changed.
fn open(
    spec: CameraSpec,
    wanted: Wanted,
    seen: &mut Option<Device>,
) -> Result<(u32, Box<dyn Stream>), SourceError> {
    let devices = system::list()?;
    let mut first_error = None;
    for device in candidates(devices, spec, seen.as_ref()) {
        match system::open(device.index, wanted) {
            Ok(stream) => {
                let index = device.index;
                *seen = Some(device);
                return Ok((index, stream));
            }
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Err(first_error.unwrap_or(match seen {
        Some(device) => SourceError::CameraGone { index: device.index },
        None => SourceError::NoCamera { index: spec.index },
    }))
}

/// The cameras to try to open, best first. A camera that was open before may now be plugged in
/// elsewhere, but if a camera was chosen by its index, another one of the same model does not replace
/// it.
fn candidates(devices: Vec<Device>, spec: CameraSpec, seen: Option<&Device>) -> Vec<Device> {
    let fits = |device: &Device| match (seen, spec.index) {
        (Some(seen), Some(_)) => (&seen.name, &seen.bus) == (&device.name, &device.bus),
        (Some(seen), None) => seen.name == device.name,
        (None, Some(index)) => device.index == index,
        (None, None) => true,
    };
    let mut fitting: Vec<Device> = devices.into_iter().filter(|device| fits(device)).collect();
    // A webcam may have several nodes with the same name.
    fitting.sort_by_key(|device| {
        seen.map(|seen| (seen.bus != device.bus, seen.index != device.index))
    });
    fitting
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(index: u32, bus: &str) -> Device {
        Device {
            index,
            name: "Cam".into(),
            path: format!("/dev/video{index}"),
            bus: bus.into(),
            formats: Vec::new(),
            used_by: Vec::new(),
            error: None,
        }
    }

    fn indices(spec: Option<u32>, seen: Option<&Device>) -> Vec<u32> {
        let devices = vec![device(0, "usb-1"), device(1, "usb-2"), device(3, "usb-2")];
        let spec = CameraSpec { index: spec, pixels: None };
        candidates(devices, spec, seen).iter().map(|device| device.index).collect()
    }

    #[test]
    fn candidates_are_the_requested_camera_or_all() {
        assert_eq!(indices(None, None), [0, 1, 3]);
        assert_eq!(indices(Some(1), None), [1]);
        assert_eq!(indices(Some(2), None), [0; 0]);
    }

    #[test]
    fn a_camera_that_is_reconnected_is_found_under_another_index() {
        assert_eq!(indices(Some(5), Some(&device(5, "usb-1"))), [0]);
        assert_eq!(indices(None, Some(&device(3, "usb-2"))), [3, 1, 0]);
    }

    #[test]
    fn another_camera_of_the_same_model_is_used_only_if_none_was_requested() {
        assert_eq!(indices(None, Some(&device(3, "usb-9"))), [3, 0, 1]);
        assert_eq!(indices(Some(3), Some(&device(3, "usb-9"))), [0; 0]);
        let other = Device { name: "Other".into(), ..device(3, "usb-2") };
        assert_eq!(indices(None, Some(&other)), [0; 0]);
    }
}
