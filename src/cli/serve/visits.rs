//! Output lines of a dev server about clients that join, leave or are rejected. They are written on a separate
//! thread, because a terminal may block, and are rate-limited, so that a flood leaves the terminal readable.

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
    text::printable,
};

/// Maximum number of queued visits.
const MAX_QUEUED: usize = 64;

/// Rate of lines: a burst of twenty, then one per second.
const LINE_RATE: Rate = Rate::new(20, Duration::from_secs(1));

/// Maximum length of a device or pair id in a line, in characters.
const MAX_NAME: usize = 24;

/// Maximum length of a reason in a line, in characters.
const MAX_REASON: usize = 36;

/// A tap that shows visits as lines, and as events with `--json`.
pub(super) fn shown(output: Output) -> Tap {
    let (sender, visits) = mpsc::sync_channel::<Visit>(MAX_QUEUED);
    let dropped = Arc::new(AtomicU64::new(0));
    let omitted = Arc::clone(&dropped);
    std::thread::spawn(move || {
        let mut throttle = LineThrottle::new(Instant::now());
        for visit in visits {
            throttle.omitted += omitted.swap(0, Ordering::Relaxed);
            let Some(skipped) = throttle.next(Instant::now()) else { continue };
            if skipped > 0 {
                output.line(format!("({} omitted)", human::counted(skipped, "line")));
            }
            output.line(line(&visit));
            // A broken stdout is reported where results are written.
            let _ = output.event(&event(&visit));
        }
    });
    Tap::new(move |visit| {
        if let Err(TrySendError::Full(_)) = sender.try_send(visit) {
            dropped.fetch_add(1, Ordering::Relaxed);
        }
    })
}

/// Decides which lines are shown.
struct LineThrottle {
    bucket: TokenBucket,
    omitted: u64,
}

impl LineThrottle {
    fn new(now: Instant) -> Self {
        Self { bucket: TokenBucket::new(LINE_RATE, now), omitted: 0 }
    }

    /// The number of lines omitted before this one; `None` if this one is omitted, too.
    fn next(&mut self, now: Instant) -> Option<u64> {
        if self.bucket.take(now) {
            return Some(std::mem::take(&mut self.omitted));
        }
        self.omitted += 1;
        None
    }
}

/// Text from a client, shortened and made safe for a terminal.
fn short(text: &str, maximum: usize) -> String {
    cut(&printable(text), maximum)
}

/// A device, with its role unless the id is the role.
fn device(device: &str, role: Role) -> String {
    let role = role_name(role);
    if device == role { role.to_owned() } else { format!("{} ({role})", short(device, MAX_NAME)) }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Phone => "phone",
        Role::Mac => "mac",
    }
}

fn from(client: Option<IpAddr>) -> String {
    client.map_or_else(String::new, |client| format!(" from {client}"))
}

/// Describes a visit in one line.
fn line(visit: &Visit) -> String {
    match visit {
        Visit::Joined { device: id, role, pair, client } => {
            let (who, pair) = (device(id.as_str(), *role), short(pair.as_str(), MAX_NAME));
            format!("{who} joined (pair {pair}){}", from(*client))
        }
        Visit::Left { device: id, role, after, code, reason, .. } => {
            let reason = match code {
                None => String::new(),
                Some(_) => format!(": {reason}"),
            };
            format!("{} left after {}{reason}", device(id.as_str(), *role), human::duration(*after))
        }
        Visit::Refused { code, message, client } => {
            format!("rejected: {}{}", rejection(code, message), from(*client))
        }
    }
}

/// Describes briefly why a client was rejected.
fn rejection(code: &str, message: &str) -> String {
    let detail = |what: &str| format!("{what} ({})", short(message, MAX_REASON));
    match code {
        "token-missing" => "no token".into(),
        "token-expired" => "expired token".into(),
        "bad-token" => detail("bad token"),
        "login-required" => detail("bad login token"),
        "no-pair" => "this user has no active pair with this device".into(),
        "not-in-pair" => "the device is not in an active pair with this id".into(),
        "origin" => "the origin of the web page is not allowed".into(),
        "rate-limited" | "too-many-sockets" => short(message, MAX_REASON),
        code => detail(code),
    }
}

/// A visit as a JSON line.
fn event(visit: &Visit) -> serde_json::Value {
    match visit {
        Visit::Joined { device, role, pair, client } => json!({
            "event": "joined", "deviceId": device, "role": role_name(*role), "pairId": pair, "client": client,
        }),
        Visit::Left { device, role, pair, after, code, reason } => json!({
            "event": "left", "deviceId": device, "role": role_name(*role), "pairId": pair,
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
        Visit::Joined { device, role: Role::Phone, pair, client: client() }
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
    fn visits_are_described_in_short_lines() {
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
                "rejected: expired token from 192.0.2.7",
            ),
            (
                refused("bad-token", "the signature does not match"),
                "rejected: bad token (the signature does not match) from 192.0.2.7",
            ),
            (refused("token-missing", "there is no token"), "rejected: no token from 192.0.2.7"),
        ] {
            assert_eq!(line(&visit), expected);
        }
    }

    #[test]
    fn clients_cannot_flood_or_control_a_terminal() {
        let hostile = "\u{1b}]0;x\u{7}\r\nrejected: nothing".repeat(20);
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
        let mut throttle = LineThrottle::new(start);
        let shown = (0..10_000).filter(|_| throttle.next(start).is_some()).count();
        assert_eq!(shown, 20);
        assert_eq!(
            throttle.next(start + Duration::from_secs(1)),
            Some(9_980),
            "the rest is counted"
        );
        assert_eq!(throttle.next(start + Duration::from_secs(2)), Some(0));
    }
}
