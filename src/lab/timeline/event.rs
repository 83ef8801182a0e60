//! One line of a timeline: the time, the event, its duration, and the time within which keyframes have to
//! flow again.
//!
//! ```text
//! at 10s: kill signaling for 3s
//! at 20s: nat a -> sym, within 10s
//! ```

use std::{fmt, str::FromStr, time::Duration};

use crate::{
    nat::{IpVersions, Layer, LinkChanges, NamedNetwork, Profile, link::IpVersionsError, network},
    netns::{Location, NetworkPlan, Service},
    text::edit_distance,
    units,
};

/// A scheduled event.
#[derive(Debug, Clone, PartialEq)]
pub struct TimelineEvent {
    /// When it happens, relative to the start of the timeline.
    pub at: Duration,
    /// What happens.
    pub action: EventAction,
    /// How long until it is undone.
    pub lasting: Option<Duration>,
    /// Maximum recovery time after it has ended.
    pub within: Option<Duration>,
    /// The line as written, without the time.
    pub text: String,
}

/// What an event does.
#[derive(Debug, Clone, PartialEq)]
pub enum EventAction {
    /// Kills a process, like a crash.
    Kill(EventTarget),
    /// Asks a process to end; a server notifies its clients first.
    Stop(EventTarget),
    /// Starts a process that has ended.
    Start(EventTarget),
    /// Asks a process to end and starts it again.
    Restart(EventTarget),
    /// Joins with the same device a second time; the newer socket replaces the older one.
    Takeover(Location),
    /// Suspends a peer's process, like a sleeping laptop.
    Sleep(Location),
    /// Replaces the NAT in front of a peer, which changes its public address.
    Nat(Location, Layer),
    /// Moves a peer to another network, or back home (`None`).
    Move(Location, Option<Box<NetworkPlan>>),
    /// Gives a peer another address in its network.
    Address(Location),
    /// Disconnects a peer from its network.
    Unplug(Location),
    /// Resets a peer's TCP connection to the signaling server and refuses new ones until the event is over;
    /// media and TURN are not affected.
    SignalingOff(Location),
    /// Changes the link of one peer, or of both (`None`).
    Link(Option<Location>, LinkChanges),
}

/// A process that can end and start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventTarget {
    /// A process of the server.
    Server(Service),
    /// `send` (A) or `recv` (B).
    Peer(Location),
}

/// A line that is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{line}`: {problem}")]
pub struct EventError {
    /// The line as written.
    pub line: String,
    /// The problem, and the valid forms.
    pub problem: String,
}

/// Syntax of all events.
const FORMS: [&str; 18] = [
    "kill signaling|turn|a|b",
    "stop signaling|turn|a|b",
    "start signaling|turn|a|b",
    "restart signaling|turn|a|b",
    "takeover a|b",
    "sleep a|b for TIME",
    "nat a|b -> NAT",
    "move a|b -> NETWORK|home [over ipv4|ipv6|ipv4+ipv6]",
    "address a|b",
    "unplug a|b for TIME",
    "signaling off a|b for TIME",
    "loss [a|b] SHARE",
    "loss-burst [a|b] PACKETS",
    "delay [a|b] TIME",
    "jitter [a|b] TIME",
    "rate [a|b] RATE",
    "queue [a|b] SIZE|TIME",
    "cut [a|b]",
];

impl FromStr for TimelineEvent {
    type Err = EventError;

    fn from_str(line: &str) -> Result<Self, EventError> {
        event(line).map_err(|problem| EventError { line: line.to_owned(), problem })
    }
}

impl fmt::Display for TimelineEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {}s: {}", self.at.as_secs_f64(), self.text)
    }
}

impl TimelineEvent {
    /// When it is over.
    #[must_use]
    pub fn end(&self) -> Duration {
        self.at + self.lasting.unwrap_or_default()
    }
}

fn event(line: &str) -> Result<TimelineEvent, String> {
    let (when, text) = line
        .split_once(':')
        .ok_or("use `at TIME: WHAT`, as in `at 10s: kill signaling`".to_owned())?;
    let when = when.trim().strip_prefix("at ").ok_or("it must begin with `at TIME:`".to_owned())?;
    let at = time(when)?;
    let text = text.trim();
    let (rest, within) = match text.rsplit_once(',') {
        Some((rest, last)) => {
            let within = last.trim().strip_prefix("within ");
            let within = within.ok_or(format!("`{}` is not `within TIME`", last.trim()))?;
            (rest, Some(time(within)?))
        }
        None => (text, None),
    };
    let words: Vec<&str> = rest.split_whitespace().collect();
    let (words, lasting) = match words.as_slice() {
        [words @ .., "for", long] => (words, Some(time(long)?)),
        words => (words, None),
    };
    let action = action(words)?;
    lasts(&action, lasting)?;
    Ok(TimelineEvent { at, action, lasting, within, text: text.to_owned() })
}

fn time(text: &str) -> Result<Duration, String> {
    units::duration(text.trim()).map_err(|error| error.to_string())
}

