//! Named networks: a profile, a network of `samples/networks.toml`, or a file that describes a network.
//!
//! A network combines NATs and a link, such as a home router with a delay of 8 ms, or a carrier's NAT with
//! 60 ms and jitter. Its file has the keys `nat` (a profile, or the name of another network), `loss`,
//! `loss-burst`, `delay`, `jitter`, `rate`, `name`, `description` and `source`, and in scenarios with a
//! timeline also `ip` and `mtu`.

use std::{path::Path, str::FromStr, sync::LazyLock, time::Duration};

use serde::{Deserialize, Deserializer};

use super::{
    IpVersions, LinkSettings, Profile, ProfileError, Queue,
    file::{self, FileError},
};
use crate::{text::edit_distance, units};

/// The built-in networks.
const BUILT_IN: &str = include_str!("../../samples/networks.toml");

/// Everything between a peer and the internet, under a name.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedNetwork {
    /// The requested name, such as `port+sym` or `home-router`, or the `name` in a file.
    pub name: String,
    /// One-sentence description; empty for a bare profile.
    pub description: String,
    /// Source of its behavior; empty for a bare profile.
    pub source: String,
    /// NATs and firewalls.
    pub profile: Profile,
    /// Loss, delay, jitter and rate.
    pub link: LinkSettings,
}

/// Text that does not name a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// The text is not a profile, a known network or a file.
    #[error("{profile}{}", by_name(suggestion.as_deref()))]
    Unknown {
        /// Why it is not a profile.
        profile: Box<ProfileError>,
        /// The nearest known network.
        suggestion: Option<String>,
    },
    /// The profile is not possible.
    #[error(transparent)]
    Profile(Box<ProfileError>),
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The key requires a timeline.
    #[error("`{0}` is only allowed in scenarios with a timeline")]
    TimelinesOnly(&'static str),
}

/// A network of a scenario file that is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{file}`, [{end}]: {error}")]
pub struct EndError {
    /// Path of the scenario file.
    pub file: String,
    /// Key of the network, such as `a`.
    pub end: &'static str,
    /// Why the network is not valid.
    pub error: Box<NetworkError>,
}

impl NetworkError {
    /// Adds the scenario file and the key of the network.
    #[must_use]
    pub fn of(self, end: &'static str, file: &str) -> EndError {
        EndError { file: file.to_owned(), end, error: self.into() }
    }
}

/// Changes to a link; `None` keeps the current value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct LinkChanges {
    /// Share of packets lost, from 0 to 1.
    #[serde(default, deserialize_with = "percentage")]
    pub loss: Option<f64>,
    /// Packets lost in a row.
    pub loss_burst: Option<u32>,
    /// One-way delay.
    #[serde(default, deserialize_with = "duration")]
    pub delay: Option<Duration>,
    /// Maximum additional random delay.
    #[serde(default, deserialize_with = "duration")]
    pub jitter: Option<Duration>,
    /// Bits per second.
    #[serde(default, deserialize_with = "bit_rate")]
    pub rate: Option<u64>,
    /// Size of the queue in front of the link.
    #[serde(default, deserialize_with = "queue")]
    pub queue: Option<Queue>,
}

impl LinkChanges {
    /// Applies the changes to a link.
    #[must_use]
    pub fn apply(&self, link: LinkSettings) -> LinkSettings {
        LinkSettings {
            loss: self.loss.unwrap_or(link.loss),
            loss_burst: self.loss_burst.unwrap_or(link.loss_burst),
            delay: self.delay.unwrap_or(link.delay),
            jitter: self.jitter.unwrap_or(link.jitter),
            rate: self.rate.or(link.rate),
            queue: self.queue.or(link.queue),
        }
    }

    /// These changes, completed by those of `others`.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        Self {
            loss: self.loss.or(others.loss),
            loss_burst: self.loss_burst.or(others.loss_burst),
            delay: self.delay.or(others.delay),
            jitter: self.jitter.or(others.jitter),
            rate: self.rate.or(others.rate),
            queue: self.queue.or(others.queue),
        }
    }

    /// These changes, except for values that `others` changes.
    #[must_use]
    pub fn without(self, others: Self) -> Self {
        Self {
            loss: self.loss.filter(|_| others.loss.is_none()),
            loss_burst: self.loss_burst.filter(|_| others.loss_burst.is_none()),
            delay: self.delay.filter(|_| others.delay.is_none()),
            jitter: self.jitter.filter(|_| others.jitter.is_none()),
            rate: self.rate.filter(|_| others.rate.is_none()),
            queue: self.queue.filter(|_| others.queue.is_none()),
        }
    }
}

