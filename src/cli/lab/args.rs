//! Flags of `lab`, converted to the pairs to measure.

use std::{path::PathBuf, time::Duration};

use super::LabCommand;
use crate::{
    cli::{failure::Failure, network::NetsimArgs, units},
    lab::matrix::{
        CellPlan, Effort, Scenario, Transports, in_kernel, run::Job, scenario::Overrides,
    },
    lab::timeline::{Timeline, file::is_timeline},
    nat::{NamedNetwork, network, profile::MATRIX},
};

/// Default random seed.
const SEED: u64 = 1;

/// Maximum number of pairs measured concurrently.
const MAX_PARALLEL: u64 = 64;

/// Flags of `lab`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, mut_arg("nat", |arg| arg.help(
    "Networks of the two peers, A,B, or one for both: a NAT profile (port+sym), a named network (home-router) \
     or FILE.toml; see `lab list`"
).value_name("A,B")))]
pub struct LabArgs {
    #[allow(missing_docs)]
    #[command(subcommand)]
    pub command: Option<LabCommand>,
    /// Measure all pairs of profiles
    #[arg(long)]
    pub matrix: bool,
    /// Profiles or networks for --matrix; default: nine profiles with different reachability
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub profiles: Vec<String>,
    /// Measure the pair in a scenario file, or play its timeline of network changes during a call (Linux); repeatable
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub scenario: Vec<PathBuf>,
    /// Put both peers behind the same NAT
    #[arg(long)]
    pub same_nat: bool,
    /// Use kernel NATs and links in network namespaces (Linux) instead of simulated ones
    #[arg(long)]
    pub kernel: bool,
    /// Lab to use if the kernel lab is unavailable; default: fail
    #[arg(long, value_name = "LAB", value_enum)]
    pub fallback: Option<Fallback>,
    /// TURN transports to offer: udp,tcp,tls, or none; default: all; with --kernel: udp,tcp
    #[arg(long, value_name = "LIST")]
    pub turn: Option<Transports>,
    /// Connections to make per pair
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub connections: u64,
    /// Pings per connection
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub pings: u64,
    /// Connection timeout
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "15s")]
    pub timeout: Duration,
    /// Maximum time from the start of a connection to its first picture; exit code 3 if one takes longer
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub max_first_picture: Option<Duration>,
    /// Maximum number of pairs to measure concurrently; default: 3 per CPU
    #[arg(long, value_name = "N")]
    pub parallel: Option<u64>,
    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Write a self-contained HTML page with the matrix
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write detailed logs of the peers in a timeline to DIR/NAME-send.log and DIR/NAME-recv.log
    #[arg(long, value_name = "DIR")]
    pub logs: Option<PathBuf>,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub network: NetsimArgs,
}

/// Replacement for an unavailable kernel lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Fallback {
    /// Simulated NATs and links.
    Simulated,
}

impl LabArgs {
    /// The pairs to measure.
    ///
    /// # Errors
    /// Exit code 2: an invalid network or scenario, or conflicting flags.
    pub fn job(&self) -> Result<Job, Failure> {
        self.check()?;
        let seed = self.network.network.seed.unwrap_or(SEED);
        let mut plans = if self.matrix {
            self.matrix_plans(seed)?
        } else if self.scenario.is_empty() {
            vec![self.one_plan(seed)?]
        } else {
            self.scenario_plans()?
        };
        for plan in &mut plans {
            plan.max_first_picture = self.max_first_picture.or(plan.max_first_picture);
        }
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
        let parallel = self.parallel.unwrap_or(3 * cpus).min(MAX_PARALLEL);
        Ok(Job {
            plans,
            effort: Effort {
                connections: self.connections,
                pings: self.pings,
                timeout: self.timeout,
            },
            parallel: parallel as usize,
            seed,
        })
    }

