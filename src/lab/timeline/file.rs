//! Scenario files (TOML) with a timeline.
//!
//! ```toml
//! name = "server-restarts"
//! description = "The server restarts while keyframes flow"
//! source = "..."
//! interval = "500ms"      # between keyframes
//! picture = "1280x720"
//! within = "5s"           # maximum recovery time after each event
//! lost = 0                # keyframes that may be lost
//! max-first-picture = "3s"  # from the start of both peers
//! token-ttl = "20s"       # signaling token lifetime; default 5m
//! turn-ttl = "20s"        # TURN credential lifetime; default 2h
//! duration = "30s"        # default: until the last event must have recovered
//! timeline = ["at 10s: kill signaling for 3s", "at 20s: nat a -> sym, within 10s"]  # see `event`
//! [a]                     # the phone: `send`
//! nat = "port"            # a profile, or a network of `orion-peer lab list`; loss, delay, …
//! ip = "ipv4+ipv6"        # default ipv4; IPv6 is never translated
//! [b]                     # the Mac: `recv`
//! nat = "home-router"
//! mtu = 1280              # larger packets are dropped between the outermost box and the internet
//! ```

use std::{path::Path as FilePath, time::Duration};

use serde::{Deserialize, Deserializer};

use super::event::{EventAction, EventError, TimelineEvent};
use crate::{
    nat::{
        LinkChanges,
        file::{self, FileError},
        named::{EndError, NetworkFile},
    },
    netns::{Location, NetworkPlan, ServerOptions},
    units::{self, PictureSize},
};

/// Default time between keyframes, which limits the resolution of outages.
const INTERVAL: Duration = Duration::from_millis(500);

/// Default recovery time of an event.
const WITHIN: Duration = Duration::from_secs(5);

/// Time after the last event must have recovered, to verify that keyframes keep flowing.
const AFTERWARDS: Duration = Duration::from_secs(2);

/// Default picture size.
const PICTURE: &str = "1280x720";

/// A scenario with a timeline.
#[derive(Debug, Clone, PartialEq)]
pub struct Timeline {
    /// Its name.
    pub name: String,
    /// One-sentence description.
    pub description: String,
    /// Source of the claims about a carrier or router.
    pub source: String,
    /// Home networks of the phone and the Mac.
    pub homes: [NetworkPlan; 2],
    /// Their names in the file.
    pub home_names: [String; 2],
    /// The events, in order of time.
    pub events: Vec<TimelineEvent>,
    /// Time between keyframes.
    pub interval: Duration,
    /// Size of the pictures.
    pub picture: PictureSize,
    /// Default recovery time.
    pub within: Duration,
    /// Number of keyframes that may be lost.
    pub lost: u64,
    /// Maximum time from the start of both peers to the first picture; `None`: no limit.
    pub max_first_picture: Option<Duration>,
    /// Total length.
    pub duration: Duration,
    /// Random seed.
    pub seed: u64,
    /// Lifetimes of the tokens and credentials that the server issues.
    pub server: ServerOptions,
}

