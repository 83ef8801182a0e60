//! One line of a time line: when, what happens, for how long, and within what time keyframes have to flow
//! again.
//!
//! ```text
//! at 10s: kill signaling for 3s
//! at 20s: nat a -> sym, within 10s
//! ```

use std::{fmt, str::FromStr, time::Duration};

use crate::{
    nat::{IpVersions, Layer, LinkChanges, NamedNetwork, Profile, link::IpVersionsError, network},
    netns::{Network, Place, Service},
    types::edit_distance,
    units,
};

/// Something that happens.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// When, from the first keyframes on.
    pub at: Duration,
    /// What.
    pub action: Action,
    /// After this time it is undone.
    pub lasting: Option<Duration>,
    /// Keyframes have to flow again so long after it is over.
    pub within: Option<Duration>,
    /// As it was written, without the time.
    pub text: String,
}

/// What happens.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// A process is killed, as by a crash.
    Kill(Target),
    /// A process is asked to end; a server tells its clients before it does.
    Stop(Target),
    /// A process that has ended starts again.
    Start(Target),
    /// A process is asked to end, and starts again.
    Restart(Target),
    /// The same device signs in a second time, and the newer socket wins.
    Takeover(Place),
    /// A peer's process is stopped, as a laptop that sleeps.
    Sleep(Place),
    /// The machine in front of a peer becomes another NAT, with another address on the internet.
    Nat(Place, Layer),
    /// A peer moves to another network, or back home.
    Move(Place, Option<Box<Network>>),
    /// A peer gets another address in its network.
    Address(Place),
    /// A peer is without any network.
    Unplug(Place),
    /// A peer's TCP connection to the signaling server is reset, and refused until it is over; media and TURN
    /// are not affected.
    SignalingOff(Place),
    /// The link of a peer, or of both, changes.
    Link(Option<Place>, LinkChanges),
}

/// Who ends and starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// A process of the server.
    Server(Service),
    /// `send` (A) or `recv` (B).
    Peer(Place),
}

/// A line that means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{line}`: {problem}")]
pub struct EventError {
    /// As it was written.
    pub line: String,
    /// What is wrong with it, and what there is.
    pub problem: String,
}

/// What can happen, as it is written.
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

impl FromStr for Event {
    type Err = EventError;

    fn from_str(line: &str) -> Result<Self, EventError> {
        event(line).map_err(|problem| EventError { line: line.to_owned(), problem })
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {}s: {}", self.at.as_secs_f64(), self.text)
    }
}

impl Event {
    /// When it is over.
    #[must_use]
    pub fn end(&self) -> Duration {
        self.at + self.lasting.unwrap_or_default()
    }
}

fn event(line: &str) -> Result<Event, String> {
    let (when, text) = line
        .split_once(':')
        .ok_or("write `at TIME: WHAT`, as in `at 10s: kill signaling`".to_owned())?;
    let when = when.trim().strip_prefix("at ").ok_or("it begins with `at TIME:`".to_owned())?;
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
    Ok(Event { at, action, lasting, within, text: text.to_owned() })
}

fn time(text: &str) -> Result<Duration, String> {
    units::duration(text.trim()).map_err(|error| error.to_string())
}

/// Whether that can last for a time, and has to.
fn lasts(action: &Action, lasting: Option<Duration>) -> Result<(), String> {
    let has_to = matches!(action, Action::Sleep(_) | Action::Unplug(_) | Action::SignalingOff(_));
    let cannot = matches!(
        action,
        Action::Start(_) | Action::Restart(_) | Action::Takeover(_) | Action::Address(_)
    );
    match lasting {
        None if has_to => Err("say how long it lasts, as in `sleep a for 60s`".into()),
        Some(_) if cannot => Err("that happens at once: leave `for` out".into()),
        Some(Duration::ZERO) => Err("`for 0s` is no time".into()),
        _ => Ok(()),
    }
}

