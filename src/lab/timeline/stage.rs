//! Where a time line is played: a lab with the server and both peers in it, and what an event does to
//! them.

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    io::Write as _,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::Command,
    sync::mpsc,
};

use super::{
    event::{Action, Event, Target},
    file::Timeline,
};
use crate::{
    nat::{Layer, LinkChanges},
    netns::{KernelError, Lab, LabPlan, LabServer, Network, Place},
    units::PictureSize,
};

/// Lines of a peer's words that are kept, to tell why it ended.
const LAST_WORDS: usize = 3;

/// The command that a peer is: A is the phone, B the Mac.
pub(super) fn command_of(place: Place) -> &'static str {
    if place == Place::A { "send" } else { "recv" }
}

/// What came from a peer.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) at: Instant,
    pub(super) place: Place,
    pub(super) what: What,
}

/// What it is.
#[derive(Debug)]
pub(super) enum What {
    /// A keyframe was sent, or came, over a connection of that kind.
    Keyframe { sha256: String, via: Option<String> },
    /// The process has ended; the number it was started with, and its last words.
    Ended { number: u32, words: String },
}

/// The lines of `--json` that matter here.
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

/// How an event is undone, when that needs more than the event.
enum Before {
    Layer(Layer),
    Network(usize),
}

/// A running process of a peer.
#[derive(Clone, Copy)]
struct Process {
    number: u32,
    id: u32,
}

pub(super) struct Stage {
    lab: Lab,
    server: LabServer,
    timeline: Timeline,
    peers: [Option<Process>; 2],
    /// Processes started so far.
    started: u32,
    heard: mpsc::UnboundedSender<Heard>,
    /// The networks of each as they are now: home, and those it moves to.
    networks: [Vec<Network>; 2],
    /// In which of them each is; how many of the others were used.
    at: [usize; 2],
    used: [usize; 2],
    changes: [LinkChanges; 2],
    before: HashMap<usize, Before>,
    logs: Option<PathBuf>,
}

impl Stage {
    /// Builds the lab and starts the server, not the peers. Takes a few tenths of a second, in which the
    /// calling thread waits. What the peers say goes into files in `logs`.
    pub(super) fn new(
        timeline: &Timeline,
        orion_peer: Option<PathBuf>,
        logs: Option<PathBuf>,
        heard: mpsc::UnboundedSender<Heard>,
    ) -> Result<Self, KernelError> {
        let [a, b] = &timeline.homes;
        let plan = LabPlan {
            a: a.clone(),
            b: b.clone(),
            elsewhere: [timeline.elsewhere(Place::A), timeline.elsewhere(Place::B)],
            changing: true,
            seed: timeline.seed,
            orion_peer,
            ..LabPlan::default()
        };
        let lab = Lab::start(&plan)?;
        let server = lab.serve_with(timeline.server)?;
        let networks = [(&plan.a, 0), (&plan.b, 1)]
            .map(|(home, peer)| [std::slice::from_ref(home), &plan.elsewhere[peer]].concat());
        Ok(Self {
            lab,
            server,
            timeline: timeline.clone(),
            peers: [None, None],
            started: 0,
            heard,
            networks,
            at: [0, 0],
            used: [0, 0],
            changes: [LinkChanges::default(); 2],
            before: HashMap::new(),
            logs,
        })
    }

    /// Whether that process of a peer is the one that should run.
    pub(super) fn expects(&self, place: Place, number: u32) -> bool {
        self.peers[place.peer()].is_some_and(|process| process.number == number)
    }

