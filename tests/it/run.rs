//! Runs the real binary for other tests, with free ports, an empty directory and environment, and a timeout of [`HANG`];
//! its output lines are available as they are written.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// A step that takes longer than this counts as a hang and fails the test.
pub const HANG: Duration = Duration::from_secs(20);

/// A photo in the repository.
pub fn sample(name: &str) -> String {
    format!("{}/samples/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// The lines of one stream so far.
#[derive(Default)]
struct Lines {
    text: Mutex<Vec<String>>,
    grown: Condvar,
}

impl Lines {
    fn all(&self) -> Vec<String> {
        self.text.lock().unwrap().clone()
    }
}

/// A running command, killed on drop.
pub struct Running {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Arc<Lines>,
    stderr: Arc<Lines>,
    readers: Vec<JoinHandle<()>>,
}

/// The exit code and output of a command.
pub struct Ended {
    name: String,
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// All of stdout.
    pub stdout: Vec<String>,
    /// All of stderr.
    pub stderr: String,
}

/// Starts `orion-peer` with these arguments in `dir`; its stdin stays open.
pub fn start(dir: &Path, words: &[&str]) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orion-peer"));
    command.args(words).current_dir(dir).env_clear().env("HOME", dir);
    follow(words.join(" "), command)
}

/// Starts a command and collects its output; its stdin stays open.
pub fn follow(name: String, mut command: Command) -> Running {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (stdout, stderr) = (Arc::<Lines>::default(), Arc::<Lines>::default());
    let readers = vec![
        read(child.stdout.take().unwrap(), Arc::clone(&stdout)),
        read(child.stderr.take().unwrap(), Arc::clone(&stderr)),
    ];
    let stdin = child.stdin.take();
    Running { name, child, stdin, stdout, stderr, readers }
}

/// Runs `orion-peer` to completion, with an empty stdin.
pub fn run(dir: &Path, words: &[&str]) -> Ended {
    let mut running = start(dir, words);
    running.end_input();
    running.end()
}

fn read(stream: impl std::io::Read + Send + 'static, lines: Arc<Lines>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n') {
            let Ok(line) = line else { return };
            lines.text.lock().unwrap().push(String::from_utf8_lossy(&line).into_owned());
            lines.grown.notify_all();
        }
    })
}

impl Running {
    /// The first line on stderr, from line `from` on, that contains this text.
    pub fn says_after(&self, from: usize, words: &str) -> String {
        self.find(&self.stderr, from, words, |line| line.contains(words).then(|| line.to_owned()))
    }

    /// The first line on stderr that contains this text.
    pub fn says(&self, words: &str) -> String {
        self.says_after(0, words)
    }

    /// Whether a line on stderr so far, from line `from` on, contains this text.
    pub fn said_after(&self, from: usize, words: &str) -> bool {
        self.stderr.all().iter().skip(from).any(|line| line.contains(words))
    }

    /// The lines on stderr so far.
    pub fn stderr_lines(&self) -> Vec<String> {
        self.stderr.all()
    }

    /// Number of lines on stderr so far.
    pub fn said(&self) -> usize {
        self.stderr.all().len()
    }

    /// Waits for the `count`th JSON line of this `kind`.
    pub fn event(&self, kind: &str, count: usize) -> Value {
        let mut seen = 0;
        self.find(&self.stdout, 0, kind, |line| {
            let value: Value = serde_json::from_str(line).unwrap();
            seen += usize::from(value["kind"] == kind || value["event"] == kind);
            (seen == count).then_some(value)
        })
    }

    /// The first JSON line of this kind that satisfies `is`.
    pub fn event_where(&self, kind: &str, is: impl Fn(&Value) -> bool) -> Value {
        self.find(&self.stdout, 0, kind, |line| {
            let value: Value = serde_json::from_str(line).unwrap();
            (value["kind"] == kind && is(&value)).then_some(value)
        })
    }

    /// The JSON lines of this kind so far.
    pub fn events(&self, kind: &str) -> Vec<Value> {
        let lines = self.stdout.all();
        let values = lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
        values.filter(|value| value["kind"] == kind).collect()
    }

