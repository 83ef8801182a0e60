//! Who joins, leaves and is refused, as lines of a server for development: on a thread of its own, as a terminal may
//! block, and so often only that a flood leaves the terminal readable.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, TrySendError},
    },
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    cli::output::Output,
    metering::{Rate, TokenBucket},
    pairs::Role,
    report::{human, layout::cut},
    signaling::server::tap::{Tap, Visit},
    types::printable,
};

/// Visits that wait to be shown.
const MOST_WAITING: usize = 64;

/// Lines: twenty at once, then one a second.
const LINES: Rate = Rate::new(20, Duration::from_secs(1));

/// Longest device or pair in a line, characters.
const LONGEST_NAME: usize = 24;

/// Longest reason in a line, characters.
const LONGEST_REASON: usize = 36;

/// A tap whose visits are shown as lines, and as events with `--json`.
pub(super) fn shown(output: Output) -> Tap {
    let (sender, visits) = mpsc::sync_channel::<Visit>(MOST_WAITING);
    let dropped = Arc::new(AtomicU64::new(0));
    let left_out = Arc::clone(&dropped);
    std::thread::spawn(move || {
        let mut lines = Lines::new(Instant::now());
        for visit in visits {
            lines.left_out += left_out.swap(0, Ordering::Relaxed);
            let Some(missing) = lines.next(Instant::now()) else { continue };
            if missing > 0 {
                output.line(format!("({} left out)", human::counted(missing, "line")));
            }
            output.line(line(&visit));
            // stdout being broken is noticed where results are written.
            let _ = output.event(&event(&visit));
        }
    });
    Tap::new(move |visit| {
        if let Err(TrySendError::Full(_)) = sender.try_send(visit) {
            dropped.fetch_add(1, Ordering::Relaxed);
        }
    })
}

/// Which lines are shown; time is an argument.
struct Lines {
    bucket: TokenBucket,
    left_out: u64,
}

impl Lines {
    fn new(now: Instant) -> Self {
        Self { bucket: TokenBucket::new(LINES, now), left_out: 0 }
    }

    /// How many were left out before the line that may be shown now; none when it is left out, too.
    fn next(&mut self, now: Instant) -> Option<u64> {
        if self.bucket.take(now) {
            return Some(std::mem::take(&mut self.left_out));
        }
        self.left_out += 1;
        None
    }
}

/// A text of a client in a few characters, safe on a terminal.
fn short(text: &str, longest: usize) -> String {
    cut(&printable(text), longest)
}

/// A device, with its part when its name does not say it.
fn device(device: &str, role: Role) -> String {
    let role = word(role);
    if device == role {
        role.to_owned()
    } else {
        format!("{} ({role})", short(device, LONGEST_NAME))
    }
}

fn word(role: Role) -> &'static str {
    match role {
        Role::Ios => "phone",
        Role::Mac => "mac",
    }
}

fn from(client: Option<IpAddr>) -> String {
    client.map_or_else(String::new, |client| format!(" from {client}"))
}

/// A visit in a line.
fn line(visit: &Visit) -> String {
    match visit {
        Visit::Joined { device: id, role, pair, client } => {
            let (who, pair) = (device(id.as_str(), *role), short(pair.as_str(), LONGEST_NAME));
            format!("{who} joined (pair {pair}){}", from(*client))
        }
        Visit::Left { device: id, role, after, code, reason, .. } => {
            let why = match code {
                None => String::new(),
                Some(_) => format!(": {reason}"),
            };
            format!("{} left after {}{why}", device(id.as_str(), *role), human::duration(*after))
        }
        Visit::Refused { code, message, client } => {
            format!("refused: {}{}", why(code, message), from(*client))
        }
    }
}

/// Why somebody was refused, in a few words.
fn why(code: &str, message: &str) -> String {
    let detail = |what: &str| format!("{what} ({})", short(message, LONGEST_REASON));
    match code {
        "token-missing" => "no token".into(),
        "token-expired" => "expired token".into(),
        "bad-token" => detail("bad token"),
        "login-required" => detail("bad login token"),
        "no-pair" => "no active pair of this user with this device".into(),
        "not-in-pair" => "the device is not in an active pair of this id".into(),
        "origin" => "the web page is of an origin that may not connect".into(),
        "rate-limited" | "too-many-sockets" => short(message, LONGEST_REASON),
        code => detail(code),
    }
}

/// A visit as a JSON line.
fn event(visit: &Visit) -> serde_json::Value {
    match visit {
        Visit::Joined { device, role, pair, client } => json!({
            "event": "joined", "deviceId": device, "role": word(*role), "pairId": pair, "client": client,
        }),
        Visit::Left { device, role, pair, after, code, reason } => json!({
            "event": "left", "deviceId": device, "role": word(*role), "pairId": pair,
            "afterS": (after.as_secs_f64() * 1e3).round() / 1e3, "code": code, "reason": reason,
        }),
        Visit::Refused { code, message, client } => {
            json!({"event": "refused", "code": code, "message": message, "client": client})
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::signaling::close;

    fn client() -> Option<IpAddr> {
        "192.0.2.7".parse().ok()
    }

    fn joined(device: &str, pair: &str) -> Visit {
        let (device, pair) = (device.into(), pair.into());
        Visit::Joined { device, role: Role::Ios, pair, client: client() }
    }

    fn left(code: Option<u16>, reason: &'static str) -> Visit {
        let after = Duration::from_secs(12);
        Visit::Left {
            device: "mac".into(),
            role: Role::Mac,
            pair: "demo".into(),
            after,
            code,
            reason,
        }
    }

    fn refused(code: &'static str, message: &str) -> Visit {
        Visit::Refused { code, message: message.to_owned(), client: client() }
    }

    #[test]
    fn visits_are_short_lines() {
        for (visit, expected) in [
            (joined("phone", "demo"), "phone joined (pair demo) from 192.0.2.7"),
            (joined("my-iphone", "p1"), "my-iphone (phone) joined (pair p1) from 192.0.2.7"),
            (left(None, "the connection is closed"), "mac left after 12.0 s"),
            (
                left(Some(close::TOKEN_EXPIRED), "the token expired"),
                "mac left after 12.0 s: the token expired",
            ),
            (
                refused("token-expired", "the token expired 20 s ago"),
                "refused: expired token from 192.0.2.7",
            ),
            (
                refused("bad-token", "the signature does not match"),
                "refused: bad token (the signature does not match) from 192.0.2.7",
            ),
            (refused("token-missing", "there is no token"), "refused: no token from 192.0.2.7"),
        ] {
            assert_eq!(line(&visit), expected);
        }
    }

    #[test]
    fn clients_cannot_fill_or_steer_a_terminal() {
        let hostile = "\u{1b}]0;x\u{7}\r\nrefused: nobody".repeat(20);
        let visits = [
            joined(&hostile, &hostile),
            refused("bad-token", &hostile),
            refused("malformed", &hostile),
        ];
        for visit in visits {
            let line = line(&visit);
            assert!(!line.chars().any(char::is_control), "{line:?}");
            assert!(line.chars().count() <= 100, "{line:?}");
        }
        let start = Instant::now();
        let mut lines = Lines::new(start);
        let shown = (0..10_000).filter(|_| lines.next(start).is_some()).count();
        assert_eq!(shown, 20);
        assert_eq!(lines.next(start + Duration::from_secs(1)), Some(9_980), "the rest is counted");
        assert_eq!(lines.next(start + Duration::from_secs(2)), Some(0));
    }
}
