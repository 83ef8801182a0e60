//! coturn inside a lab: STUN with RFC 5780 on two addresses, and TURN. It is the reference for our server.

use std::{
    fmt::Write as _,
    fs,
    path::PathBuf,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::Lab;
use crate::netns::{
    error::NetnsError,
    holder::not_started,
    topology::{OTHER_SERVER, SERVER},
};

/// Port of STUN and TURN (RFC 8656 §19).
pub const PORT: u16 = 3478;

/// Alternate port, for RFC 5780.
pub const OTHER_PORT: u16 = 3479;

/// Port of TURN over TLS.
pub const TLS_PORT: u16 = 5349;

/// Timeout for coturn to start listening.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// Configuration of coturn.
#[derive(Debug, Clone, Default)]
pub struct CoturnOptions {
    /// User name and password (long-term credentials).
    pub user: Option<(String, String)>,
    /// Shared secret of TURN REST credentials.
    pub secret: Option<String>,
    /// Certificate and key in PEM, for TLS on [`TLS_PORT`].
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Additional lines of its configuration file.
    pub more: Vec<String>,
}

/// A running coturn. It is killed when this is dropped, and with the lab.
pub struct Coturn {
    process: Child,
    log: PathBuf,
}

impl Coturn {
    pub(super) fn start(lab: &Lab, options: &CoturnOptions) -> Result<Self, NetnsError> {
        const CONFIGURATION: &str = "turnserver.conf";
        let (file, log) = (lab.file(CONFIGURATION), lab.file("turnserver.log"));
        let failed = |cause: String| NetnsError::Start { program: "turnserver".into(), cause };
        fs::write(&file, configuration(options))
            .map_err(|error| failed(format!("{}: {error}", file.display())))?;
        let mut command = lab.coturn_command();
        command.arg("-c").arg(Lab::own_file(CONFIGURATION)).stdin(Stdio::null());
        let output = fs::File::create(&log).map_err(|error| failed(error.to_string()))?;
        let errors = output.try_clone().map_err(|error| failed(error.to_string()))?;
        command.stdout(output).stderr(errors);
        let process = command.spawn().map_err(|error| not_started("nsenter", &error))?;
        let mut coturn = Self { process, log };
        if wait_for_sockets(&mut coturn.process) {
            return Ok(coturn);
        }
        let log = coturn.log();
        let from = log.len().saturating_sub(5);
        Err(failed(log[from..].join("; ")))
    }

    /// The log so far, line by line.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        let text = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
    }
}

impl Drop for Coturn {
    fn drop(&mut self) {
        // It has exited already: nothing to do.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The configuration file. It keeps secrets out of the process list, and only this user can read it.
fn configuration(options: &CoturnOptions) -> String {
    let mut text = format!(
        "listening-ip={SERVER}\nlistening-ip={OTHER_SERVER}\nrelay-ip={SERVER}\n\
         listening-port={PORT}\nalt-listening-port={OTHER_PORT}\ntls-listening-port={TLS_PORT}\nfingerprint\nrealm=lab\n\
         no-cli\nverbose\nlog-file=stdout\nno-multicast-peers\nno-dtls\n"
    );
    for (key, file) in [("pidfile", "turnserver.pid"), ("userdb", "turnserver.db")] {
        let _ = writeln!(text, "{key}={}", Lab::own_file(file).display());
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

/// Waits until all UDP sockets of coturn are open; false if it exited or timed out.
fn wait_for_sockets(process: &mut Child) -> bool {
    let end = Instant::now() + START_TIMEOUT;
    let table = PathBuf::from(format!("/proc/{}/net/udp", process.id()));
    while Instant::now() < end {
        if has_sockets(&fs::read_to_string(&table).unwrap_or_default()) {
            return true;
        }
        if !matches!(process.try_wait(), Ok(None)) {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
    false
}

/// Whether /proc/…/net/udp has a socket on each address and port (RFC 5780 §7.1).
fn has_sockets(table: &str) -> bool {
    let bound: Vec<&str> =
        table.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    [SERVER, OTHER_SERVER].iter().all(|address| {
        [PORT, OTHER_PORT].iter().all(|port| {
            let local = format!("{:08X}:{port:04X}", u32::from_ne_bytes(address.octets()));
            bound.contains(&local.as_str())
        })
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn coturn_is_ready_when_its_last_socket_is_open() {
        let line = |address: Ipv4Addr, port: u16| {
            let local = u32::from_ne_bytes(address.octets());
            format!("  12: {local:08X}:{port:04X} 00000000:0000 07 00000000:00000000 00\n")
        };
        let mut table = line(SERVER, PORT) + &line(SERVER, OTHER_PORT) + &line(OTHER_SERVER, PORT);
        assert!(!has_sockets(&table));
        table += &line(OTHER_SERVER, OTHER_PORT);
        assert!(has_sockets(&table));
    }
}
