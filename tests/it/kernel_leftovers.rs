//! Labs that are killed leave no file, process or namespace behind. They run in a mount namespace that
//! replaces the host, so that no other process writes to its `/run` and `/tmp`.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, geteuid, kill_process};

const ORION_PEER: &str = env!("CARGO_BIN_EXE_orion-peer");

/// Eight concurrent labs are slow on a small machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// A scenario in which keyframes flow until it is stopped.
const SCENARIO: &str = "picture = '320x240'\ninterval = '1s'\nduration = '20m'\n\
                        timeline = ['at 15m: address a']\n[a]\nnat = 'port'\n[b]\nnat = 'sym'\n";

/// The mount namespace in which labs are started; it ends when this is dropped.
struct Host {
    process: Child,
}

impl Host {
    fn new() -> Self {
        let script = "mount -n -t tmpfs tmpfs /run && mkdir /run/netns && mount -n -t tmpfs tmpfs /tmp && \
                      chmod 1777 /tmp && echo ready && read -r _";
        let mut command = Command::new("unshare");
        if !geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--mount", "--", "sh", "-c", script]);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let host = Self { process };
        let program = host.path("/tmp/orion-peer");
        fs::copy(ORION_PEER, &program).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(host.path("/tmp/x.toml"), SCENARIO).unwrap();
        host
    }

    fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.process.id()))
    }

    /// Starts `orion-peer lab` with these arguments, optionally as another user. All processes that it
    /// starts carry `mark` in their environment.
    fn lab(&self, mark: &str, words: &[&str], as_user: bool) -> Child {
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(self.process.id().to_string()).arg("--mount");
        if !geteuid().is_root() {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.arg("--");
        if as_user && geteuid().is_root() {
            command.args(["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        }
        command.arg("/tmp/orion-peer").arg("lab").args(words).env("LAB_MARK", mark);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    }

    /// The files below `/run` and `/tmp`, including names of network namespaces, and the mounts.
    fn state(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for dir in ["/run", "/tmp"] {
            list(&self.path(dir), &mut found);
        }
        let mounts = fs::read_to_string(format!("/proc/{}/mounts", self.process.id())).unwrap();
        found.extend(mounts.lines().map(str::to_owned));
        found
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn list(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            list(&path, found);
        }
        found.insert(path.display().to_string());
    }
}

/// Processes whose environment has the mark, each with its command.
fn marked(mark: &str) -> Vec<(Pid, String)> {
    let mark = format!("LAB_MARK={mark}");
    let process = |entry: fs::DirEntry| {
        let id = entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw)?;
        let environment = fs::read(entry.path().join("environ")).ok()?;
        environment.split(|byte| *byte == 0).find(|one| *one == mark.as_bytes())?;
        let command = fs::read(entry.path().join("cmdline")).ok()?;
        Some((id, String::from_utf8_lossy(&command).replace('\0', " ")))
    };
    fs::read_dir("/proc").unwrap().filter_map(|entry| process(entry.unwrap())).collect()
}

/// The processes of a lab that are killed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Victims {
    /// The process that a user started.
    Lab,
    /// The shells that hold its namespaces, all of them.
    Holders,
    /// The lab and one of these shells.
    LabAndOneHolder,
    /// Two random processes inside.
    Any,
    /// None: the lab is asked to end.
    Nothing,
}

/// A small seeded random number generator (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % end
    }
}

fn kill(victims: Victims, lab: &Child, mark: &str, random: &mut Random) {
    let lab = Pid::from_child(lab);
    let others: Vec<_> = marked(mark).into_iter().filter(|(id, _)| *id != lab).collect();
    let holders = others.iter().filter(|(_, command)| command.contains("netns pids"));
    let holders: Vec<Pid> = holders.map(|(id, _)| *id).collect();
    let chosen = match victims {
        Victims::Lab => vec![lab],
        Victims::Holders => holders,
        Victims::LabAndOneHolder if holders.is_empty() => vec![lab],
        Victims::LabAndOneHolder => vec![lab, holders[random.below(holders.len())]],
        Victims::Any if others.is_empty() => vec![],
        Victims::Any => (0..2).map(|_| others[random.below(others.len())].0).collect(),
        Victims::Nothing => vec![],
    };
    println!("{mark}: killing {} of {} processes: {victims:?}", chosen.len(), others.len() + 1);
    for process in chosen {
        // The process may have already exited.
        let _ = kill_process(process, Signal::KILL);
    }
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn eight_concurrent_labs_leave_nothing_behind_when_killed() {
    let mut random = Random(0x5eed_1ab5);
    let host = Host::new();
    let before = host.state();
    let scenario: &[&str] = &["--scenario", "/tmp/x.toml"];
    let pair: &[&str] = &["--kernel", "--nat", "port,port"];
    let all = [
        (Victims::Lab, scenario),
        (Victims::Lab, pair),
        (Victims::Holders, scenario),
        (Victims::Holders, pair),
        (Victims::LabAndOneHolder, scenario),
        (Victims::Any, scenario),
        (Victims::Any, scenario),
        (Victims::Nothing, scenario),
    ];
    let mut labs = Vec::new();
    for (number, (victims, words)) in all.into_iter().enumerate() {
        let mark = format!("leftovers-{}-{number}", std::process::id());
        let child = host.lab(&mark, words, number % 2 == 1);
        labs.push((Duration::from_millis(random.below(8000) as u64), victims, child, mark));
    }
    let start = Instant::now();
    labs.sort_by_key(|(at, ..)| *at);
    for (at, victims, child, mark) in &labs {
        std::thread::sleep(at.saturating_sub(start.elapsed()));
        kill(*victims, child, mark, &mut random);
    }
    // A lab whose holders were just killed needs time: it is the last process that can end those inside.
    std::thread::sleep(Duration::from_secs(5));
    // Labs that were not killed end when they are asked to, unless they have already detected the end.
    for (.., child, _) in &labs {
        let _ = kill_process(Pid::from_child(child), Signal::INT);
    }
    for (.., child, mark) in &mut labs {
        wait_until(mark, || child.try_wait().unwrap().is_some());
        wait_until(mark, || marked(mark).is_empty());
    }
    // Without processes, only a mount could hold a namespace.
    assert_eq!(host.state(), before);
}

/// Regression test: databases were files of the host, so two servers shared one.
#[test]
fn a_lab_has_its_own_databases() {
    let host = Host::new();
    let before = host.state();
    let mut lab = host.lab("databases", &["shell", "--", "sleep", "300"], false);
    let runs = || marked("databases").iter().any(|(_, command)| command.starts_with("sleep 300"));
    wait_until("the lab runs", || runs() || lab.try_wait().unwrap().is_some());
    let during = host.state();
    kill_process(Pid::from_child(&lab), Signal::TERM).unwrap();
    lab.wait().unwrap();
    assert_eq!(during, before);
}