/// A timeline that is not valid.
#[derive(Debug, thiserror::Error)]
pub enum TimelineError {
    /// The file cannot be read or parsed.
    #[error(transparent)]
    File(#[from] FileError),
    /// A network in it is not valid.
    #[error(transparent)]
    Network(#[from] EndError),
    /// A line of the timeline is not valid.
    #[error("`{file}`: {error}")]
    Event {
        /// Path of the file.
        file: String,
        /// What is wrong with the line.
        error: EventError,
    },
    /// The timeline as a whole is not valid.
    #[error("`{file}`: {problem}")]
    Whole {
        /// Path of the file.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct TimelineFile {
    name: Option<String>,
    #[serde(default)]
    description: String,
    #[serde(default)]
    source: String,
    #[serde(default)]
    seed: u64,
    #[serde(default, deserialize_with = "time")]
    interval: Option<Duration>,
    picture: Option<String>,
    #[serde(default, deserialize_with = "time")]
    within: Option<Duration>,
    #[serde(default)]
    lost: u64,
    #[serde(default, deserialize_with = "time")]
    max_first_picture: Option<Duration>,
    #[serde(default, deserialize_with = "time")]
    duration: Option<Duration>,
    #[serde(default, deserialize_with = "time")]
    token_ttl: Option<Duration>,
    #[serde(default, deserialize_with = "time")]
    turn_ttl: Option<Duration>,
    timeline: Vec<String>,
    a: NetworkFile,
    b: NetworkFile,
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    file::quantity(deserializer, units::duration)
}

/// Whether a file is a scenario with a timeline; `false` if it cannot be read.
#[must_use]
pub fn is_timeline(path: &FilePath) -> bool {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.parse::<toml::Table>().is_ok_and(|table| table.contains_key("timeline"))
}

impl Timeline {
    /// Reads a file. Link changes and the seed from flags take precedence over those of the file.
    ///
    /// # Errors
    /// [`TimelineError`], with the file and the correct syntax.
    pub fn read(
        path: &FilePath,
        links: [LinkChanges; 2],
        seed: Option<u64>,
    ) -> Result<Self, TimelineError> {
        let file = path.display().to_string();
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let mut timeline = Self::from_file(file::read(path)?, &file, &stem.unwrap_or_default())?;
        for (home, changes) in timeline.homes.iter_mut().zip(links) {
            home.link = changes.apply(home.link);
        }
        timeline.seed = seed.unwrap_or(timeline.seed);
        Ok(timeline)
    }

    fn from_file(from: TimelineFile, file: &str, stem: &str) -> Result<Self, TimelineError> {
        let network = |end, network: &NetworkFile| {
            let named = network.network(network.nat()).map_err(|error| error.of(end, file))?;
            let (ip, mtu) = network.ip_and_mtu();
            let home = NetworkPlan { profile: named.profile, link: named.link, ip, mtu };
            Ok::<_, TimelineError>((home, named.name))
        };
        let whole = |problem: String| TimelineError::Whole { file: file.to_owned(), problem };
        let events = from.timeline.iter().map(|line| line.parse::<TimelineEvent>());
        let events: Vec<TimelineEvent> = events
            .collect::<Result<_, _>>()
            .map_err(|error| TimelineError::Event { file: file.to_owned(), error })?;
        let picture = from.picture.as_deref().unwrap_or(PICTURE);
        let picture = units::picture_size(picture).map_err(|error| whole(error.to_string()))?;
        let within = from.within.unwrap_or(WITHIN);
        let recovered_by = |event: &TimelineEvent| event.end() + event.within.unwrap_or(within);
        let needed = events.iter().map(recovered_by).max().unwrap_or_default();
        let ((a, a_name), (b, b_name)) = (network("a", &from.a)?, network("b", &from.b)?);
        let timeline = Self {
            name: from.name.unwrap_or_else(|| stem.to_owned()),
            description: from.description,
            source: from.source,
            homes: [a, b],
            home_names: [a_name, b_name],
            interval: from.interval.unwrap_or(INTERVAL),
            picture,
            within,
            lost: from.lost,
            max_first_picture: from.max_first_picture,
            duration: from.duration.unwrap_or(needed + AFTERWARDS),
            seed: from.seed,
            server: ServerOptions { token_ttl: from.token_ttl, turn_ttl: from.turn_ttl },
            events,
        };
        timeline.check(needed).map_err(whole)?;
        Ok(timeline)
    }

    /// The networks a peer moves to, in the order of the events.
    #[must_use]
    pub fn other_networks(&self, location: Location) -> Vec<NetworkPlan> {
        let moves = self.events.iter().filter_map(|event| match &event.action {
            EventAction::Move(who, Some(network)) if *who == location => Some((**network).clone()),
            _ => None,
        });
        moves.collect()
    }

    /// Whether a peer reaches the server over IPv6, which requires IPv6 in all its networks.
    ///
    /// # Errors
    /// Its networks have no IP version in common.
    pub fn signals_over(&self, location: Location) -> Result<bool, String> {
        let home = &self.homes[location.peer()];
        let other_networks = self.other_networks(location);
        let versions: Vec<_> = other_networks.iter().chain([home]).map(|one| one.ip).collect();
        match (versions.iter().all(|ip| ip.has_v4()), versions.iter().all(|ip| ip.has_v6())) {
            (true, _) => Ok(false),
            (false, true) => Ok(true),
            (false, false) => Err(format!(
                "the networks of {} have no IP version in common, but it reaches the server at a single \
                 address",
                if location == Location::A { "a" } else { "b" }
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const ENDS: &str = "\n[a]\nnat = 'port'\n[b]\nnat = 'home-router'\n";

    fn timeline(text: &str) -> Result<Timeline, String> {
        let read =
            file::parse::<TimelineFile>("x.toml", text).map_err(|error| error.to_string())?;
        Timeline::from_file(read, "x.toml", "x").map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_is_parsed() {
        let text = "within = '3s'\nlost = 2\ntimeline = ['at 1s: kill turn for 2s', 'at 4s: nat a -> sym, \
                    within 9s', 'at 5s: move b -> lte']";
        let read = timeline(&format!("{text}{ENDS}")).unwrap();
        assert_eq!((read.name.as_str(), read.lost, read.events.len()), ("x", 2, 3));
        assert_eq!(read.interval, INTERVAL);
        assert_eq!(
            read.duration,
            Duration::from_secs(4 + 9 + 2),
            "until the last event must have recovered, and 2 s more"
        );
        assert_eq!(read.other_networks(Location::A), []);
        assert_eq!(read.other_networks(Location::B).len(), 1);
        assert!(!read.homes[1].link.is_clear(), "the network's own link");
    }

    #[test]
    fn every_sample_can_be_run() {
        let dir = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("samples/scenarios");
        let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        let mut found = 0;
        for path in paths.filter(|path| is_timeline(path)) {
            let read = Timeline::read(&path, [LinkChanges::default(); 2], None);
            let timeline = read.unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(path.file_stem().unwrap().to_str().unwrap(), timeline.name);
            assert!(timeline.description.len() > 20, "{}", timeline.name);
            assert!(!timeline.source.is_empty(), "{}", timeline.name);
            found += 1;
        }
        assert!(found >= 12, "{found}");
    }

    #[test]
    fn errors_name_the_file_and_the_problem() {
        for (lines, words) in [
            ("timeline = []", "has no events"),
            ("timeline = ['at 1s: kil a']", "did you mean `kill"),
            ("timeline = ['at 3s: kill a', 'at 1s: start a']", "write events in order"),
            ("timeline = ['at 1s: start signaling']", "already running"),
            ("timeline = ['at 1s: kill a', 'at 2s: kill a']", "not running"),
            ("timeline = ['at 1s: move a -> udp-blocked', 'at 1s: nat a -> sym']", "use `move`"),
            ("timeline = ['at 1s: move a -> lte over ipv6']", "no IP version in common"),
            ("timeline = ['at 1s: kill a']\nduration = '3s'", "must have recovered by 6s"),
            ("timeline = ['at 1s: kill a']\ninterval = '10ms'", "at least 0.1s"),
            ("timeline = ['at 1s: kill a']\npicture = 'big'", "big"),
            ("timeline = ['at 1s: kill a']\nexpect = 'direct'", "unknown field `expect`"),
            ("timeline = ['at 48h: address a']", "one day"),
        ] {
            let error = timeline(&format!("{lines}{ENDS}")).unwrap_err();
            assert!(error.starts_with("`x.toml`") && error.contains(words), "{lines}: {error}");
        }
        let error = timeline("timeline = ['at 1s: kill a']\n[a]\nnat = 'prt'\n[b]\nnat = 'sym'");
        assert!(error.unwrap_err().contains("`x.toml`, [a]: unknown NAT profile"));
    }
}