    fn find<T>(
        &self,
        lines: &Lines,
        from: usize,
        what: &str,
        mut found: impl FnMut(&str) -> Option<T>,
    ) -> T {
        let limit = Instant::now() + HANG;
        let mut next = from;
        let mut text = lines.text.lock().unwrap();
        loop {
            while let Some(line) = text.get(next) {
                if let Some(found) = found(line) {
                    return found;
                }
                next += 1;
            }
            let left = limit.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let so_far = text.join("\n");
                drop(text);
                let stderr = self.stderr.all().join("\n");
                panic!(
                    "`{what}` did not appear in the output of: {}\nso far:\n{so_far}\nstderr:\n{stderr}",
                    self.name
                );
            }
            text = lines.grown.wait_timeout(text, left).unwrap().0;
        }
    }

    /// Writes a line to stdin.
    pub fn type_line(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        writeln!(stdin, "{line}").unwrap();
        stdin.flush().unwrap();
    }

    /// Writes to stdin and closes it.
    pub fn feed(&mut self, data: &[u8]) {
        self.stdin.take().unwrap().write_all(data).unwrap();
    }

    /// Closes stdin.
    pub fn end_input(&mut self) {
        self.stdin = None;
    }

    /// The process ID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Kills the process, as in a crash.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until the process has exited.
    pub fn end(mut self) -> Ended {
        let limit = Instant::now() + HANG;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break Some(status);
            }
            if Instant::now() > limit {
                break None;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        if status.is_none() {
            self.child.kill().unwrap();
        }
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        let ended = Ended {
            name: self.name.clone(),
            code: status.and_then(|status| status.code()),
            stdout: self.stdout.all(),
            stderr: self.stderr.all().join("\n"),
        };
        assert!(status.is_some(), "did not end: {}\n{}", ended.name, ended.stderr);
        assert!(!ended.stderr.contains("panicked at"), "{}\n{}", ended.name, ended.stderr);
        ended
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // An error means that the process has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// Asserts exit code 0 and returns the JSON lines.
    pub fn well(&self) -> Vec<Value> {
        assert_eq!(self.code, Some(0), "{}\n{}", self.name, self.stderr);
        self.json()
    }

    /// The JSON lines of this kind.
    pub fn events(&self, kind: &str) -> Vec<Value> {
        self.json().into_iter().filter(|line| line["kind"] == kind).collect()
    }

    /// The lines of stdout, which must all be JSON objects.
    pub fn json(&self) -> Vec<Value> {
        let lines = self.stdout.iter().map(|line| {
            serde_json::from_str(line).unwrap_or_else(|e| panic!("{}: {e}: {line}", self.name))
        });
        let lines: Vec<Value> = lines.collect();
        assert!(lines.iter().all(Value::is_object), "{}: {lines:?}", self.name);
        lines
    }

    /// The summary, which is the last line unless an error follows.
    pub fn summary(&self) -> Value {
        let lines = self.json();
        let summary = lines.iter().rfind(|line| line["kind"] == "summary");
        summary.cloned().unwrap_or_else(|| panic!("no summary: {}\n{}", self.name, self.stderr))
    }

    /// Asserts a failure with this exit code and stage, and a remedy on stderr and in the JSON.
    #[track_caller]
    pub fn failed(&self, exit: i32, stage: &str) -> Value {
        assert_eq!(self.code, Some(exit), "{}\n{}", self.name, self.stderr);
        let at = format!("error: {stage}: ");
        assert!(self.stderr.contains(&at), "no `{at}`: {}\n{}", self.name, self.stderr);
        let after = &self.stderr[self.stderr.find(&at).unwrap()..];
        assert!(after.contains("\n  try: "), "no remedy: {}\n{}", self.name, self.stderr);
        let last = self.json().pop().unwrap_or_default();
        assert_eq!(last["error"]["stage"], stage, "{}: {last}", self.name);
        assert_eq!(last["error"]["exit"], exit, "{}: {last}", self.name);
        assert!(last["error"]["remedy"].as_str().is_some_and(|text| !text.is_empty()), "{last}");
        last["error"].clone()
    }
}

/// A dev server on free loopback ports, and a directory for its clients.
pub struct Rig {
    /// Working directory of all commands.
    pub dir: tempfile::TempDir,
    /// The running `serve`.
    pub server: Running,
    /// Its `--signal` URL.
    pub signal: String,
    /// Address of its embedded TURN server.
    pub turn: String,
}

impl Rig {
    /// Starts the server.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (server, address, turn) = serve(dir.path(), "127.0.0.1:0", "127.0.0.1:0", &[]);
        Self { dir, server, signal: format!("ws://{address}"), turn }
    }

    /// A path in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts `recv` into `out`.
    pub fn recv(&self, out: &str, more: &[&str]) -> Running {
        self.start("recv", &[&["--out", out], more].concat())
    }

    /// Starts `send`, with a keyframe every 200 ms if `more` gives no other interval.
    pub fn send(&self, source: &str, more: &[&str]) -> Running {
        let interval: &[&str] =
            if more.contains(&"--interval") { &[] } else { &["--interval", "0.2s"] };
        self.start("send", &[&["--source", source], interval, more].concat())
    }

    fn start(&self, command: &str, more: &[&str]) -> Running {
        let words = [&[command, "--json", "--signal", &self.signal], more].concat();
        start(self.dir.path(), &words)
    }
}

/// Starts a server, and returns its address and the address of its relay.
pub fn serve(dir: &Path, listen: &str, turn: &str, more: &[&str]) -> (Running, String, String) {
    let words = ["serve", "--json", "--listen", listen, "--turn-listen", turn];
    let server = start(dir, &[&words[..], more].concat());
    let listening = server.event("listening", 1);
    let text = |key: &str| listening[key].as_str().unwrap_or_default().to_owned();
    let (address, turn) = (text("address"), text("turn"));
    (server, address, turn)
}

/// SHA-256, lower-case hex.
pub fn sha256(data: &[u8]) -> String {
    Sha256::digest(data).iter().fold(String::new(), |mut text, byte| {
        std::fmt::Write::write_fmt(&mut text, format_args!("{byte:02x}")).unwrap();
        text
    })
}

/// A port for a server of another program, which may also use the next port. It is below the kernel's ephemeral range
/// (`net.ipv4.ip_local_port_range`), so that nothing else uses it first.
pub fn reserved_port() -> u16 {
    let is_free = |port: u16| {
        UdpSocket::bind(("127.0.0.1", port)).is_ok()
            && TcpListener::bind(("127.0.0.1", port)).is_ok()
    };
    let mut ports = std::iter::repeat_with(|| rand::random_range(20_000..32_000_u16));
    ports.find(|port| is_free(*port) && is_free(port + 1)).unwrap()
}

/// Asserts that each keyframe is one that was sent, for tests that load the machine: an announcement expires after
/// 100 ms, and without it the receiver cannot verify the keyframe itself.
#[track_caller]
pub fn as_sent(received: &[Value], sent: &[Value]) {
    for keyframe in received {
        assert_ne!(keyframe["verified"], false, "{keyframe}");
        assert!(sent.iter().any(|it| it["sha256"] == keyframe["sha256"]), "not sent: {keyframe}");
    }
}