fn action(words: &[&str]) -> Result<Action, String> {
    let [verb, rest @ ..] = words else { return Err("it says nothing of what happens".into()) };
    let target = || match rest {
        ["signaling"] => Ok(Target::Server(Service::Signaling)),
        ["turn"] => Ok(Target::Server(Service::Turn)),
        [name] => place(name).map(Target::Peer).map_err(|_| unknown_target(name)),
        _ => Err(form(verb)),
    };
    let one = || match rest {
        [name] => place(name),
        _ => Err(form(verb)),
    };
    match *verb {
        "kill" => target().map(Action::Kill),
        "stop" => target().map(Action::Stop),
        "start" => target().map(Action::Start),
        "restart" => target().map(Action::Restart),
        "takeover" => one().map(Action::Takeover),
        "sleep" => one().map(Action::Sleep),
        "address" => one().map(Action::Address),
        "unplug" => one().map(Action::Unplug),
        "signaling" => match rest {
            ["off", name] => place(name).map(Action::SignalingOff),
            _ => Err(form(verb)),
        },
        "nat" => {
            let (who, name) = to(verb, rest)?;
            match one_nat(&named(name)?.profile) {
                Some(layer) => Ok(Action::Nat(who, layer)),
                None => Err(format!("`{name}` is not one NAT: write `move` for another network")),
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
                (who, "home") => Ok(Action::Move(who, None)),
                (who, name) => {
                    let NamedNetwork { profile, link, .. } = named(name)?;
                    let network = Network { profile, link, ip, mtu: None };
                    Ok(Action::Move(who, Some(network.into())))
                }
            }
        }
        "loss" | "loss-burst" | "delay" | "jitter" | "rate" | "cut" => link(verb, rest),
        verb => Err(unknown(verb)),
    }
}

fn place(name: &str) -> Result<Place, String> {
    match name {
        "a" => Ok(Place::A),
        "b" => Ok(Place::B),
        name => Err(format!("`{name}` is neither a (the phone, `send`) nor b (the Mac, `recv`)")),
    }
}

fn unknown_target(name: &str) -> String {
    format!("`{name}` is none of signaling, turn, a (`send`) and b (`recv`)")
}

fn to<'w>(verb: &str, rest: &[&'w str]) -> Result<(Place, &'w str), String> {
    match rest {
        [who, "->", name] => Ok((place(who)?, name)),
        _ => Err(form(verb)),
    }
}

fn named(name: &str) -> Result<NamedNetwork, String> {
    network(name).map_err(|error| error.to_string())
}

/// A profile that is one NAT.
#[must_use]
pub fn one_nat(profile: &Profile) -> Option<Layer> {
    match profile.layers[..] {
        [layer @ Layer::Nat(_)] => Some(layer),
        _ => None,
    }
}

fn link(verb: &str, rest: &[&str]) -> Result<Action, String> {
    let (who, value) = match (verb, rest) {
        ("cut", []) => (None, "100%"),
        ("cut", [who]) => (Some(place(who)?), "100%"),
        (_, [value]) => (None, *value),
        (_, [who, value]) => (Some(place(who)?), *value),
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
                value.parse().map_err(|_| format!("`{value}` is no number of packets"))?;
            changes.loss_burst = Some(packets);
        }
    }
    Ok(Action::Link(who, changes))
}

/// How that is written.
fn form(verb: &str) -> String {
    let form = FORMS.iter().find(|form| form.split(' ').next() == Some(verb));
    form.map_or_else(|| unknown(verb), |form| format!("write `{form}`"))
}

