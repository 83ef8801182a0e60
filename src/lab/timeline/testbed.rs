//! The lab in which a timeline is played: the server, both peers, and the effect of events on them.

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    io::Write as _,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Instant,
};

use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::Command,
    sync::mpsc,
};

use super::{
    event::{EventAction, EventTarget, TimelineEvent},
    file::Timeline,
};
use crate::{
    lock::locked,
    nat::{Layer, LinkChanges},
    netns::{Lab, LabPlan, LabServer, Location, NetnsError, NetworkPlan},
    units::PictureSize,
};

/// Number of log lines of a peer that are kept to explain why it ended.
const LAST_LINES: usize = 3;

/// The command a peer runs: A is the phone, B the Mac.
pub(super) fn command_of(location: Location) -> &'static str {
    if location == Location::A { "send" } else { "recv" }
}

/// A report from a peer.
#[derive(Debug)]
pub(super) struct PeerReport {
    pub(super) at: Instant,
    pub(super) location: Location,
    pub(super) what: PeerEvent,
}

/// Content of a report.
#[derive(Debug)]
pub(super) enum PeerEvent {
    /// A keyframe was sent or received, over a connection of this type.
    Keyframe { sha256: String, via: Option<String> },
    /// The process has ended; the number it was started with, and its last log lines.
    Ended { number: u32, last_lines: String },
}

/// The relevant lines of the `--json` output.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Line {
    Keyframe {
        sha256: String,
        #[serde(rename = "connectionType")]
        via: Option<String>,
        file: Option<String>,
    },
    #[serde(other)]
    Other,
}

/// State needed to undo an event.
enum Undo {
    Layer(Layer),
    Network(usize),
}

/// A running process of a peer.
#[derive(Clone, Copy)]
struct Process {
    number: u32,
    id: u32,
}

pub(super) struct Testbed {
    lab: Lab,
    server: LabServer,
    timeline: Timeline,
    peers: [Option<Process>; 2],
    /// Number of processes started so far.
    started: u32,
    reports: mpsc::UnboundedSender<PeerReport>,
    /// Each peer's networks in their current state: home, and those it moves to.
    networks: [Vec<NetworkPlan>; 2],
    /// Index of the current network of each peer, and how many of its other networks were used so far.
    at: [usize; 2],
    used: [usize; 2],
    changes: [LinkChanges; 2],
    undo: HashMap<usize, Undo>,
    logs: Option<PathBuf>,
}

impl Testbed {
    /// Builds the lab and starts the server, but not the peers. Blocks the calling thread for a few tenths
    /// of a second. The peers' logs are written to `logs`.
    pub(super) fn new(
        timeline: &Timeline,
        orion_peer: Option<PathBuf>,
        logs: Option<PathBuf>,
        reports: mpsc::UnboundedSender<PeerReport>,
    ) -> Result<Self, NetnsError> {
        let [a, b] = &timeline.homes;
        let plan = LabPlan {
            a: a.clone(),
            b: b.clone(),
            other_networks: [
                timeline.other_networks(Location::A),
                timeline.other_networks(Location::B),
            ],
            changing: true,
            seed: timeline.seed,
            orion_peer,
            ..LabPlan::default()
        };
        let lab = Lab::start(&plan)?;
        let server = lab.serve_with(timeline.server)?;
        let networks = [(&plan.a, 0), (&plan.b, 1)]
            .map(|(home, peer)| [std::slice::from_ref(home), &plan.other_networks[peer]].concat());
        Ok(Self {
            lab,
            server,
            timeline: timeline.clone(),
            peers: [None, None],
            started: 0,
            reports,
            networks,
            at: [0, 0],
            used: [0, 0],
            changes: [LinkChanges::default(); 2],
            undo: HashMap::new(),
            logs,
        })
    }

    /// Whether this process of a peer is the current one.
    pub(super) fn expects(&self, location: Location, number: u32) -> bool {
        self.peers[location.peer()].is_some_and(|process| process.number == number)
    }

