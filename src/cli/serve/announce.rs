//! The startup output of `serve`: its URLs and how to connect.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use super::{Mode, ServeArgs, Served, lan, lan::Access, login, reachable};
use crate::{
    auth::login::DEV_TOKEN,
    cli::{
        connect::{DEV_SIGNAL, SIGNAL_PATH},
        failure::Failure,
        output::Output,
    },
    proto::signaling,
    report::layout::{WIDTH, wrap},
    server::{self, RunningServer, tls::Tls},
    turn::TurnServer,
};

/// A listening server and its configuration.
pub(super) struct Announcement<'a> {
    args: &'a ServeArgs,
    served: &'a Served,
    tls: Option<&'a Tls>,
    mode: Mode,
    access: Option<Access>,
    /// The URLs for each reachable address, best first; never empty.
    urls: Vec<ServerUrls>,
    /// Addresses of STUN and TURN: over UDP and TCP, and over TLS.
    relay: [Option<SocketAddr>; 2],
}

/// URLs of the server at one address.
struct ServerUrls {
    ip: IpAddr,
    signal: String,
    token: String,
    page: String,
}

impl<'a> Announcement<'a> {
    /// Determines the addresses of the server.
    pub(super) fn new(
        args: &'a ServeArgs,
        served: &'a Served,
        tls: Option<&'a Tls>,
        mode: Mode,
        access: Option<Access>,
    ) -> Self {
        let public = args.turn.public_address;
        let (urls, relay) = (urls(&served.server, public), relay(served, public));
        Self { args, served, tls, mode, access, urls, relay }
    }

    /// Shows the startup output.
    ///
    /// # Errors
    /// stdout is not writable.
    pub(super) fn show(&self, output: Output) -> Result<(), Failure> {
        let server = &self.served.server;
        tracing::info!(
            address = %server.local_addr(),
            signal = self.first().signal,
            tls_sha256 = self.pin(),
            version = env!("CARGO_PKG_VERSION"),
            dev = self.mode == Mode::Dev,
            "listening"
        );
        for line in self.lines() {
            output.line(line);
        }
        self.draw(output);
        output.event(&self.event())
    }

    fn pin(&self) -> Option<String> {
        self.tls.map(|tls| tls.fingerprint().to_string())
    }

    fn first(&self) -> &ServerUrls {
        &self.urls[0]
    }

    fn has_page(&self) -> bool {
        self.args.page || self.mode.is_development()
    }

    fn lines(&self) -> Vec<String> {
        let server = &self.served.server;
        let mut lines = vec![format!("listening on {}", server.local_addr())];
        let each = |url: fn(&ServerUrls) -> &String| {
            self.urls.iter().map(url).cloned().collect::<Vec<_>>()
        };
        rows(&mut lines, "signaling", &each(|at| &at.signal));
        if login::has_token_api(self.args, self.mode) {
            rows(&mut lines, "token API", &each(|at| &at.token));
        } else {
            rows(
                &mut lines,
                "token API",
                &["off (needs --login-jwks or --login-secret)".to_owned()],
            );
        }
        rows(&mut lines, "STUN/TURN", &self.describe_relay());
        if self.has_page() {
            rows(&mut lines, "page", &each(|at| &at.page));
        }
        if let Some(pin) = self.pin() {
            rows(&mut lines, "TLS pin", &[pin]);
        }
        if let Some(address) = server.metrics_addr() {
            rows(&mut lines, "metrics", &[format!("http://{address}/metrics")]);
        }
        if !self.args.store.has_place() && self.mode == Mode::Production {
            lines.push("pairs are kept in memory only; use --db FILE to persist them".into());
        }
        match &self.access {
            Some(access) => self.lan(&mut lines, access),
            None if self.mode == Mode::Dev => self.dev(&mut lines),
            None => {}
        }
        lines
    }

    fn describe_relay(&self) -> Vec<String> {
        match self.relay {
            [Some(address), tls] => {
                let tls =
                    tls.map(|tls| format!("; TLS on port {}", tls.port())).unwrap_or_default();
                vec![format!("{address}, UDP and TCP{tls}")]
            }
            _ if self.args.turn.turn_url.is_empty() => vec!["off".to_owned()],
            _ => self.args.turn.turn_url.clone(),
        }
    }

    fn dev(&self, lines: &mut Vec<String>) {
        let (pair, phone, mac) = (server::DEV_PAIR, server::DEV_PHONE, server::DEV_MAC);
        lines.push(format!(
            "dev server: pair `{pair}`, devices `{phone}` and `{mac}`, login token `{DEV_TOKEN}`"
        ));
        let signal = &self.first().signal;
        let mut flags = Vec::new();
        if *signal != format!("{DEV_SIGNAL}{SIGNAL_PATH}") {
            flags.push(format!("--signal {signal}"));
        }
        flags.extend(self.pin().map(|pin| format!("--tls-pin {pin}")));
        lines.push("connect with:".into());
        lines.extend(commands(&flags));
    }