fn percentage<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    file::quantity(deserializer, units::percentage)
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    file::quantity(deserializer, units::duration)
}

fn bit_rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    file::quantity(deserializer, units::bit_rate)
}

fn queue<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Queue>, D::Error> {
    file::quantity(deserializer, str::parse)
}

/// A network as described by a file. The link keys are listed among the others because `flatten` would
/// disable the check for unknown keys.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct NetworkFile {
    nat: String,
    name: Option<String>,
    #[serde(default)]
    description: String,
    #[serde(default)]
    source: String,
    #[serde(default, deserialize_with = "percentage")]
    loss: Option<f64>,
    loss_burst: Option<u32>,
    #[serde(default, deserialize_with = "duration")]
    delay: Option<Duration>,
    #[serde(default, deserialize_with = "duration")]
    jitter: Option<Duration>,
    #[serde(default, deserialize_with = "bit_rate")]
    rate: Option<u64>,
    #[serde(default, deserialize_with = "queue")]
    queue: Option<Queue>,
    #[serde(default, deserialize_with = "ip_versions")]
    ip: Option<IpVersions>,
    mtu: Option<u16>,
}

fn ip_versions<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IpVersions>, D::Error> {
    file::quantity(deserializer, str::parse)
}

impl NetworkFile {
    /// The network that the file describes, called `name` unless the file contains a name.
    ///
    /// # Errors
    /// `nat` is neither a profile nor a built-in network.
    pub fn network(&self, name: &str) -> Result<NamedNetwork, NetworkError> {
        let base = known(&self.nat)?;
        let changes = self.changes();
        let or = |text: &str, other: String| if text.is_empty() { other } else { text.to_owned() };
        Ok(NamedNetwork {
            name: self.name.clone().unwrap_or_else(|| name.to_owned()),
            description: or(&self.description, base.description),
            source: or(&self.source, base.source),
            profile: base.profile,
            link: changes.apply(base.link),
        })
    }

    fn changes(&self) -> LinkChanges {
        LinkChanges {
            loss: self.loss,
            loss_burst: self.loss_burst,
            delay: self.delay,
            jitter: self.jitter,
            rate: self.rate,
            queue: self.queue,
        }
    }

    /// The IP versions, IPv4 by default, and the MTU of the path to the internet in bytes. Only kernel labs
    /// with a timeline support these.
    #[must_use]
    pub fn ip_and_mtu(&self) -> (IpVersions, Option<u16>) {
        (self.ip.unwrap_or_default(), self.mtu)
    }

    /// Rejects keys that require a timeline.
    ///
    /// # Errors
    /// The file has `ip` or `mtu`.
    pub fn plain(self) -> Result<Self, NetworkError> {
        match (self.ip, self.mtu) {
            (None, None) => Ok(self),
            (Some(_), _) => Err(NetworkError::TimelinesOnly("ip")),
            (None, Some(_)) => Err(NetworkError::TimelinesOnly("mtu")),
        }
    }

    /// The value of `nat`.
    #[must_use]
    pub fn nat(&self) -> &str {
        &self.nat
    }
}

/// The built-in networks, in the order of their file.
#[must_use]
pub fn built_in() -> &'static [NamedNetwork] {
    static ALL: LazyLock<Vec<NamedNetwork>> = LazyLock::new(|| {
        let files: toml::Table = toml::from_str(BUILT_IN).expect("samples/networks.toml is TOML");
        let one = |(name, value): (&String, &toml::Value)| {
            let file: NetworkFile = value.clone().try_into().expect("a test reads each network");
            let profile = file.nat.parse().expect("a test reads each network");
            let link = file.changes();
            NamedNetwork {
                name: name.clone(),
                description: file.description,
                source: file.source,
                profile,
                link: link.apply(LinkSettings::default()),
            }
        };
        let mut all: Vec<NamedNetwork> = files.iter().map(one).collect();
        // A TOML table does not preserve the order of its file.
        all.sort_by_key(|network| BUILT_IN.find(&format!("\n[{}]", network.name)));
        all
    });
    &ALL
}

/// The valid names, for an error message.
fn by_name(suggestion: Option<&str>) -> String {
    match suggestion {
        Some(name) => format!(". Did you mean the network `{name}`?"),
        None => format!(". Named networks: {}", names().join(", ")),
    }
}

/// Names of the built-in networks.
fn names() -> Vec<&'static str> {
    built_in().iter().map(|network| network.name.as_str()).collect()
}