    /// Starts `send` or `recv`.
    pub(super) fn start(&mut self, place: Place) -> Result<(), KernelError> {
        let mut command = Command::from(self.lab.own_in(place));
        command.arg("--json");
        let frames = self.lab.file(&format!("frames-{}", self.started));
        if place == Place::A {
            let PictureSize { width, height } = self.timeline.picture;
            let source = format!("pattern:{width}x{height}");
            let interval = format!("{}ms", self.timeline.interval.as_millis());
            command.args(["send", "--source", &source, "--interval", &interval]);
        } else {
            command.args(["recv", "--format", "h264", "--out"]).arg(&frames);
        }
        command.envs(self.server.variables());
        if self.timeline.signals_over(place) == Ok(true) {
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
        let mut log = self.log(place)?;
        let mut child = command.spawn().map_err(|error| KernelError::Start {
            program: "orion-peer".into(),
            cause: error.to_string(),
        })?;
        let number = self.started;
        self.started += 1;
        self.peers[place.peer()] = child.id().map(|id| Process { number, id });
        let heard = self.heard.clone();
        let words = Arc::new(Mutex::new(VecDeque::new()));
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        tokio::spawn(async move {
            let tell = |what| {
                // Nobody listens any more: the time line is over.
                let _ = heard.send(Heard { at: Instant::now(), place, what });
            };
            let out = each_line(stdout, |line| {
                if let Ok(Line::Keyframe { sha256, via, file }) = serde_json::from_str(&line) {
                    tell(What::Keyframe { sha256, via });
                    // They are kept in memory, and a time line may be a day long. One that cannot be removed
                    // is gone with the lab.
                    let _ = file.map(|file| std::fs::remove_file(frames.join(file)));
                }
            });
            let said = each_line(stderr, |line| {
                if let Some(log) = &mut log {
                    // A log that cannot be written must not end what it is about.
                    let _ = writeln!(log, "{line}");
                }
                let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
                words.push_back(line);
                if words.len() > LAST_WORDS {
                    words.pop_front();
                }
            });
            tokio::join!(out, said);
            // How it ended is in its words.
            let _ = child.wait().await;
            let words = std::mem::take(&mut *words.lock().unwrap_or_else(PoisonError::into_inner));
            let words = words.into_iter().collect::<Vec<_>>().join("; ");
            tell(What::Ended { number, words });
        });
        Ok(())
    }

    /// The file that a peer's words go to.
    fn log(&self, place: Place) -> Result<Option<File>, KernelError> {
        let Some(dir) = &self.logs else { return Ok(None) };
        let path = dir.join(format!("{}-{}.log", self.timeline.name, command_of(place)));
        let opened = File::options().create(true).append(true).open(&path);
        opened.map(Some).map_err(|error| KernelError::Start {
            program: "orion-peer".into(),
            cause: format!("{}: {error}", path.display()),
        })
    }

    /// Asks a peer to end, as Ctrl-C does. It is expected to; one that does not run has ended already.
    pub(super) fn stop(&mut self, place: Place) -> bool {
        self.signal(place, Signal::INT);
        self.peers[place.peer()].take().is_some()
    }

    /// Does what an event says.
    pub(super) fn begin(&mut self, number: usize, event: &Event) -> Result<(), KernelError> {
        match &event.action {
            Action::Kill(Target::Server(service)) => self.server.kill(*service),
            Action::Stop(Target::Server(service)) => self.server.drain(*service),
            Action::Start(Target::Server(service)) => {
                self.server.start_again(&self.lab, *service)?;
            }
            Action::Restart(Target::Server(service)) => {
                self.server.drain(*service);
                self.server.start_again(&self.lab, *service)?;
            }
            Action::Kill(Target::Peer(place)) => {
                self.signal(*place, Signal::KILL);
                self.peers[place.peer()] = None;
            }
            Action::Stop(Target::Peer(place)) => {
                self.stop(*place);
            }
            // The older one ends by itself then: it is not the one that is expected any more.
            Action::Start(Target::Peer(place)) | Action::Takeover(place) => self.start(*place)?,
            Action::Restart(Target::Peer(place)) => {
                self.stop(*place);
                self.start(*place)?;
            }
            Action::Sleep(place) => self.signal(*place, Signal::STOP),
            Action::Nat(place, layer) => {
                let before = self.replace_nat(*place, *layer)?;
                self.before.extend(before.map(|layer| (number, Before::Layer(layer))));
            }
            Action::Move(place, network) => {
                let peer = place.peer();
                self.before.insert(number, Before::Network(self.at[peer]));
                let to = match network {
                    Some(_) => {
                        self.used[peer] += 1;
                        self.used[peer]
                    }
                    None => 0,
                };
                self.go(*place, to)?;
            }
            Action::Address(place) => self.lab.renumber(*place)?,
            Action::Unplug(place) => self.lab.unplug(*place)?,
            Action::SignalingOff(place) => self.lab.signaling_off(*place)?,
            Action::Link(who, changes) => {
                self.link(*who, |now| *now = changes.or(*now))?;
            }
        }
        Ok(())
    }

    /// Undoes it.
    pub(super) fn end(&mut self, number: usize, event: &Event) -> Result<(), KernelError> {
        match &event.action {
            Action::Kill(target) | Action::Stop(target) => match target {
                Target::Server(service) => self.server.start_again(&self.lab, *service)?,
                Target::Peer(place) => self.start(*place)?,
            },
            Action::Sleep(place) => self.signal(*place, Signal::CONT),
            Action::Nat(place, _) => {
                if let Some(Before::Layer(layer)) = self.before.remove(&number) {
                    self.replace_nat(*place, layer)?;
                }
            }
            Action::Move(place, _) => {
                if let Some(Before::Network(network)) = self.before.remove(&number) {
                    self.go(*place, network)?;
                }
            }
            Action::Unplug(place) => self.lab.plug(*place)?,
            Action::SignalingOff(place) => self.lab.signaling_on(*place)?,
            Action::Link(who, changes) => {
                self.link(*who, |now| *now = now.without(*changes))?;
            }
            Action::Start(_) | Action::Restart(_) | Action::Takeover(_) | Action::Address(_) => {}
        }
        Ok(())
    }

    fn go(&mut self, place: Place, network: usize) -> Result<(), KernelError> {
        self.at[place.peer()] = network;
        self.lab.move_to(place, network)?;
        self.link(Some(place), |_| {})
    }

    /// Changes the link of a peer, or of both.
    fn link(
        &mut self,
        who: Option<Place>,
        change: impl Fn(&mut LinkChanges),
    ) -> Result<(), KernelError> {
        for place in [Place::A, Place::B] {
            if who.is_none_or(|who| who == place) {
                let peer = place.peer();
                change(&mut self.changes[peer]);
                let link = self.changes[peer].apply(self.networks[peer][self.at[peer]].link);
                self.lab.set_link(place, &link)?;
            }
        }
        Ok(())
    }

    /// Another NAT in front of a peer; gives the one before.
    fn replace_nat(&mut self, place: Place, layer: Layer) -> Result<Option<Layer>, KernelError> {
        self.lab.replace_nat(place, &layer)?;
        let peer = place.peer();
        let network = &mut self.networks[peer][self.at[peer]];
        let outermost = network.profile.layers.first_mut();
        Ok(outermost.map(|before| std::mem::replace(before, layer)))
    }

    fn signal(&self, place: Place, signal: Signal) {
        let Some(process) = self.peers[place.peer()] else { return };
        #[cfg(unix)]
        if let Some(id) = rustix::process::Pid::from_raw(process.id.cast_signed()) {
            // It has ended already: that is heard, too.
            let _ = rustix::process::kill_process(id, signal);
        }
        #[cfg(not(unix))]
        let _ = (process.id, signal);
    }
}

#[cfg(unix)]
use rustix::process::Signal;

/// Signals, where there are none.
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