    fn lan(&self, lines: &mut Vec<String>, access: &Access) {
        let at = self.first();
        if at.ip.is_loopback() {
            lines.push("no network interface is up, so only this machine can connect".into());
        }
        let (pair, phone, mac) = (server::DEV_PAIR, server::DEV_PHONE, server::DEV_MAC);
        lines.push(format!(
            "pair `{pair}`, devices `{phone}` and `{mac}`, login token for the token API:"
        ));
        rows(lines, "login", std::slice::from_ref(&access.login));
        lines.push("connect from another machine with:".into());
        let mut flags = vec![
            format!("--signal {}", at.signal.trim_end_matches(signaling::PATH)),
            format!("--access-token {}", access.login),
        ];
        flags.extend(self.pin().map(|pin| format!("--tls-pin {pin}")));
        lines.extend(commands(&flags));
        let text = if self.tls.is_some() {
            "iOS (App Transport Security) rejects this certificate unless the app verifies the TLS pin itself; \
             alternatively, use --no-tls and set NSAllowsLocalNetworking in the app's Info.plist"
        } else {
            "iOS (App Transport Security) rejects ws:// and http:// unless the app's Info.plist sets \
             NSAllowsLocalNetworking"
        };
        lines.extend(wrap(text, 0, WIDTH));
        lines.push(
            "to join from the phone, open this URL in its browser or scan it in the app:".into(),
        );
        lines.push(format!("  {}", self.join_url(access, at)));
    }

    fn join_url(&self, access: &Access, at: &ServerUrls) -> String {
        access.join_url(&at.page, self.tls.map(Tls::fingerprint))
    }

    /// Shows the QR code of the join URL, if requested or if the terminal is wide enough.
    fn draw(&self, output: Output) {
        let Some(access) = &self.access else { return };
        let Some(lines) = lan::qr(&self.join_url(access, self.first())) else { return };
        let width = lines.first().map_or(0, |line| line.chars().count());
        let terminal = terminal_size::terminal_size_of(std::io::stderr());
        let fits = terminal.is_some_and(|(columns, _)| usize::from(columns.0) >= width);
        if fits || self.args.lan.qr {
            output.drawing(&lines);
        }
    }

    fn event(&self) -> Value {
        let server = &self.served.server;
        let token_api = login::has_token_api(self.args, self.mode);
        let [relay, tls] = self.relay;
        let at = self.first();
        let urls = |at: &ServerUrls| {
            json!({
                "address": at.ip,
                "signalUrl": at.signal,
                "tokenUrl": token_api.then_some(&at.token),
                "pageUrl": self.has_page().then_some(&at.page),
            })
        };
        let mut event = json!({
            "event": "listening",
            "address": server.local_addr().to_string(),
            "signalUrl": at.signal,
            "tokenUrl": token_api.then_some(&at.token),
            "urls": self.urls.iter().map(urls).collect::<Vec<_>>(),
            "turn": relay.map(|address| address.to_string()),
            "turnTls": tls.map(|address| address.to_string()),
            "tlsSha256": self.pin(),
            "metrics": server.metrics_addr().map(|address| address.to_string()),
            "dev": self.mode == Mode::Dev,
        });
        if let Some(access) = &self.access {
            event["lan"] = json!({
                "pairId": server::DEV_PAIR,
                "devices": {"phone": server::DEV_PHONE, "mac": server::DEV_MAC},
                "loginToken": access.login,
                "joinUrl": self.join_url(access, at),
            });
        }
        event
    }
}

/// The URLs for each reachable address, best first; never empty.
fn urls(server: &RunningServer, public: Option<IpAddr>) -> Vec<ServerUrls> {
    let at = |ip| ServerUrls {
        ip,
        signal: server.signal_url_at(ip),
        token: server.token_url_at(ip),
        page: server.page_url_at(ip),
    };
    let addresses = reachable::addresses(server.local_addr().ip(), public);
    let mut urls: Vec<ServerUrls> = addresses.into_iter().map(at).collect();
    // The name in a certificate is the same for all addresses.
    urls.dedup_by(|one, other| one.signal == other.signal);
    urls
}

/// Addresses of STUN and TURN: over UDP and TCP, and over TLS.
fn relay(served: &Served, public: Option<IpAddr>) -> [Option<SocketAddr>; 2] {
    let relay = served.relay.as_ref();
    let at = |bound: SocketAddr| {
        SocketAddr::new(reachable::addresses(bound.ip(), public)[0], bound.port())
    };
    [relay.and_then(TurnServer::udp_address), relay.and_then(TurnServer::tls_address)]
        .map(|bound| bound.map(at))
}

/// Adds one line per value; the label precedes the first one.
fn rows(lines: &mut Vec<String>, label: &str, values: &[String]) {
    for (index, value) in values.iter().enumerate() {
        let label = if index == 0 { label } else { "" };
        lines.push(format!("  {label:<10} {value}"));
    }
}

/// The commands to join with these flags, ready to paste into a shell.
fn commands(flags: &[String]) -> Vec<String> {
    let mut lines = Vec::new();
    for command in ["orion-peer recv --out frames/", "orion-peer send --source pattern"] {
        let mut line = format!("  {command}");
        for flag in flags {
            // Leaves space for the backslash.
            if line.chars().count() + 1 + flag.chars().count() + 2 > WIDTH {
                lines.push(format!("{line} \\"));
                line = format!("    {flag}");
            } else {
                line = format!("{line} {flag}");
            }
        }
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_fit_a_terminal_and_can_be_pasted() {
        let flags = [
            "--signal wss://[2001:db8:1234:5678:9abc:def0:1234:5678]:65535".to_owned(),
            format!("--access-token {}", "a".repeat(26)),
            format!("--tls-pin {}", "0".repeat(64)),
        ];
        let lines = commands(&flags);
        assert!(lines.iter().all(|line| line.chars().count() <= WIDTH), "{lines:#?}");
        let pasted = lines.join("\n").replace(" \\\n   ", "");
        assert!(pasted.contains(&format!("recv --out frames/ {}", flags.join(" "))), "{pasted}");
        assert_eq!(
            commands(&[]),
            ["  orion-peer recv --out frames/", "  orion-peer send --source pattern"]
        );
    }
}
