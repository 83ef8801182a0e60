//! Scenario files: two networks, or one shared by both peers, and the expected path.
//!
//! ```toml
//! name = "phone-lte-mac-home"
//! description = "A phone on LTE and a Mac at home"
//! source = "RFC 6888"
//! turn = "udp,tcp,tls"
//! seed = 7
//! expect = "direct"
//! max-first-picture = "2s"   # of each connection, from its start
//! [a]
//! nat = "lte"          # a profile, or a network of `orion-peer lab list`
//! loss = "2%"          # loss-burst, delay, jitter, rate, queue
//! [b]
//! nat = "home-router"
//! ```
//!
//! `[same-nat]` instead of `[a]` and `[b]` puts both peers behind that network. A file with a `timeline` is
//! a [`crate::lab::timeline`].

use std::{path::Path as FilePath, time::Duration};

use serde::{Deserialize, Deserializer};

use super::plan::{CellPlan, PlanError, Transports};
use crate::{
    nat::{
        Path,
        file::{self, FileError},
        named::{EndError, LinkChanges, NetworkFile},
    },
    units,
};

/// A scenario file after validation.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// One-sentence description.
    pub description: String,
    /// Source of the claims about a carrier or router.
    pub source: String,
    /// What to measure.
    pub plan: CellPlan,
}

/// Command-line values that take precedence over all scenario files.
#[derive(Debug, Clone, Copy, Default)]
pub struct Overrides {
    /// Link changes of A and B.
    pub links: [LinkChanges; 2],
    /// TURN transports.
    pub turn: Option<Transports>,
    /// Random seed.
    pub seed: Option<u64>,
}

