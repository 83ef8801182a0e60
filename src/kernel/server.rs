//! `orion-peer serve` inside a lab: signaling, token API, STUN and TURN at 203.0.113.10, with secrets
//! of its own that nobody else has.

use std::{
    fmt,
    process::{Child, Stdio},
    time::Duration,
};

use serde_json::json;

use super::{
    coturn::OTHER_PORT,
    error::KernelError,
    holder::not_started,
    lab::{Lab, first_line, last_words},
    plan::Place,
    topology::{OTHER_SERVER, RELAY, SERVER},
};
use crate::auth::{
    jws::{Key, SigningKeys},
    login::AUTHENTICATED,
    secret::Secret,
    unix_now,
};

/// Port of signaling and the token API.
const PORT: u16 = 8787;

/// The pair that is there: id, phone, mac, user.
const PAIR: &str = "demo:phone:mac:lab";

/// How long the login token is good for: a lab is not open for longer.
const LOGIN_LIFETIME: Duration = Duration::from_hours(30 * 24);

/// Addresses that are public inside, although nobody has them outside (RFC 5737).
const PUBLIC: &str = "203.0.113.0/24,198.51.100.0/24,192.0.2.0/24";

/// A running server; it is killed when this is dropped, and with the lab.
pub struct LabServer {
    process: Child,
    access_token: String,
}

impl fmt::Debug for LabServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LabServer").field("process", &self.process.id()).finish_non_exhaustive()
    }
}

impl LabServer {
    pub(super) fn start(lab: &Lab) -> Result<Self, KernelError> {
        let failed =
            |cause: String| KernelError::Start { program: "orion-peer serve".into(), cause };
        let login = hex_secret();
        let access_token = sign_in(&login).map_err(failed)?;
        let mut command = lab.own_in(Place::Internet);
        command
            .args(["--json", "serve", "--listen", &format!("{SERVER}:{PORT}")])
            .args(["--add-pair", PAIR, "--turn-allow-peer", PUBLIC])
            .args(["--turn-relay-address", &RELAY.to_string()])
            .args(["--turn-alternate", &format!("{OTHER_SERVER}:{OTHER_PORT}")])
            .arg("--db")
            .arg(lab.file("pairs.sqlite"))
            // argv can be read by everybody on this machine.
            .env("ORION_JWT_SECRET", hex_secret())
            .env("ORION_LOGIN_SECRET", login)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = command.spawn().map_err(|error| not_started("nsenter", &error))?;
        match first_line(&mut process) {
            Some(line) if line.contains("\"listening\"") => {
                // Nobody reads on: what it says must not make it wait.
                drop((process.stdout.take(), process.stderr.take()));
                Ok(Self { process, access_token })
            }
            _ => Err(failed(last_words(process))),
        }
    }

    /// WebSocket of signaling.
    #[must_use]
    pub fn signal_url(&self) -> String {
        format!("ws://{SERVER}:{PORT}")
    }

    /// Variables by which `orion-peer` inside finds the server and signs in.
    #[must_use]
    pub fn variables(&self) -> [(&'static str, String); 2] {
        [("ORION_SIGNAL", self.signal_url()), ("ORION_ACCESS_TOKEN", self.access_token.clone())]
    }
}

impl Drop for LabServer {
    fn drop(&mut self) {
        // It has ended already: nothing to do.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
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
