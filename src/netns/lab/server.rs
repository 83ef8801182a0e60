//! `orion-peer serve` inside a lab: signaling, token API, STUN and TURN at 203.0.113.10, with its own
//! secrets.

use std::{
    fmt,
    process::{Child, Stdio},
    time::Duration,
};

use serde_json::json;

use super::{Lab, coturn::OTHER_PORT, first_line, last_words};
use crate::{
    auth::{
        jws::{Key, SigningKeys},
        login::AUTHENTICATED,
        secret::Secret,
        unix_now,
    },
    netns::{
        error::NetnsError,
        holder::not_started,
        topology::{OTHER_SERVER, RELAY, SERVER, SERVER6},
    },
};

/// Port of signaling and the token API.
pub(in crate::netns) const PORT: u16 = 8787;

/// The registered pair: id, phone, mac, user.
const PAIR: &str = "demo:phone:mac:lab";

/// Lifetime of the login token: longer than any lab is open.
const LOGIN_LIFETIME: Duration = Duration::from_hours(30 * 24);

/// Addresses that are public inside the lab, although they are reserved (RFC 5737 and RFC 2544).
const PUBLIC: &str = "203.0.113.0/24,198.51.100.0/24,192.0.2.0/24,198.18.0.0/15";

/// Port of the unused HTTP server of the STUN and TURN processes.
const TURN_HTTP_PORT: u16 = 8780;

/// The services of a server, each with its own process; TURN has a second process for IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// Signaling and the token API.
    Signaling,
    /// STUN and TURN.
    Turn,
}

/// Options of the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServerOptions {
    /// Signaling token lifetime, if not the default.
    pub token_ttl: Option<Duration>,
    /// TURN credential lifetime, if not the default.
    pub turn_ttl: Option<Duration>,
}

/// A running server: one process for signaling and tokens, and others for STUN and TURN, so that each can
/// end and start again independently. They are killed when this is dropped, and with the lab.
pub struct LabServer {
    signaling: Vec<Child>,
    turn: Vec<Child>,
    jwt_secret: String,
    login_secret: String,
    turn_secret: String,
    access_token: String,
    options: ServerOptions,
}

impl fmt::Debug for LabServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = |all: &[Child]| all.iter().map(Child::id).collect::<Vec<_>>();
        f.debug_struct("LabServer")
            .field("signaling", &ids(&self.signaling))
            .field("turn", &ids(&self.turn))
            .finish_non_exhaustive()
    }
}

impl LabServer {
    pub(super) fn start(lab: &Lab, options: ServerOptions) -> Result<Self, NetnsError> {
        let login_secret = hex_secret();
        let access_token = sign_in(&login_secret).map_err(failed)?;
        let (signaling, turn) = (Vec::new(), Vec::new());
        let (jwt_secret, turn_secret) = (hex_secret(), hex_secret());
        let mut server =
            Self { signaling, turn, jwt_secret, login_secret, turn_secret, access_token, options };
        server.start_again(lab, Service::Turn)?;
        server.start_again(lab, Service::Signaling)?;
        Ok(server)
    }

