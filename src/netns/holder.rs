//! The processes that hold the namespaces of a lab and end everything that runs in them. No namespace has a
//! name outside the lab, so the namespaces disappear with the last of these processes.
//!
//! Three processes watch each other in a ring, so that if one or two of them are killed, another kills
//! everything in the lab's namespaces: `unshare` becomes a shell (the holder) that waits for a second shell
//! (the guard); the guard waits for end-of-file on its standard input, which occurs when this process ends;
//! and a thread of this process waits for the holder. Programs inside keep running only if all three are
//! killed at nearly the same time.

mod watch;

use std::{
    ffi::OsString,
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::PathBuf,
    process::{Child, ChildStdin, Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use super::error::NetnsError;
use crate::lock::locked;

/// Directory of the lab's own files, in its mount namespace.
const FILES: &str = "/run";

/// The line that announces an orderly shutdown: nothing is being started any more.
const ORDERLY: &str = "orderly";

/// Number of consecutive scans that must find nothing after a disorderly end.
const PATIENCE: &str = "10";

/// Kills everything that runs inside until `$1` consecutive scans find nothing: during a scan a program may
/// start another one, or be about to enter.
const REAP: &str = r#"
reap() {
    looks=$1
    for _ in $(seq 250); do
        looks=$((looks - 1))
        for name in /run/netns/*; do
            pids=$(ip netns pids "${name##*/}")
            if [ -n "$pids" ]; then
                kill -9 $pids
                looks=$1
            fi
        done
        [ "$looks" -gt 0 ] || return 0
        sleep 0.02
    done
}
"#;

/// The guard is the part in parentheses, and the holder is the rest. Without `-n` (`--no-mtab`), `mount`
/// would first create a directory in the host's `/run`.
const HOLD: &str = r#"
trap '' HUP INT QUIT
mount -n -t tmpfs -o mode=0700 tmpfs /run && mkdir /run/netns && echo ready || exit 1
exec >/dev/null 2>&1
(
    times=$patience
    while read -r line; do
        [ "$line" != orderly ] || times=1
    done
    reap $times
) || reap $patience
"#;

/// Settings that prevent users from creating namespaces: file below /proc/sys, name, the value that forbids
/// it, and a value that permits it.
const SETTINGS: [(&str, &str, &str, u64); 4] = [
    ("kernel/unprivileged_userns_clone", "kernel.unprivileged_userns_clone", "0", 1),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "kernel.apparmor_restrict_unprivileged_userns",
        "1",
        0,
    ),
    ("user/max_user_namespaces", "user.max_user_namespaces", "0", 10_000),
    ("user/max_net_namespaces", "user.max_net_namespaces", "0", 10_000),
];

/// The namespaces, held open.
pub(super) struct Holder {
    process: Child,
    /// Open for as long as the lab exists.
    stdin: Arc<Mutex<Option<ChildStdin>>>,
    watch: Option<JoinHandle<()>>,
    user_namespace: bool,
}

impl Holder {
    /// Starts the holder: as root without a user namespace, unless one is requested or needed.
    pub(super) fn start(user_namespace: bool) -> Result<Self, NetnsError> {
        if !is_root() || user_namespace {
            return Self::start_with(true);
        }
        match Self::start_with(false) {
            Err(NetnsError::NotAllowed { .. }) => Self::start_with(true),
            other => other,
        }
    }

    fn start_with(user_namespace: bool) -> Result<Self, NetnsError> {
        let mut command = Command::new("unshare");
        if user_namespace {
            command.args(["--user", "--map-root-user"]);
        }
        command.args([
            "--net",
            "--mount",
            "--",
            "sh",
            "-c",
            &format!("patience={PATIENCE}{REAP}{HOLD}"),
        ]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env("PATH", search_path());
        apart(&mut command);
        let mut process = command.spawn().map_err(|error| not_started("unshare", &error))?;
        let stdin = Arc::new(Mutex::new(process.stdin.take()));
        let mut line = String::new();
        if let Some(stdout) = process.stdout.take() {
            // An error leaves the line empty, which means that the holder is not ready.
            let _ = BufReader::new(stdout).read_line(&mut line);
        }
        let mut holder = Self { process, stdin, watch: None, user_namespace };
        if line.trim() == "ready" {
            let watch = watch::start(&holder).map_err(|error| not_started("unshare", &error))?;
            holder.watch = Some(watch);
            return Ok(holder);
        }
        let mut cause = String::new();
        if let Some(stderr) = holder.process.stderr.as_mut() {
            let _ = stderr.read_to_string(&mut cause);
        }
        Err(NetnsError::NotAllowed { cause: cause.trim().to_owned(), settings: forbidding() })
    }

    /// A file that exists as long as the lab; programs inside find it at the same path. Programs that
    /// resolve symbolic links themselves, such as `SQLite`, would use a file of the host instead: they need
    /// [`Self::own_command`] and [`Self::own_file`].
    pub(super) fn file(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{FILES}/{name}", self.process.id()))
    }

    /// The path of the same file for a program of [`Self::own_command`].
    pub(super) fn own_file(name: &str) -> PathBuf {
        PathBuf::from(format!("{FILES}/{name}"))
    }

    /// A program in the namespace with that name. It replaces the process of `nsenter`, so it gets signals
    /// directly, and the exit code is its own.
    pub(super) fn command(&self, namespace: &str, program: &str) -> Command {
        let mut command = self.enter();
        let file = self.file(&format!("netns/{namespace}"));
        command.arg(format!("--net={}", file.display())).arg("--").arg(program);
        command
    }

    /// A program of the lab itself in the namespace with that name: it sees the lab's own files instead of
    /// the host's [`FILES`].
    pub(super) fn own_command(&self, namespace: &str, program: &str) -> Command {
        let mut command = self.enter();
        let file = self.file(&format!("netns/{namespace}"));
        command.arg("--mount").arg(format!("--net={}", file.display()));
        command.arg("--").arg(program);
        command
    }

    /// Like [`Self::command`], as the user who started the lab; root stays root.
    pub(super) fn command_as_user(&self, namespace: &str, program: &str) -> Command {
        let (user, group) = user_and_group();
        if !self.user_namespace || user == 0 {
            return self.command(namespace, program);
        }
        let mut command = self.command(namespace, "unshare");
        command.arg("--user").arg(format!("--map-user={user}"));
        command.arg(format!("--map-group={group}")).arg("--").arg(program);
        command
    }

    fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(self.process.id().to_string());
        if self.user_namespace {
            command.args(["--user", "--preserve-credentials"]);
        }
        command
    }