/// The network that `text` names: a profile first, then a built-in network, then a file (a name with a `/`
/// or ending in `.toml`).
///
/// # Errors
/// [`NetworkError`], with the nearest name.
pub fn network(text: &str) -> Result<NamedNetwork, NetworkError> {
    let path = Path::new(text);
    let is_file = path.extension().is_some_and(|end| end == "toml") || text.contains('/');
    if !is_file {
        return known(text);
    }
    let stem = path.file_stem().map_or_else(|| text.into(), |stem| stem.to_string_lossy());
    file::read::<NetworkFile>(path)?.plain()?.network(&stem)
}

fn known(text: &str) -> Result<NamedNetwork, NetworkError> {
    let profile = match Profile::from_str(text) {
        Ok(profile) => {
            return Ok(NamedNetwork {
                name: text.to_owned(),
                description: String::new(),
                source: String::new(),
                profile,
                link: LinkSettings::default(),
            });
        }
        Err(error) => error,
    };
    if let Some(network) = built_in().iter().find(|network| network.name == text) {
        return Ok(network.clone());
    }
    if !matches!(profile, ProfileError::Unknown { .. }) {
        return Err(NetworkError::Profile(profile.into()));
    }
    let near = names().into_iter().min_by_key(|name| edit_distance(text, name));
    let near = near.filter(|name| edit_distance(text, name) <= 1 + text.len() / 4);
    match (&profile, near) {
        // Only the profile has a suggestion.
        (ProfileError::Unknown { suggestion: Some(_), .. }, None) => {
            Err(NetworkError::Profile(profile.into()))
        }
        _ => Err(NetworkError::Unknown {
            profile: profile.into(),
            suggestion: near.map(str::to_owned),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_network_has_a_description_and_a_source() {
        let count = BUILT_IN.lines().filter(|line| line.starts_with('[')).count();
        assert_eq!(built_in().len(), count);
        assert!(count >= 12, "{count}");
        for network in built_in() {
            assert!(!network.description.is_empty(), "{}", network.name);
            assert!(!network.source.is_empty(), "{}", network.name);
            assert!(network.name.parse::<Profile>().is_err(), "{} hides a profile", network.name);
            assert_eq!(super::network(&network.name).as_ref(), Ok(network));
        }
        let mut sorted: Vec<usize> = built_in()
            .iter()
            .map(|network| BUILT_IN.find(&format!("\n[{}]", network.name)).unwrap())
            .collect();
        let found = sorted.clone();
        sorted.sort_unstable();
        assert_eq!(found, sorted, "in the order of the file");
    }

    #[test]
    fn a_profile_takes_precedence_over_a_network() {
        let bare = network("port+sym").unwrap();
        assert_eq!(bare.profile, "port+sym".parse().unwrap());
        assert!(bare.link.is_clear() && bare.description.is_empty());
        let lte = network("lte-symmetric").unwrap();
        assert_eq!(lte.profile.to_string(), "sym");
        assert_eq!(lte.link.delay, Duration::from_millis(30));
    }

    #[test]
    fn errors_suggest_the_nearest_name() {
        for (text, words) in [
            ("home-ruter", "Did you mean the network `home-router`"),
            ("symetric", "did you mean `sym`"),
            ("wormhole-drive", "Named networks: "),
            ("port:nope", "hairpin, no-hairpin"),
            ("none+port", "omit it"),
            ("nowhere/x.toml", "cannot read `nowhere/x.toml`"),
        ] {
            let error = network(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn a_file_builds_on_another_network() {
        let text =
            "nat = 'lte-symmetric'\nloss = '3%'\nloss-burst = 5\nrate = '2Mbit'\nname = 'train'";
        let file: NetworkFile = file::parse("train.toml", text).unwrap();
        let train = file.network("x").unwrap();
        assert_eq!(train.name, "train");
        assert_eq!(train.profile.to_string(), "sym");
        let link = train.link;
        assert_eq!((link.loss, link.loss_burst, link.rate), (0.03, 5, Some(2_000_000)));
        assert_eq!(link.delay, Duration::from_millis(30), "unspecified values are kept");
    }

    #[test]
    fn errors_name_the_line_of_the_value() {
        for (text, words) in [
            ("nat = 'port'\nloss = '120%'", "line 2: `120%` is not a valid percentage"),
            ("nat = 'port'\nrate = 'fast'", "line 2: `fast` is not a valid link rate"),
            ("nat = 'port'\ndelya = '3ms'", "did you mean `delay`"),
            ("delay = '3ms'", "missing field `nat`"),
            ("nat = 'port'\ndelay = 3", "line 2: invalid type: integer `3`, expected a string"),
        ] {
            let error = file::parse::<NetworkFile>("x.toml", text).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