    fn check(&self) -> Result<(), Failure> {
        let nat = self.network.network.nat.is_some();
        let modes =
            [("--nat", nat), ("--matrix", self.matrix), ("--scenario", !self.scenario.is_empty())];
        let given: Vec<&str> =
            modes.iter().filter(|(_, given)| *given).map(|(flag, _)| *flag).collect();
        let (message, remedy) = match given.as_slice() {
            [] => (
                "no networks given".to_owned(),
                "use --nat A,B (such as --nat port,sym), --matrix or --scenario FILE; see `orion-peer lab list`",
            ),
            [_, _, ..] => {
                (format!("{} cannot be used together", given.join(" and ")), "use only one of them")
            }
            _ if !self.profiles.is_empty() && !self.matrix => {
                ("--profiles requires --matrix".into(), "add --matrix, or use --nat A,B")
            }
            _ if self.same_nat && !self.scenario.is_empty() => (
                "--same-nat cannot be used with --scenario: the file defines the networks".into(),
                "use [same-nat] in the file instead of [a] and [b]",
            ),
            _ if self.fallback.is_some() && !self.kernel => {
                ("--fallback requires --kernel".into(), "add --kernel, or omit --fallback")
            }
            _ if self.kernel && self.turn.is_some_and(|turn| turn.tls) => (
                "--turn tls is not available with --kernel: its server supports only UDP and TCP"
                    .into(),
                "omit tls or --kernel",
            ),
            _ if self.connections == 0 => {
                ("--connections 0 measures nothing".into(), "use at least 1")
            }
            _ if self.parallel == Some(0) => {
                ("--parallel 0 measures nothing".into(), "use at least 1")
            }
            _ if self.timeout.is_zero() => {
                ("--timeout 0 leaves no time to connect".into(), "use at least 5s")
            }
            _ => return Ok(()),
        };
        Err(Failure::usage(message, remedy))
    }

    /// The named network with the link changes from the flags, for the first (0) or second (1) peer.
    fn end(&self, flag: &str, name: &str, side: usize) -> Result<NamedNetwork, Failure> {
        let mut network = network(name).map_err(|error| {
            Failure::usage(format!("{flag}: {error}"), "see `orion-peer lab list` for all names")
        })?;
        network.link = self.network.changes(side).apply(network.link);
        Ok(network)
    }

    fn plan(&self, a: NamedNetwork, b: NamedNetwork, seed: u64) -> Result<CellPlan, Failure> {
        let all = if self.kernel { in_kernel::TRANSPORTS } else { Transports::ALL };
        let turn = self.turn.unwrap_or(all);
        if !self.same_nat {
            return Ok(CellPlan::new(a, b, turn, seed));
        }
        CellPlan::same_nat(a, b, turn, seed).map_err(|error| {
            Failure::usage(
                format!("--same-nat: {error}"),
                "use one NAT profile, such as --same-nat --nat port:hairpin",
            )
        })
    }

    fn one_plan(&self, seed: u64) -> Result<CellPlan, Failure> {
        let [a, b] = self.network.names().unwrap_or_default();
        self.plan(self.end("--nat", &a, 0)?, self.end("--nat", &b, 1)?, seed)
    }

