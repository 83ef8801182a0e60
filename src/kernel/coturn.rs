//! coturn inside a lab: STUN with RFC 5780 on two addresses, and TURN, to hold ours against.

use std::{
    fmt::Write as _,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{
    error::KernelError,
    holder::not_started,
    lab::Lab,
    plan::Place,
    topology::{OTHER_SERVER, SERVER},
};

/// Port of STUN and TURN (RFC 8656 §19).
pub const PORT: u16 = 3478;

/// Port of TURN over TLS.
pub const TLS_PORT: u16 = 5349;

/// It listens within this time, or not at all.
const START: Duration = Duration::from_secs(10);

/// How coturn is to run.
#[derive(Debug, Clone, Default)]
pub struct CoturnOptions {
    /// User name and password (long-term credentials).
    pub user: Option<(String, String)>,
    /// Shared secret of TURN REST credentials.
    pub secret: Option<String>,
    /// Certificate and key in PEM, for TLS on [`TLS_PORT`].
    pub tls: Option<(PathBuf, PathBuf)>,
    /// More lines of its configuration file.
    pub more: Vec<String>,
}

/// A running coturn; it is killed when this is dropped, and with the lab.
pub struct Coturn {
    process: Child,
    log: PathBuf,
}

impl Coturn {
    pub(super) fn start(lab: &Lab, options: &CoturnOptions) -> Result<Self, KernelError> {
        let (file, log) = (lab.file("turnserver.conf"), lab.file("turnserver.log"));
        let failed = |cause: String| KernelError::Start { program: "turnserver".into(), cause };
        fs::write(&file, configuration(lab, options))
            .map_err(|error| failed(format!("{}: {error}", file.display())))?;
        let mut command = lab.command(Place::Internet, "turnserver");
        command.arg("-c").arg(&file).stdin(Stdio::null());
        let output = fs::File::create(&log).map_err(|error| failed(error.to_string()))?;
        let errors = output.try_clone().map_err(|error| failed(error.to_string()))?;
        command.stdout(output).stderr(errors);
        let process = command.spawn().map_err(|error| not_started("nsenter", &error))?;
        let mut coturn = Self { process, log };
        if wait_for_listener(&mut coturn.process, SERVER, PORT) {
            return Ok(coturn);
        }
        let log = coturn.log();
        let from = log.len().saturating_sub(5);
        Err(failed(log[from..].join("; ")))
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        let text = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
    }
}

impl Drop for Coturn {
    fn drop(&mut self) {
        // It has ended already: nothing to do.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Secrets stand in a file that only this user reads, not in the list of processes.
fn configuration(lab: &Lab, options: &CoturnOptions) -> String {
    let mut text = format!(
        "listening-ip={SERVER}\nlistening-ip={OTHER_SERVER}\nrelay-ip={SERVER}\n\
         listening-port={PORT}\ntls-listening-port={TLS_PORT}\nfingerprint\nrealm=lab\n\
         no-cli\nverbose\nlog-file=stdout\nno-multicast-peers\nno-dtls\n"
    );
    for (key, file) in [("pidfile", "turnserver.pid"), ("userdb", "turnserver.db")] {
        let _ = writeln!(text, "{key}={}", lab.file(file).display());
    }
    if options.user.is_some() {
        text += "lt-cred-mech\n";
    }
    if let Some((name, password)) = &options.user {
        let _ = writeln!(text, "user={name}:{password}");
    }
    if let Some(secret) = &options.secret {
        let _ = writeln!(text, "use-auth-secret\nstatic-auth-secret={secret}");
    }
    match &options.tls {
        Some((cert, key)) => {
            let _ = writeln!(text, "cert={}\npkey={}", cert.display(), key.display());
        }
        None => text += "no-tls\n",
    }
    for line in &options.more {
        let _ = writeln!(text, "{line}");
    }
    text
}

/// Waits until a process listens for TCP there; false when it ended, or took too long.
pub(super) fn wait_for_listener(process: &mut Child, address: Ipv4Addr, port: u16) -> bool {
    let end = Instant::now() + START;
    let table = PathBuf::from(format!("/proc/{}/net/tcp", process.id()));
    while Instant::now() < end {
        if listens(&table, address, port) {
            return true;
        }
        if !matches!(process.try_wait(), Ok(None)) {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
    false
}

/// Whether /proc/…/net/tcp has a listening socket (state 0A) there.
fn listens(table: &Path, address: Ipv4Addr, port: u16) -> bool {
    let local = format!("{:08X}:{port:04X}", u32::from_ne_bytes(address.octets()));
    let text = fs::read_to_string(table).unwrap_or_default();
    text.lines().any(|line| {
        let mut columns = line.split_whitespace().skip(1);
        columns.next() == Some(local.as_str()) && columns.nth(1) == Some("0A")
    })
}