    /// Starts `send` or `recv`.
    pub(super) fn start(&mut self, location: Location) -> Result<(), NetnsError> {
        let mut command = Command::from(self.lab.isolated_orion_peer(location));
        command.arg("--json");
        let frames = self.lab.file(&format!("frames-{}", self.started));
        if location == Location::A {
            let PictureSize { width, height } = self.timeline.picture;
            let source = format!("pattern:{width}x{height}");
            let interval = format!("{}ms", self.timeline.interval.as_millis());
            command.args(["send", "--source", &source, "--interval", &interval]);
        } else {
            command.args(["recv", "--format", "h264", "--out"]).arg(&frames);
        }
        command.envs(self.server.variables());
        if self.timeline.signals_over(location) == Ok(true) {
            command.env("ORION_SIGNAL", self.server.signal_url_v6());
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if self.logs.is_some() {
            command.arg("-v");
        }
        let mut log = self.log(location)?;
        let mut child = command.spawn().map_err(|error| NetnsError::Start {
            program: "orion-peer".into(),
            cause: error.to_string(),
        })?;
        let number = self.started;
        self.started += 1;
        self.peers[location.peer()] = child.id().map(|id| Process { number, id });
        let reports = self.reports.clone();
        let last_lines = Arc::new(Mutex::new(VecDeque::new()));
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        tokio::spawn(async move {
            let report = |what| {
                // No receiver: the timeline is over.
                let _ = reports.send(PeerReport { at: Instant::now(), location, what });
            };
            let stdout_done = each_line(stdout, |line| {
                if let Ok(Line::Keyframe { sha256, via, file }) = serde_json::from_str(&line) {
                    report(PeerEvent::Keyframe { sha256, via });
                    // Files of the lab are in memory, and a timeline may be a day long. A file that cannot
                    // be removed disappears with the lab.
                    let _ = file.map(|file| std::fs::remove_file(frames.join(file)));
                }
            });
            let stderr_done = each_line(stderr, |line| {
                if let Some(log) = &mut log {
                    // A log that cannot be written must not end the test.
                    let _ = writeln!(log, "{line}");
                }
                let mut last_lines = locked(&last_lines);
                last_lines.push_back(line);
                if last_lines.len() > LAST_LINES {
                    last_lines.pop_front();
                }
            });
            tokio::join!(stdout_done, stderr_done);
            // The exit status is not needed: the last log lines show how it ended.
            let _ = child.wait().await;
            let last_lines = std::mem::take(&mut *locked(&last_lines));
            let last_lines = last_lines.into_iter().collect::<Vec<_>>().join("; ");
            report(PeerEvent::Ended { number, last_lines });
        });
        Ok(())
    }

    /// The log file of a peer.
    fn log(&self, location: Location) -> Result<Option<File>, NetnsError> {
        let Some(dir) = &self.logs else { return Ok(None) };
        let path = dir.join(format!("{}-{}.log", self.timeline.name, command_of(location)));
        let opened = File::options().create(true).append(true).open(&path);
        opened.map(Some).map_err(|error| NetnsError::Start {
            program: "orion-peer".into(),
            cause: format!("{}: {error}", path.display()),
        })
    }

    /// Asks a peer to exit, as Ctrl-C does. Returns whether it was running.
    pub(super) fn stop(&mut self, location: Location) -> bool {
        self.signal(location, Signal::INT);
        self.peers[location.peer()].take().is_some()
    }

    /// Executes an event.
    pub(super) fn begin(&mut self, number: usize, event: &TimelineEvent) -> Result<(), NetnsError> {
        match &event.action {
            EventAction::Kill(EventTarget::Server(service)) => self.server.kill(*service),
            EventAction::Stop(EventTarget::Server(service)) => self.server.drain(*service),
            EventAction::Start(EventTarget::Server(service)) => {
                self.server.start_again(&self.lab, *service)?;
            }
            EventAction::Restart(EventTarget::Server(service)) => {
                self.server.drain(*service);
                self.server.start_again(&self.lab, *service)?;
            }
            EventAction::Kill(EventTarget::Peer(location)) => {
                self.signal(*location, Signal::KILL);
                self.peers[location.peer()] = None;
            }
            EventAction::Stop(EventTarget::Peer(location)) => {
                self.stop(*location);
            }
            // After a takeover the older process exits on its own; it is no longer the current one.
            EventAction::Start(EventTarget::Peer(location)) | EventAction::Takeover(location) => {
                self.start(*location)?;
            }
            EventAction::Restart(EventTarget::Peer(location)) => {
                self.stop(*location);
                self.start(*location)?;
            }
            EventAction::Sleep(location) => self.signal(*location, Signal::STOP),
            EventAction::Nat(location, layer) => {
                let previous = self.replace_nat(*location, *layer)?;
                self.undo.extend(previous.map(|layer| (number, Undo::Layer(layer))));
            }
            EventAction::Move(location, network) => {
                let peer = location.peer();
                self.undo.insert(number, Undo::Network(self.at[peer]));
                let to = match network {
                    Some(_) => {
                        self.used[peer] += 1;
                        self.used[peer]
                    }
                    None => 0,
                };
                self.go(*location, to)?;
            }
            EventAction::Address(location) => self.lab.renumber(*location)?,
            EventAction::Unplug(location) => self.lab.unplug(*location)?,
            EventAction::SignalingOff(location) => self.lab.signaling_off(*location)?,
            EventAction::Link(who, changes) => {
                self.link(*who, |now| *now = changes.or(*now))?;
            }
        }
        Ok(())
    }

    /// Undoes an event.
    pub(super) fn end(&mut self, number: usize, event: &TimelineEvent) -> Result<(), NetnsError> {
        match &event.action {
            EventAction::Kill(target) | EventAction::Stop(target) => match target {
                EventTarget::Server(service) => self.server.start_again(&self.lab, *service)?,
                EventTarget::Peer(location) => self.start(*location)?,
            },
            EventAction::Sleep(location) => self.signal(*location, Signal::CONT),
            EventAction::Nat(location, _) => {
                if let Some(Undo::Layer(layer)) = self.undo.remove(&number) {
                    self.replace_nat(*location, layer)?;
                }
            }
            EventAction::Move(location, _) => {
                if let Some(Undo::Network(network)) = self.undo.remove(&number) {
                    self.go(*location, network)?;
                }
            }
            EventAction::Unplug(location) => self.lab.plug(*location)?,
            EventAction::SignalingOff(location) => self.lab.signaling_on(*location)?,
            EventAction::Link(who, changes) => {
                self.link(*who, |now| *now = now.without(*changes))?;
            }
            EventAction::Start(_)
            | EventAction::Restart(_)
            | EventAction::Takeover(_)
            | EventAction::Address(_) => {}
        }
        Ok(())
    }

    fn go(&mut self, location: Location, network: usize) -> Result<(), NetnsError> {
        self.at[location.peer()] = network;
        self.lab.move_to(location, network)?;
        self.link(Some(location), |_| {})
    }

    /// Changes the link of one peer, or of both (`None`).
    fn link(
        &mut self,
        who: Option<Location>,
        change: impl Fn(&mut LinkChanges),
    ) -> Result<(), NetnsError> {
        for location in [Location::A, Location::B] {
            if who.is_none_or(|who| who == location) {
                let peer = location.peer();
                change(&mut self.changes[peer]);
                let link = self.changes[peer].apply(self.networks[peer][self.at[peer]].link);
                self.lab.set_link(location, &link)?;
            }
        }
        Ok(())
    }

    /// Replaces the NAT in front of a peer; returns the previous one.
    fn replace_nat(
        &mut self,
        location: Location,
        layer: Layer,
    ) -> Result<Option<Layer>, NetnsError> {
        self.lab.replace_nat(location, &layer)?;
        let peer = location.peer();
        let network = &mut self.networks[peer][self.at[peer]];
        let outermost = network.profile.layers.first_mut();
        Ok(outermost.map(|current| std::mem::replace(current, layer)))
    }

    fn signal(&self, location: Location, signal: Signal) {
        let Some(process) = self.peers[location.peer()] else { return };
        #[cfg(unix)]
        if let Some(id) = rustix::process::Pid::from_raw(process.id.cast_signed()) {
            // An error means that the process has already ended, which is reported separately.
            let _ = rustix::process::kill_process(id, signal);
        }
        #[cfg(not(unix))]
        let _ = (process.id, signal);
    }
}

#[cfg(unix)]
use rustix::process::Signal;

/// Placeholder for platforms without Unix signals.
#[cfg(not(unix))]
#[derive(Clone, Copy)]
enum Signal {
    INT,
    KILL,
    STOP,
    CONT,
}

async fn each_line(stream: Option<impl AsyncRead + Unpin>, mut take: impl FnMut(String)) {
    let Some(stream) = stream else { return };
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        take(line);
    }
}