/// Checks whether the event may or must have a duration.
fn lasts(action: &EventAction, lasting: Option<Duration>) -> Result<(), String> {
    let has_to = matches!(
        action,
        EventAction::Sleep(_) | EventAction::Unplug(_) | EventAction::SignalingOff(_)
    );
    let cannot = matches!(
        action,
        EventAction::Start(_)
            | EventAction::Restart(_)
            | EventAction::Takeover(_)
            | EventAction::Address(_)
    );
    match lasting {
        None if has_to => Err("add a duration, as in `sleep a for 60s`".into()),
        Some(_) if cannot => Err("this event is instantaneous: omit `for`".into()),
        Some(Duration::ZERO) => Err("`for 0s` is not a valid duration".into()),
        _ => Ok(()),
    }
}

fn action(words: &[&str]) -> Result<EventAction, String> {
    let [verb, rest @ ..] = words else { return Err("the event is missing".into()) };
    let target = || match rest {
        ["signaling"] => Ok(EventTarget::Server(Service::Signaling)),
        ["turn"] => Ok(EventTarget::Server(Service::Turn)),
        [name] => location(name).map(EventTarget::Peer).map_err(|_| unknown_target(name)),
        _ => Err(form(verb)),
    };
    let one = || match rest {
        [name] => location(name),
        _ => Err(form(verb)),
    };
    match *verb {
        "kill" => target().map(EventAction::Kill),
        "stop" => target().map(EventAction::Stop),
        "start" => target().map(EventAction::Start),
        "restart" => target().map(EventAction::Restart),
        "takeover" => one().map(EventAction::Takeover),
        "sleep" => one().map(EventAction::Sleep),
        "address" => one().map(EventAction::Address),
        "unplug" => one().map(EventAction::Unplug),
        "signaling" => match rest {
            ["off", name] => location(name).map(EventAction::SignalingOff),
            _ => Err(form(verb)),
        },
        "nat" => {
            let (who, name) = to(verb, rest)?;
            match one_nat(&named(name)?.profile) {
                Some(layer) => Ok(EventAction::Nat(who, layer)),
                None => {
                    Err(format!("`{name}` is not a single NAT: use `move` to change the network"))
                }
            }
        }
        "move" => {
            let (rest, ip) = match rest {
                [rest @ .., "over", ip] => {
                    (rest, ip.parse().map_err(|error: IpVersionsError| error.to_string())?)
                }
                rest => (rest, IpVersions::default()),
            };
            match to(verb, rest)? {
                (who, "home") => Ok(EventAction::Move(who, None)),
                (who, name) => {
                    let NamedNetwork { profile, link, .. } = named(name)?;
                    let network = NetworkPlan { profile, link, ip, mtu: None };
                    Ok(EventAction::Move(who, Some(network.into())))
                }
            }
        }
        "loss" | "loss-burst" | "delay" | "jitter" | "rate" | "queue" | "cut" => link(verb, rest),
        verb => Err(unknown(verb)),
    }
}

fn location(name: &str) -> Result<Location, String> {
    match name {
        "a" => Ok(Location::A),
        "b" => Ok(Location::B),
        name => Err(format!("`{name}` is neither a (the phone, `send`) nor b (the Mac, `recv`)")),
    }
}

fn unknown_target(name: &str) -> String {
    format!("`{name}` is not one of signaling, turn, a (`send`) and b (`recv`)")
}

fn to<'w>(verb: &str, rest: &[&'w str]) -> Result<(Location, &'w str), String> {
    match rest {
        [who, "->", name] => Ok((location(who)?, name)),
        _ => Err(form(verb)),
    }
}

fn named(name: &str) -> Result<NamedNetwork, String> {
    network(name).map_err(|error| error.to_string())
}

/// The layer of a profile that is a single NAT.
#[must_use]
pub fn one_nat(profile: &Profile) -> Option<Layer> {
    match profile.layers[..] {
        [layer @ Layer::Nat(_)] => Some(layer),
        _ => None,
    }
}

fn link(verb: &str, rest: &[&str]) -> Result<EventAction, String> {
    let (who, value) = match (verb, rest) {
        ("cut", []) => (None, "100%"),
        ("cut", [who]) => (Some(location(who)?), "100%"),
        (_, [value]) => (None, *value),
        (_, [who, value]) => (Some(location(who)?), *value),
        _ => return Err(form(verb)),
    };
    let mut changes = LinkChanges::default();
    let wrong = |error: units::UnitError| error.to_string();
    match verb {
        "loss" | "cut" => changes.loss = Some(units::percentage(value).map_err(wrong)?),
        "delay" => changes.delay = Some(units::duration(value).map_err(wrong)?),
        "jitter" => changes.jitter = Some(units::duration(value).map_err(wrong)?),
        "rate" => changes.rate = Some(units::bit_rate(value).map_err(wrong)?),
        "queue" => changes.queue = Some(value.parse()?),
        _ => {
            let packets =
                value.parse().map_err(|_| format!("`{value}` is not a valid number of packets"))?;
            changes.loss_burst = Some(packets);
        }
    }
    Ok(EventAction::Link(who, changes))
}