    /// Starts a service again, with the same secrets.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_again(&mut self, lab: &Lab, service: Service) -> Result<(), NetnsError> {
        self.kill(service);
        let words = match service {
            Service::Signaling => vec![signaling(lab.has_v6(), self.options)],
            Service::Turn if lab.has_v6() => vec![turn(), turn6()],
            Service::Turn => vec![turn()],
        };
        for words in words {
            let process = self.run(lab, &words)?;
            self.processes(service).push(process);
        }
        Ok(())
    }

    /// Starts a `serve` process, and waits until it is listening.
    fn run(&self, lab: &Lab, words: &[String]) -> Result<Child, NetnsError> {
        let mut command = lab.server_command();
        command
            .args(["--json", "serve"])
            .args(words)
            .arg("--db")
            // Each process has its own database.
            .arg(Lab::own_file(&format!("{}.sqlite", words[1].replace([':', '[', ']'], "-"))))
            // argv is readable by every user of this machine.
            .env("ORION_JWT_SECRET", &self.jwt_secret)
            .env("ORION_LOGIN_SECRET", &self.login_secret)
            .env("ORION_TURN_SECRET", &self.turn_secret)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = command.spawn().map_err(|error| not_started("nsenter", &error))?;
        match first_line(&mut process) {
            Some(line) if line.contains("\"listening\"") => {
                // Drained in the background, so that its output never blocks it.
                drop((process.stdout.take(), process.stderr.take()));
                Ok(process)
            }
            _ => Err(failed(last_words(process))),
        }
    }

    /// Kills a service, like a crash.
    pub fn kill(&mut self, service: Service) {
        for mut process in self.processes(service).drain(..) {
            // It has exited already: nothing to do.
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Asks a service to exit and waits until it has. The service notifies its clients first.
    pub fn drain(&mut self, service: Service) {
        for mut process in self.processes(service).drain(..) {
            #[cfg(unix)]
            if let Some(pid) = rustix::process::Pid::from_raw(process.id().cast_signed()) {
                // It has exited already.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
            let _ = process.wait();
        }
    }

    fn processes(&mut self, service: Service) -> &mut Vec<Child> {
        match service {
            Service::Signaling => &mut self.signaling,
            Service::Turn => &mut self.turn,
        }
    }

    /// The WebSocket URL over IPv6.
    #[must_use]
    pub fn signal_url_v6(&self) -> String {
        format!("ws://[{SERVER6}]:{PORT}")
    }

    /// The WebSocket URL of signaling.
    #[must_use]
    pub fn signal_url(&self) -> String {
        format!("ws://{SERVER}:{PORT}")
    }

    /// Environment variables with which `orion-peer` inside finds the server and signs in.
    #[must_use]
    pub fn variables(&self) -> [(&'static str, String); 2] {
        [("ORION_SIGNAL", self.signal_url()), ("ORION_ACCESS_TOKEN", self.access_token.clone())]
    }
}

/// Arguments of the `serve` process for signaling and tokens.
fn signaling(v6: bool, options: ServerOptions) -> Vec<String> {
    let mut hosts = vec![SERVER.to_string()];
    let listen = if v6 {
        hosts.push(format!("[{SERVER6}]"));
        format!("[::]:{PORT}")
    } else {
        format!("{SERVER}:{PORT}")
    };
    let mut words = vec!["--listen".to_owned(), listen, "--add-pair".to_owned(), PAIR.to_owned()];
    for host in hosts {
        for (scheme, end) in [("stun", ""), ("turn", "?transport=udp"), ("turn", "?transport=tcp")]
        {
            words.extend(["--turn-url".to_owned(), format!("{scheme}:{host}:3478{end}")]);
        }
    }
    for (flag, ttl) in [("--token-ttl", options.token_ttl), ("--turn-ttl", options.turn_ttl)] {
        words.extend(ttl.iter().flat_map(|ttl| [flag.to_owned(), format!("{}s", ttl.as_secs())]));
    }
    words
}

/// Arguments of the `serve` process for STUN and TURN.
fn turn() -> Vec<String> {
    let mut words = vec!["--listen".to_owned(), format!("{SERVER}:{TURN_HTTP_PORT}")];
    words.extend(["--turn-listen".to_owned(), format!("{SERVER}:3478")]);
    words.extend(["--turn-alternate".to_owned(), format!("{OTHER_SERVER}:{OTHER_PORT}")]);
    words.extend(relaying());
    words
}

/// Arguments of the process that listens on IPv6. It relays to IPv4, because a client that requests no
/// address family gets IPv4 (RFC 8656 §7.1).
fn turn6() -> Vec<String> {
    let mut words = vec!["--listen".to_owned(), format!("[{SERVER6}]:{TURN_HTTP_PORT}")];
    words.extend(["--turn-listen".to_owned(), format!("[{SERVER6}]:3478")]);
    words.extend(relaying());
    words
}

fn relaying() -> [String; 4] {
    ["--turn-allow-peer", PUBLIC, "--turn-relay-address", &RELAY.to_string()].map(str::to_owned)
}

impl Drop for LabServer {
    fn drop(&mut self) {
        self.kill(Service::Signaling);
        self.kill(Service::Turn);
    }
}

fn failed(cause: String) -> NetnsError {
    NetnsError::Start { program: "orion-peer serve".into(), cause }
}

fn hex_secret() -> String {
    use std::fmt::Write;
    let mut text = String::new();
    for byte in Secret::random().expose() {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A login token of the pair's user.
fn sign_in(secret: &str) -> Result<String, String> {
    let now = unix_now();
    let claims = json!({
        "sub": PAIR.rsplit(':').next(),
        "aud": AUTHENTICATED,
        "iat": now,
        "exp": now + LOGIN_LIFETIME.as_secs(),
    });
    let key = Key::hs256("lab", &Secret::from(secret)).map_err(|error| error.to_string())?;
    let keys = SigningKeys::new(vec![key]).map_err(|error| error.to_string())?;
    keys.sign(claims.to_string().as_bytes()).map_err(|error| error.to_string())
}