/// A scenario that is not valid.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file cannot be read or parsed.
    #[error(transparent)]
    File(#[from] FileError),
    /// A network in it is not valid.
    #[error(transparent)]
    Network(#[from] EndError),
    /// Its networks cannot be combined.
    #[error("`{file}`: {error}")]
    Plan {
        /// Path of the file.
        file: String,
        /// Why they cannot be combined.
        error: PlanError,
    },
    /// Neither two networks nor a shared one.
    #[error("`{0}`: specify the networks [a] and [b], or [same-nat] for one shared by both peers")]
    Networks(String),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ScenarioFile {
    name: Option<String>,
    #[serde(default)]
    description: String,
    #[serde(default)]
    source: String,
    #[serde(default, deserialize_with = "transports")]
    turn: Option<Transports>,
    seed: Option<u64>,
    expect: Option<Path>,
    #[serde(default, deserialize_with = "time")]
    max_first_picture: Option<Duration>,
    a: Option<NetworkFile>,
    b: Option<NetworkFile>,
    same_nat: Option<NetworkFile>,
}

fn transports<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Transports>, D::Error> {
    file::quantity(deserializer, str::parse)
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    file::quantity(deserializer, units::duration)
}

impl Scenario {
    /// Reads a scenario file.
    ///
    /// # Errors
    /// [`ScenarioError`], with the file, the line, and the nearest known key or network.
    pub fn read(path: &FilePath, overrides: &Overrides) -> Result<Self, ScenarioError> {
        let file = path.display().to_string();
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        Self::from_file(file::read(path)?, &file, &stem.unwrap_or_default(), overrides)
    }

    fn from_file(
        scenario: ScenarioFile,
        file: &str,
        stem: &str,
        overrides: &Overrides,
    ) -> Result<Self, ScenarioError> {
        let turn = overrides.turn.or(scenario.turn).unwrap_or_default();
        let seed = overrides.seed.or(scenario.seed).unwrap_or_default();
        let network = |end: &'static str, side: usize, network: &NetworkFile| {
            let found = network.clone().plain().and_then(|plain| plain.network(network.nat()));
            let mut found = found.map_err(|error| error.of(end, file))?;
            found.link = overrides.links[side].apply(found.link);
            Ok::<_, ScenarioError>(found)
        };
        let mut plan = match (&scenario.a, &scenario.b, &scenario.same_nat) {
            (Some(a), Some(b), None) => {
                CellPlan::new(network("a", 0, a)?, network("b", 1, b)?, turn, seed)
            }
            (None, None, Some(both)) => {
                let (a, b) = (network("same-nat", 0, both)?, network("same-nat", 1, both)?);
                CellPlan::same_nat(a, b, turn, seed)
                    .map_err(|error| ScenarioError::Plan { file: file.to_owned(), error })?
            }
            _ => return Err(ScenarioError::Networks(file.to_owned())),
        };
        let name = scenario.name.unwrap_or_else(|| stem.to_owned());
        // With TURN transports other than the file's, theory decides.
        if overrides.turn.is_none() {
            plan.expected = scenario.expect.unwrap_or(plan.expected);
        }
        plan.scenario = Some(name.clone());
        plan.max_first_picture = scenario.max_first_picture;
        Ok(Self { name, description: scenario.description, source: scenario.source, plan })
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs};

    use super::*;
    use crate::{lab::timeline::file::is_timeline, nat::expected};

    fn scenario(text: &str) -> Result<Scenario, String> {
        let file =
            file::parse::<ScenarioFile>("x.toml", text).map_err(|error| error.to_string())?;
        Scenario::from_file(file, "x.toml", "x", &Overrides::default())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn every_sample_is_documented_and_expects_the_path_of_the_theory() {
        let dir = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("samples/scenarios");
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if is_timeline(&path) {
                continue;
            }
            let read = Scenario::read(&path, &Overrides::default());
            let scenario = read.unwrap_or_else(|error| panic!("{error}"));
            let plan = &scenario.plan;
            assert_eq!(path.file_stem().unwrap().to_str().unwrap(), scenario.name);
            assert!(scenario.description.len() > 20, "{}", scenario.name);
            assert!(!scenario.source.is_empty(), "{}", scenario.name);
            if !plan.same_nat {
                let theory = expected(&plan.a.profile, &plan.b.profile, plan.turn.relays());
                assert_eq!(plan.expected, theory, "{}", scenario.name);
            }
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.contains(&format!("expect = \"{}\"", plan.expected)), "{}", scenario.name);
            names.insert(scenario.name);
        }
        assert!(names.len() >= 12, "{names:?}");
    }

    #[test]
    fn a_scenario_is_parsed() {
        let text = "turn = 'udp'\nseed = 3\nmax-first-picture = '2s'\n[a]\nnat = 'lte-symmetric'\ndelay = '40ms'\n[b]\nnat = 'port'";
        let read = scenario(text).unwrap();
        assert_eq!((read.name.as_str(), read.plan.expected), ("x", Path::Relay));
        assert_eq!(read.plan.a.name, "lte-symmetric");
        assert_eq!(read.plan.a.link.delay.as_millis(), 40);
        assert!(read.plan.a.link.loss > 0.0, "the network's own");
        assert_eq!(read.plan.turn.to_string(), "udp");
        assert_eq!(read.plan.max_first_picture, Some(Duration::from_secs(2)));
        let same = scenario("[same-nat]\nnat = 'port:hairpin'").unwrap();
        assert!(same.plan.same_nat && same.plan.expected == Path::Direct);
    }

    #[test]
    fn flags_take_precedence_over_the_file() {
        let text = "turn = 'none'\nexpect = 'none'\n[a]\nnat = 'sym'\n[b]\nnat = 'sym'";
        let read = |overrides: &Overrides| {
            Scenario::from_file(file::parse("x", text).unwrap(), "x", "x", overrides).unwrap()
        };
        assert_eq!(read(&Overrides::default()).plan.expected, Path::None);
        let loss = LinkChanges { loss: Some(0.5), ..LinkChanges::default() };
        let overrides = Overrides {
            links: [loss, LinkChanges::default()],
            turn: Some(Transports::ALL),
            seed: Some(9),
        };
        let plan = read(&overrides).plan;
        assert_eq!((plan.expected, plan.a.link.loss, plan.b.link.loss), (Path::Relay, 0.5, 0.0));
        assert_ne!(plan.seed, read(&Overrides::default()).plan.seed);
    }

    #[test]
    fn errors_name_the_place_in_the_file() {
        let ends = "[a]\nnat = 'port'\n[b]\nnat = 'sym'\n";
        for (text, words) in [
            (format!("sead = 3\n{ends}"), "`x.toml`, line 1: unknown field `sead`"),
            (format!("sead = 3\n{ends}"), "did you mean `seed`"),
            (format!("{ends}lost = '3%'"), "line 5: unknown field `lost`"),
            (format!("max-first-picture = '2'\n{ends}"), "line 1: `2`"),
            (format!("turn = 'sctp'\n{ends}"), "line 1: `sctp` is not a TURN transport"),
            (format!("expect = 'maybe'\n{ends}"), "line 1: unknown variant `maybe`"),
            ("[a]\nnat = 'port'".into(), "specify the networks [a] and [b], or [same-nat]"),
            (format!("{ends}[same-nat]\nnat = 'port'"), "specify the networks [a] and [b]"),
            (
                "[a]\nnat = 'sym'\n[b]\nnat = 'symetric'".into(),
                "`x.toml`, [b]: unknown NAT profile",
            ),
            ("[same-nat]\nnat = 'none'".into(), "does not translate"),
            (
                "[a]\nnat = 'port'\nip = 'ipv6'\n[b]\nnat = 'sym'".into(),
                "`ip` is only allowed in scenarios with a timeline",
            ),
            ("[a]\nnat = 'port+udp-blocked'\n[b]\nnat = 'sym'".into(), "use `udp-blocked` alone"),
        ] {
            let error = scenario(&text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