/// The syntax of an event as a hint.
fn form(verb: &str) -> String {
    let form = FORMS.iter().find(|form| form.split(' ').next() == Some(verb));
    form.map_or_else(|| unknown(verb), |form| format!("use `{form}`"))
}

fn unknown(verb: &str) -> String {
    let near =
        FORMS.iter().min_by_key(|form| edit_distance(verb, form.split(' ').next().unwrap_or("")));
    match near.filter(|form| edit_distance(verb, form.split(' ').next().unwrap_or("")) <= 2) {
        Some(form) => format!("unknown event `{verb}`; did you mean `{form}`?"),
        None => format!("unknown event `{verb}`; supported: {}", FORMS.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<TimelineEvent, String> {
        line.parse().map_err(|error: EventError| error.to_string())
    }

    #[test]
    fn events_are_parsed() {
        let event = read("at 10s: kill signaling for 3s, within 500ms").unwrap();
        assert_eq!((event.at, event.end()), (Duration::from_secs(10), Duration::from_secs(13)));
        assert_eq!(event.action, EventAction::Kill(EventTarget::Server(Service::Signaling)));
        assert_eq!(event.within, Some(Duration::from_millis(500)));
        assert_eq!(event.to_string(), "at 10s: kill signaling for 3s, within 500ms");
        let EventAction::Nat(Location::A, nat) = read("at 1m: nat a -> sym").unwrap().action else {
            panic!()
        };
        assert_eq!(nat.to_string(), "sym");
        let EventAction::Move(Location::B, Some(lte)) =
            read("at 0s: move b -> lte").unwrap().action
        else {
            panic!()
        };
        assert!(!lte.link.is_clear() && lte.ip == IpVersions::V4, "the network's own link");
        let read_move = read("at 0s: move b -> lte over ipv6 for 3s").unwrap();
        let EventAction::Move(_, Some(lte)) = read_move.action else { panic!() };
        assert!(lte.ip == IpVersions::V6 && read_move.lasting.is_some());
        assert_eq!(
            read("at 1s: move a -> home").unwrap().action,
            EventAction::Move(Location::A, None)
        );
        let off = read("at 2s: signaling off b for 3s").unwrap();
        assert_eq!(off.action, EventAction::SignalingOff(Location::B));
        assert_eq!(off.end(), Duration::from_secs(5));
        let EventAction::Link(None, changes) = read("at 30s: loss 30% for 5s").unwrap().action
        else {
            panic!()
        };
        assert_eq!(changes.loss, Some(0.3));
        let EventAction::Link(Some(Location::B), changes) =
            read("at 30s: rate b 1Mbit").unwrap().action
        else {
            panic!()
        };
        assert_eq!(changes.rate, Some(1_000_000));
        let EventAction::Link(Some(Location::A), cut) = read("at 3s: cut a for 2s").unwrap().action
        else {
            panic!()
        };
        assert_eq!(cut.loss, Some(1.0));
    }

    #[test]
    fn every_listed_event_is_parsed() {
        for form in FORMS {
            let verb = form.split(' ').next().unwrap();
            let error = action(&[verb, "no", "such", "arguments"]).unwrap_err();
            assert!(!error.contains("unknown event"), "{form}: {error}");
        }
        let EventAction::Link(None, changes) = read("at 1s: queue 32KB").unwrap().action else {
            panic!()
        };
        assert!(changes.queue.is_some());
    }

    #[test]
    fn errors_show_the_syntax() {
        for (line, words) in [
            ("kill signaling", "use `at TIME: WHAT`"),
            ("10s: kill signaling", "begin with `at TIME:`"),
            ("at ten: kill a", "ten"),
            ("at 1s:", "the event is missing"),
            ("at 1s: kil a", "did you mean `kill signaling|turn|a|b`"),
            ("at 1s: explode", "supported: kill"),
            ("at 1s: kill c", "not one of signaling, turn, a"),
            ("at 1s: kill", "use `kill signaling|turn|a|b`"),
            ("at 1s: sleep a", "add a duration"),
            ("at 1s: unplug b", "add a duration"),
            ("at 1s: signaling off a", "add a duration"),
            ("at 1s: signaling a for 1s", "use `signaling off a|b for TIME`"),
            ("at 1s: signaling off turn for 1s", "neither a"),
            ("at 1s: sleep c for 1s", "neither a"),
            ("at 1s: restart a for 3s", "omit `for`"),
            ("at 1s: cut for 0s", "not a valid duration"),
            ("at 1s: nat a sym", "use `nat a|b -> NAT`"),
            ("at 1s: nat a -> symm", "did you mean"),
            ("at 1s: nat a -> udp-blocked", "use `move`"),
            ("at 1s: move a -> lte over ipv5", "ipv5"),
            ("at 1s: loss a 200%", "200%"),
            ("at 1s: loss-burst a many", "not a valid number of packets"),
            ("at 1s: cut a, later", "not `within TIME`"),
        ] {
            let error = read(line).unwrap_err();
            assert!(error.contains(words), "{line}: {error}");
        }
    }
}