    fn matrix_plans(&self, seed: u64) -> Result<Vec<CellPlan>, Failure> {
        let names: Vec<String> = if self.profiles.is_empty() {
            MATRIX.iter().map(|name| (*name).to_owned()).collect()
        } else {
            self.profiles.clone()
        };
        if let Some(twice) = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name))
        {
            let message = format!("--profiles names `{}` twice", twice.1);
            return Err(Failure::usage(message, "list each name only once"));
        }
        let mut plans = Vec::new();
        for a in &names {
            for b in &names {
                // Two peers behind one NAT have the same profile.
                if self.same_nat && a != b {
                    continue;
                }
                let (a, b) = (self.end("--profiles", a, 0)?, self.end("--profiles", b, 1)?);
                let behind_one = a.profile.translates() || !a.profile.passes_udp();
                if !self.same_nat || behind_one {
                    plans.push(self.plan(a, b, seed)?);
                }
            }
        }
        if plans.is_empty() {
            let message = "--same-nat: none of the profiles is a NAT that two peers can share";
            return Err(Failure::usage(
                message,
                "use NAT profiles, such as --profiles port,port:hairpin",
            ));
        }
        Ok(plans)
    }

    fn scenario_plans(&self) -> Result<Vec<CellPlan>, Failure> {
        let overrides = Overrides {
            links: [self.network.changes(0), self.network.changes(1)],
            turn: self.turn,
            seed: self.network.network.seed,
        };
        let read = |path: &PathBuf| {
            let mut scenario = Scenario::read(path, &overrides).map_err(|error| {
                Failure::usage(
                    format!("--scenario: {error}"),
                    "see samples/scenarios/ for examples of every key, and `orion-peer lab list` for networks",
                )
            })?;
            let turn = &mut scenario.plan.turn;
            if self.kernel && turn.tls && !turn.tcp {
                let name = path.display();
                return Err(Failure::usage(
                    format!(
                        "`{name}` offers TURN over TLS, but the server of --kernel supports only UDP and TCP"
                    ),
                    "remove `tls` from the file, or omit --kernel",
                ));
            }
            // TLS runs over TCP, so the expected outcome does not change.
            turn.tls &= !self.kernel;
            Ok(scenario.plan)
        };
        self.scenario.iter().filter(|path| !is_timeline(path)).map(read).collect()
    }

    /// The scenarios with a timeline.
    ///
    /// # Errors
    /// Exit code 2: an invalid scenario, or conflicting flags.
    pub fn timelines(&self) -> Result<Vec<Timeline>, Failure> {
        let links = [self.network.changes(0), self.network.changes(1)];
        let read = |path: &PathBuf| {
            Timeline::read(path, links, self.network.network.seed).map_err(|error| {
                Failure::usage(
                    format!("--scenario: {error}"),
                    "see samples/scenarios/ for examples, and `orion-peer lab list` for networks",
                )
            })
        };
        let paths = self.scenario.iter().filter(|path| is_timeline(path));
        let mut timelines: Vec<Timeline> = paths.map(read).collect::<Result<_, _>>()?;
        for timeline in &mut timelines {
            timeline.max_first_picture = self.max_first_picture.or(timeline.max_first_picture);
        }
        let unsupported = [
            (
                "--turn",
                self.turn.is_some(),
                "the lab's server offers STUN and TURN over UDP and TCP",
            ),
            ("--html", self.html.is_some(), "the page shows a matrix of pairs only"),
        ];
        if timelines.is_empty() && self.logs.is_some() {
            return Err(Failure::usage(
                "--logs requires a scenario with a timeline",
                "add --scenario FILE with a timeline, or omit --logs",
            ));
        }
        match unsupported.iter().find(|(_, given, _)| *given && !timelines.is_empty()) {
            Some((flag, _, why)) => Err(Failure::usage(
                format!("{flag} cannot be used with timelines: {why}"),
                format!("omit {flag}"),
            )),
            None => Ok(timelines),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::nat::Path;

    #[derive(Debug, Parser)]
    struct Words {
        #[command(flatten)]
        lab: LabArgs,
    }

    fn job(words: &str) -> Result<Job, Failure> {
        let words = std::iter::once("x").chain(words.split_whitespace());
        Words::try_parse_from(words)
            .map_err(|error| Failure::usage(error.to_string(), ""))?
            .lab
            .job()
    }

    #[test]
    fn flags_define_a_pair() {
        let job = job(
            "--nat lte,sym --delay 40ms --loss 0,2% --turn udp --seed 7 --max-first-picture 2s",
        )
        .unwrap();
        let [plan] = job.plans.as_slice() else { panic!() };
        assert_eq!((plan.a.name.as_str(), plan.b.name.as_str()), ("lte", "sym"));
        assert_eq!((plan.a.link.delay.as_millis(), plan.b.link.delay.as_millis()), (40, 40));
        assert_eq!((plan.a.link.loss, plan.b.link.loss), (0.0, 0.02));
        assert_eq!(plan.a.link.jitter.as_millis(), 15, "the network's own");
        assert_eq!((plan.turn.to_string(), job.seed), ("udp".into(), 7));
        assert_eq!(plan.max_first_picture, Some(Duration::from_secs(2)));
    }

    #[test]
    fn the_matrix_has_all_pairs_in_order() {
        let whole = job("--matrix").unwrap();
        assert_eq!(whole.plans.len(), 81);
        let few = job("--matrix --profiles port,sym,home-router").unwrap();
        let names: Vec<String> =
            few.plans.iter().map(|plan| format!("{} {}", plan.a.name, plan.b.name)).collect();
        assert_eq!(names[..4], ["port port", "port sym", "port home-router", "sym port"]);
        assert_eq!(names.len(), 9);
        let same = job("--matrix --same-nat").unwrap();
        assert!(same.plans.iter().all(|plan| plan.same_nat));
        assert_eq!(same.plans.len(), 7, "all but none and firewall");
    }

    #[test]
    fn a_scenario_loses_only_tls_in_the_kernel_lab() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/samples/scenarios");
        let turn = |name: &str, more: &str| {
            job(&format!("--scenario {dir}/{name}.toml {more}"))
                .map(|job| job.plans[0].turn.to_string())
        };
        assert_eq!(turn("home-both", "").unwrap(), "udp,tcp,tls");
        assert_eq!(turn("home-both", "--kernel").unwrap(), "udp,tcp");
        assert_eq!(turn("udp-blocked-turn-udp-only", "--kernel").unwrap(), "udp");
        assert_eq!(turn("udp-blocked-turn-udp-only", "--turn none").unwrap(), "none");
        let failure = turn("udp-blocked-tls-only", "--kernel").unwrap_err();
        assert!(failure.message.contains("offers TURN over TLS"), "{failure}");
    }

    #[test]
    fn one_profile_applies_to_both_peers() {
        let job = job("--nat port:hairpin --same-nat --turn none").unwrap();
        assert_eq!((job.plans[0].same_nat, job.plans[0].expected), (true, Path::Direct));
    }

    #[test]
    fn conflicting_flags_are_rejected() {
        for (words, message) in [
            ("", "no networks given"),
            ("--nat port --matrix", "--nat and --matrix cannot be used together"),
            ("--nat symetric,port", "did you mean `sym`"),
            ("--nat port,home-ruter", "Did you mean the network `home-router`"),
            ("--nat port+udp-blocked,port", "use `udp-blocked` alone"),
            ("--nat port --profiles sym", "--profiles requires --matrix"),
            ("--matrix --profiles port,port", "`port` twice"),
            ("--nat port,sym --same-nat", "not the same NAT"),
            ("--nat none --same-nat", "does not translate"),
            ("--matrix --same-nat --profiles none", "none of the profiles is a NAT"),
            ("--scenario x.toml --same-nat", "the file defines"),
            ("--scenario /nowhere/x.toml", "cannot read `/nowhere/x.toml`"),
            ("--nat port --turn sctp", "is not a TURN transport"),
            ("--nat port --connections 0", "measures nothing"),
            ("--nat port --parallel 0", "measures nothing"),
            ("--nat port --fallback simulated", "--fallback requires --kernel"),
            ("--nat port --kernel --turn tls", "supports only UDP and TCP"),
            ("--nat port --timeout 0", "leaves no time"),
        ] {
            let failure = job(words).unwrap_err();
            assert!(failure.message.contains(message), "{words}: {failure}");
            assert_eq!(failure.exit, 2);
        }
    }
}