fn unknown(verb: &str) -> String {
    let near =
        FORMS.iter().min_by_key(|form| edit_distance(verb, form.split(' ').next().unwrap_or("")));
    match near.filter(|form| edit_distance(verb, form.split(' ').next().unwrap_or("")) <= 2) {
        Some(form) => format!("nothing is called `{verb}`; did you mean `{form}`?"),
        None => format!("nothing is called `{verb}`; there is: {}", FORMS.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Event, String> {
        line.parse().map_err(|error: EventError| error.to_string())
    }

    #[test]
    fn a_line_is_what_it_says() {
        let event = read("at 10s: kill signaling for 3s, within 500ms").unwrap();
        assert_eq!((event.at, event.end()), (Duration::from_secs(10), Duration::from_secs(13)));
        assert_eq!(event.action, Action::Kill(Target::Server(Service::Signaling)));
        assert_eq!(event.within, Some(Duration::from_millis(500)));
        assert_eq!(event.to_string(), "at 10s: kill signaling for 3s, within 500ms");
        let Action::Nat(Place::A, nat) = read("at 1m: nat a -> sym").unwrap().action else {
            panic!()
        };
        assert_eq!(nat.to_string(), "sym");
        let Action::Move(Place::B, Some(lte)) = read("at 0s: move b -> lte").unwrap().action else {
            panic!()
        };
        assert!(!lte.link.is_clear() && lte.ip == IpVersions::V4, "the network's own link");
        let read_move = read("at 0s: move b -> lte over ipv6 for 3s").unwrap();
        let Action::Move(_, Some(lte)) = read_move.action else { panic!() };
        assert!(lte.ip == IpVersions::V6 && read_move.lasting.is_some());
        assert_eq!(read("at 1s: move a -> home").unwrap().action, Action::Move(Place::A, None));
        let off = read("at 2s: signaling off b for 3s").unwrap();
        assert_eq!(off.action, Action::SignalingOff(Place::B));
        assert_eq!(off.end(), Duration::from_secs(5));
        let Action::Link(None, changes) = read("at 30s: loss 30% for 5s").unwrap().action else {
            panic!()
        };
        assert_eq!(changes.loss, Some(0.3));
        let Action::Link(Some(Place::B), changes) = read("at 30s: rate b 1Mbit").unwrap().action
        else {
            panic!()
        };
        assert_eq!(changes.rate, Some(1_000_000));
        let Action::Link(Some(Place::A), cut) = read("at 3s: cut a for 2s").unwrap().action else {
            panic!()
        };
        assert_eq!(cut.loss, Some(1.0));
    }

    #[test]
    fn what_is_wrong_says_how_it_is_written() {
        for (line, words) in [
            ("kill signaling", "write `at TIME: WHAT`"),
            ("10s: kill signaling", "begins with `at TIME:`"),
            ("at ten: kill a", "ten"),
            ("at 1s:", "nothing of what happens"),
            ("at 1s: kil a", "did you mean `kill signaling|turn|a|b`"),
            ("at 1s: explode", "there is: kill"),
            ("at 1s: kill c", "none of signaling, turn, a"),
            ("at 1s: kill", "write `kill signaling|turn|a|b`"),
            ("at 1s: sleep a", "how long"),
            ("at 1s: unplug b", "how long"),
            ("at 1s: signaling off a", "how long"),
            ("at 1s: signaling a for 1s", "write `signaling off a|b for TIME`"),
            ("at 1s: signaling off turn for 1s", "neither a"),
            ("at 1s: sleep c for 1s", "neither a"),
            ("at 1s: restart a for 3s", "leave `for` out"),
            ("at 1s: cut for 0s", "no time"),
            ("at 1s: nat a sym", "write `nat a|b -> NAT`"),
            ("at 1s: nat a -> symm", "did you mean"),
            ("at 1s: nat a -> udp-blocked", "write `move`"),
            ("at 1s: move a -> lte over ipv5", "ipv5"),
            ("at 1s: loss a 200%", "200%"),
            ("at 1s: loss-burst a many", "no number of packets"),
            ("at 1s: cut a, later", "not `within TIME`"),
        ] {
            let error = read(line).unwrap_err();
            assert!(error.contains(words), "{line}: {error}");
        }
    }
}
