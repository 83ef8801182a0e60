//! The processes that hold the namespaces of a lab, and end all that runs in them. No namespace has a name
//! outside, so the last of these processes takes them along.
//!
//! Three processes watch each other in a ring, so that whichever is killed, and even two of them at once,
//! another one kills everything that runs in the lab's namespaces: `unshare` has become a shell (the
//! holder) that waits for a second one (the guard), the guard waits for its standard input to end, which it
//! does with this process, and a thread of this process waits for the holder. All three at once, within a
//! moment, would leave what runs inside to end by itself.

mod watch;

use std::{
    ffi::OsString,
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::PathBuf,
    process::{Child, ChildStdin, Command, Output, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use super::error::KernelError;

/// Directory of the lab's own files, in its mount namespace.
const FILES: &str = "/run";

/// A line by which a lab that ends in an orderly manner says so: then nothing is being started.
const ORDERLY: &str = "orderly";

/// Looks in a row that have to find nothing when a lab did not end in an orderly manner.
const PATIENCE: &str = "10";

/// Kills what runs inside until `$1` looks in a row find nothing: a program may start another one while
/// it is looked at, or be about to enter.
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

/// The guard is the part in parentheses, the holder is the rest. Without `-n` (`--no-mtab`) `mount` would
/// make a directory of its own in the host's `/run` first.
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

/// Settings that keep users from making namespaces: file below /proc/sys, name, the value that does
/// not.
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

/// The namespaces, held.
pub(super) struct Holder {
    process: Child,
    /// Open as long as the lab is to be there.
    stdin: Arc<Mutex<Option<ChildStdin>>>,
    watch: Option<JoinHandle<()>>,
    user_namespace: bool,
}

impl Holder {
    /// Starts it: as root without a user namespace, unless that is asked for or needed.
    pub(super) fn start(user_namespace: bool) -> Result<Self, KernelError> {
        if !is_root() || user_namespace {
            return Self::start_with(true);
        }
        match Self::start_with(false) {
            Err(KernelError::NotAllowed { .. }) => Self::start_with(true),
            other => other,
        }
    }

    fn start_with(user_namespace: bool) -> Result<Self, KernelError> {
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
            // An error leaves the line empty: it is not ready then.
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
        Err(KernelError::NotAllowed { cause: cause.trim().to_owned(), settings: forbidding() })
    }

    /// A file that is there as long as the lab is; programs inside find it by the same name. Not for
    /// programs that resolve symbolic links themselves, as `SQLite` does: they would take it for a file of
    /// the host. They are for [`Self::own_command`] and [`Self::own_file`].
    pub(super) fn file(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{FILES}/{name}", self.process.id()))
    }

    /// The same file as a program of [`Self::own_command`] finds it.
    pub(super) fn own_file(name: &str) -> PathBuf {
        PathBuf::from(format!("{FILES}/{name}"))
    }

    /// A program in the namespace of that name; it replaces `nsenter`, so signals and exit code are its
    /// own.
    pub(super) fn command(&self, namespace: &str, program: &str) -> Command {
        let mut command = self.enter();
        let file = self.file(&format!("netns/{namespace}"));
        command.arg(format!("--net={}", file.display())).arg("--").arg(program);
        command
    }

    /// A program of the lab itself in the namespace of that name: it sees the lab's own files instead of
    /// the host's [`FILES`].
    pub(super) fn own_command(&self, namespace: &str, program: &str) -> Command {
        let mut command = self.enter();
        let file = self.file(&format!("netns/{namespace}"));
        command.arg("--mount").arg(format!("--net={}", file.display()));
        command.arg("--").arg(program);
        command
    }

    /// The same as [`Self::command`], as the user who started the lab. As root that is root.
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

    /// Runs a tool of the lab itself, with `input`; it sees the names of the namespaces.
    pub(super) fn run(
        &self,
        step: &'static str,
        namespace: &str,
        words: &[&str],
        input: &str,
    ) -> Result<(), KernelError> {
        let failed = |cause: String| {
            let namespace = namespace.to_owned();
            KernelError::Build { step, namespace, cause }
        };
        let mut command = self.enter();
        command.args(["--mount", "--net", "--"]).args(words).env("PATH", search_path());
        let output = feed(command, input).map_err(|error| not_started("nsenter", &error))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.code() == Some(127) {
            let program = words.first().copied().unwrap_or_default().to_owned();
            return Err(KernelError::Missing { program });
        }
        let said = said.lines().take(3).collect::<Vec<_>>().join("; ");
        Err(failed(if said.is_empty() { output.status.to_string() } else { said }))
    }

    /// Ends everything inside, and waits until it is gone.
    pub(super) fn stop(&mut self) {
        close(&self.stdin);
        if let Some(watch) = self.watch.take() {
            // It does not panic.
            let _ = watch.join();
        }
        // It has ended already: nothing to wait for.
        let _ = self.process.wait();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Lets the guard end, which is not watching any more when this fails.
fn close(stdin: &Mutex<Option<ChildStdin>>) {
    if let Some(mut stdin) = stdin.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let _ = writeln!(stdin, "{ORDERLY}");
    }
}

/// A program that could not be started at all.
pub(super) fn not_started(program: &str, error: &std::io::Error) -> KernelError {
    let program = program.to_owned();
    match error.kind() {
        std::io::ErrorKind::NotFound => KernelError::Missing { program },
        _ => KernelError::Start { program, cause: error.to_string() },
    }
}

/// Whether a program is there.
pub(super) fn require(program: &str) -> Result<(), KernelError> {
    let found = std::env::split_paths(&search_path()).any(|dir| dir.join(program).is_file());
    if found { Ok(()) } else { Err(KernelError::Missing { program: program.to_owned() }) }
}

/// PATH, and the places for programs of the administrator, which a user's PATH may leave out.
fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    path.push(":/usr/local/sbin:/usr/sbin:/sbin");
    path
}

fn feed(mut command: Command, input: &str) -> std::io::Result<Output> {
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // It may end before it has read all; its exit code says why.
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output()
}

/// Those of [`SETTINGS`] that forbid it here.
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

/// Of this process; root where there are no such numbers, and no labs either.
fn user_and_group() -> (u32, u32) {
    #[cfg(unix)]
    return (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    #[cfg(not(unix))]
    (0, 0)
}

/// In a process group of its own: Ctrl-C, or a signal to the whole group, must not end the holder
/// before it has ended the others.
#[cfg(unix)]
fn apart(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    command.process_group(0);
}

#[cfg(not(unix))]
fn apart(_: &mut Command) {}