    /// Runs a tool of the lab itself with `input`; the tool sees the names of the namespaces.
    pub(super) fn run(
        &self,
        step: &'static str,
        namespace: &str,
        words: &[&str],
        input: &str,
    ) -> Result<(), NetnsError> {
        let failed = |cause: String| {
            let namespace = namespace.to_owned();
            NetnsError::Build { step, namespace, cause }
        };
        let mut command = self.enter();
        command.args(["--mount", "--net", "--"]).args(words).env("PATH", search_path());
        let output = feed(command, input).map_err(|error| not_started("nsenter", &error))?;
        if output.status.success() {
            return Ok(());
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        if output.status.code() == Some(127) {
            let program = words.first().copied().unwrap_or_default().to_owned();
            return Err(NetnsError::Missing { program });
        }
        let stderr = stderr.lines().take(3).collect::<Vec<_>>().join("; ");
        Err(failed(if stderr.is_empty() { output.status.to_string() } else { stderr }))
    }

    /// Ends all processes inside, and waits until they have exited.
    pub(super) fn stop(&mut self) {
        close(&self.stdin);
        if let Some(watch) = self.watch.take() {
            // The thread does not panic.
            let _ = watch.join();
        }
        // It has exited already: nothing to wait for.
        let _ = self.process.wait();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Ends the guard; if this fails, the guard has already exited.
fn close(stdin: &Mutex<Option<ChildStdin>>) {
    if let Some(mut stdin) = locked(stdin).take() {
        let _ = writeln!(stdin, "{ORDERLY}");
    }
}

/// The error for a program that could not be started at all.
pub(super) fn not_started(program: &str, error: &std::io::Error) -> NetnsError {
    let program = program.to_owned();
    match error.kind() {
        std::io::ErrorKind::NotFound => NetnsError::Missing { program },
        _ => NetnsError::Start { program, cause: error.to_string() },
    }
}

/// Checks that a program is installed.
pub(super) fn require(program: &str) -> Result<(), NetnsError> {
    let found = std::env::split_paths(&search_path()).any(|dir| dir.join(program).is_file());
    if found { Ok(()) } else { Err(NetnsError::Missing { program: program.to_owned() }) }
}

/// PATH, plus the directories of administrator programs, which a user's PATH may omit.
fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    path.push(":/usr/local/sbin:/usr/sbin:/sbin");
    path
}

fn feed(mut command: Command, input: &str) -> std::io::Result<Output> {
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // The program may exit before it has read everything; its exit code shows the reason.
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output()
}

/// The [`SETTINGS`] that forbid namespaces on this system.
fn forbidding() -> Vec<String> {
    let forbids = |file: &str, bad: &str| {
        fs::read_to_string(format!("/proc/sys/{file}")).is_ok_and(|value| value.trim() == bad)
    };
    let found = SETTINGS.iter().filter(|(file, _, bad, _)| forbids(file, bad));
    found.map(|(_, name, _, good)| format!("{name}={good}")).collect()
}

fn is_root() -> bool {
    user_and_group().0 == 0
}

/// IDs of this process; root on platforms without them, which have no labs either.
fn user_and_group() -> (u32, u32) {
    #[cfg(unix)]
    return (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    #[cfg(not(unix))]
    (0, 0)
}

/// Runs the command in its own process group: Ctrl-C, or a signal to the whole group, must not end the
/// holder before it has ended the others.
#[cfg(unix)]
fn apart(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    command.process_group(0);
}

#[cfg(not(unix))]
fn apart(_: &mut Command) {}
