//! Flags for the simulated NAT and link of a peer in this process.

use std::{str::FromStr, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{failure::Failure, output::Output, session_reporter::SessionReporter, units};
use crate::{
    nat::{self, LinkChanges, LinkSettings, Profile, Queue},
    netns,
    netsim::{Gateway, GatewayConfig, Traffic},
    peer::PeerConfig,
};

/// Maximum delay and jitter: beyond it no connection would be established.
const MAX_DELAY: Duration = Duration::from_secs(10);

/// Maximum burst length: beyond it no connection would be established.
const MAX_BURST: u32 = 1000;

/// Flags for the network between the peer and the internet, except the bandwidth of the link.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Simulated network")]
pub struct NetsimBaseArgs {
    /// NAT in front of this peer: none, firewall, fullcone, addr, port, sym, port+sym, …; see `lab list`
    #[arg(long, value_name = "PROFILE")]
    pub nat: Option<PerPeer<String>>,
    /// Packet loss in each direction; TCP connections recover but slow down
    #[arg(long, value_name = "PERCENT", value_parser = per_peer(units::percentage))]
    pub loss: Option<PerPeer<f64>>,
    /// Length of loss bursts; does not change the loss rate of `--loss`; default: 1
    #[arg(long, value_name = "PACKETS", value_parser = per_peer(burst))]
    pub loss_burst: Option<PerPeer<u32>>,
    /// Delay in each direction
    #[arg(long, value_name = "TIME", value_parser = per_peer(delay))]
    pub delay: Option<PerPeer<Duration>>,
    /// Maximum additional random delay per packet
    #[arg(long, value_name = "TIME", value_parser = per_peer(delay))]
    pub jitter: Option<PerPeer<Duration>>,
    /// Size of the queue in front of a link with --rate, in bytes (32KB) or time (100ms); default: that of a home
    /// router, 100 ms and at least 64 KiB
    #[arg(long, value_name = "SIZE|TIME", value_parser = per_peer(str::parse::<Queue>))]
    pub queue: Option<PerPeer<Queue>>,
    /// Random seed for loss, jitter and port allocation; default: 1
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

/// Flags for the network between the peer and the internet. `bench` has its own `--rate`, which also sets the
/// rate of connections.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Simulated network")]
pub struct NetsimArgs {
    #[allow(missing_docs)]
    #[command(flatten)]
    pub network: NetsimBaseArgs,
    /// Bandwidth of the link in each direction, such as 2Mbit; excess packets are queued, then dropped
    #[arg(long, value_name = "BITS", value_parser = link_rate)]
    pub rate: Option<PerPeer<u64>>,
}

impl NetsimArgs {
    /// Validates the flags for a process with one peer; `None` if nothing is simulated.
    ///
    /// # Errors
    /// See [`NetsimBaseArgs::for_single_peer`].
    pub fn for_single_peer(&self) -> Result<Option<SimulatedNetworks>, Failure> {
        self.network.for_single_peer(self.rate.as_ref())
    }

    /// The values of `--nat` for the first and the second peer.
    #[must_use]
    pub fn names(&self) -> Option<[String; 2]> {
        let names = self.network.nat.as_ref()?;
        Some([names.get(0).clone(), names.get(1).clone()])
    }

    /// The changes that the flags make to the link of the first (0) or the second (1) peer.
    #[must_use]
    pub fn changes(&self, side: usize) -> LinkChanges {
        self.network.changes(side, self.rate.as_ref())
    }
}

/// One value for both peers, or one for each: `A` or `A,B`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PerPeer<T> {
    first: T,
    second: Option<T>,
}

impl<T> PerPeer<T> {
    /// Parses `A` or `A,B`.
    fn parse<E: ToString>(text: &str, one: impl Fn(&str) -> Result<T, E>) -> Result<Self, String> {
        let one = |text: &str| one(text.trim()).map_err(|error| error.to_string());
        let mut parts = text.splitn(2, ',');
        let first = one(parts.next().unwrap_or_default())?;
        Ok(Self { first, second: parts.next().map(one).transpose()? })
    }

    /// The value for the first peer (0) or the second one (1).
    fn get(&self, side: usize) -> &T {
        match &self.second {
            Some(second) if side == 1 => second,
            _ => &self.first,
        }
    }
}

impl FromStr for PerPeer<String> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text, |text| Ok::<_, String>(text.to_owned()))
    }
}

/// A clap value parser for `A` or `A,B`.
fn per_peer<T: Clone + Send + Sync + 'static, E: ToString + 'static>(
    one: fn(&str) -> Result<T, E>,
) -> impl Fn(&str) -> Result<PerPeer<T>, String> + Clone + Send + Sync + 'static {
    move |text: &str| PerPeer::parse(text, one)
}

fn burst(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(packets @ 1..=MAX_BURST) => Ok(packets),
        _ => Err(units::not_valid(text, "burst length", &format!("1 to {MAX_BURST} packets"))),
    }
}

fn delay(text: &str) -> Result<Duration, String> {
    let delay = units::duration(text).map_err(|error| error.to_string())?;
    if delay <= MAX_DELAY { Ok(delay) } else { Err("the maximum is 10s".to_owned()) }
}

/// Parses the bandwidth of a link, or one for each peer.
///
/// # Errors
/// See [`units::bit_rate`].
pub fn link_rate(text: &str) -> Result<PerPeer<u64>, String> {
    PerPeer::parse(text, units::bit_rate)
}

/// The validated simulated networks of the peers in this process.
#[derive(Debug, Clone, PartialEq)]
pub struct SimulatedNetworks {
    /// The networks of the first and the second peer.
    pub sides: [SimulatedNetwork; 2],
    seed: u64,
}

/// The network between one peer and the internet.
#[derive(Debug, Clone, PartialEq)]
pub struct SimulatedNetwork {
    /// The name as requested: `lte-symmetric`, `port+sym`; `None` if only the link was changed.
    pub name: Option<String>,
    /// The NATs and firewalls, from the peer outward.
    pub nat: Profile,
    /// The link between the peer and the NAT.
    pub link: LinkSettings,
}

impl SimulatedNetwork {
    /// A description: ``simulated network: NAT `port+sym`, link with 40 ms delay``.
    #[must_use]
    pub fn describe(&self) -> String {
        if self.link.is_clear() {
            format!("simulated network: NAT `{}`", self.nat)
        } else {
            format!("simulated network: NAT `{}`, link with {}", self.nat, self.link)
        }
    }
}

impl NetsimBaseArgs {
    /// Validates the flags for a process with one peer.
    ///
    /// # Errors
    /// An unknown profile, or values for two peers: exit code 2.
    pub fn for_single_peer(
        &self,
        rate: Option<&PerPeer<u64>>,
    ) -> Result<Option<SimulatedNetworks>, Failure> {
        let two = [
            ("--nat", self.nat.as_ref().is_some_and(|sides| sides.second.is_some())),
            ("--loss", self.loss.as_ref().is_some_and(|sides| sides.second.is_some())),
            ("--loss-burst", self.loss_burst.as_ref().is_some_and(|sides| sides.second.is_some())),
            ("--delay", self.delay.as_ref().is_some_and(|sides| sides.second.is_some())),
            ("--jitter", self.jitter.as_ref().is_some_and(|sides| sides.second.is_some())),
            ("--queue", self.queue.as_ref().is_some_and(|sides| sides.second.is_some())),
            ("--rate", rate.is_some_and(|sides| sides.second.is_some())),
        ];
        if let Some((flag, _)) = two.iter().find(|(_, two)| *two) {
            return Err(Failure::usage(
                format!("{flag} has two values, but this process runs only one peer"),
                "use one value here and the other for the remote peer",
            ));
        }
        self.for_both_peers(rate)
    }

    /// Validates the flags for a process with both peers; `None` if nothing is simulated.
    ///
    /// # Errors
    /// An unknown profile: exit code 2.
    pub fn for_both_peers(
        &self,
        rate: Option<&PerPeer<u64>>,
    ) -> Result<Option<SimulatedNetworks>, Failure> {
        let nothing = self.nat.is_none() && self.changes(0, rate) == LinkChanges::default();
        if nothing {
            return match self.seed {
                None => Ok(None),
                Some(_) => Err(Failure::usage(
                    "--seed has no effect without a simulated network",
                    "add --nat, --loss, --delay, --jitter or a link --rate",
                )),
            };
        }
        let sides = [self.side(0, rate)?, self.side(1, rate)?];
        if self.loss_burst.is_some() && sides.iter().all(|side| side.link.loss <= 0.0) {
            return Err(Failure::usage(
                "--loss-burst has no effect without loss",
                "add a loss rate, such as --loss 5%",
            ));
        }
        if self.queue.is_some() && sides.iter().all(|side| side.link.rate.is_none()) {
            return Err(Failure::usage(
                "--queue has no effect without a link rate",
                "add a bandwidth, such as --rate 2Mbit",
            ));
        }
        Ok(Some(SimulatedNetworks { sides, seed: self.seed.unwrap_or(1) }))
    }

    fn changes(&self, side: usize, rate: Option<&PerPeer<u64>>) -> LinkChanges {
        LinkChanges {
            loss: self.loss.as_ref().map(|loss| *loss.get(side)),
            loss_burst: self.loss_burst.as_ref().map(|burst| *burst.get(side)),
            delay: self.delay.as_ref().map(|delay| *delay.get(side)),
            jitter: self.jitter.as_ref().map(|jitter| *jitter.get(side)),
            rate: rate.map(|rate| *rate.get(side)),
            queue: self.queue.as_ref().map(|queue| *queue.get(side)),
        }
    }

    fn side(&self, side: usize, rate: Option<&PerPeer<u64>>) -> Result<SimulatedNetwork, Failure> {
        let (nat, link) = match &self.nat {
            None => (Profile::default(), LinkSettings::default()),
            Some(names) => network(names.get(side))?,
        };
        let link = self.changes(side, rate).apply(link);
        let name = self.nat.as_ref().map(|names| names.get(side).clone());
        Ok(SimulatedNetwork { name, nat, link })
    }
}

/// Looks up a network by name.
///
/// # Errors
/// The name is unknown: exit code 2, with the nearest known name.
pub fn network(name: &str) -> Result<(Profile, LinkSettings), Failure> {
    let network = nat::network(name)
        .map_err(|error| Failure::usage(format!("--nat: {error}"), "see `orion-peer lab list`"))?;
    Ok((network.profile, network.link))
}

impl SimulatedNetworks {
    /// The first network and the seed, for the kernel lab.
    #[must_use]
    pub fn plan(&self) -> (netns::NetworkPlan, u64) {
        let network = &self.sides[0];
        let network = netns::NetworkPlan {
            profile: network.nat.clone(),
            link: network.link,
            ..netns::NetworkPlan::default()
        };
        (network, self.seed)
    }

    /// The configuration recorded in the result of a run: one network per peer in this process.
    #[must_use]
    pub fn described(&self, both: bool) -> Value {
        let sides = self.sides.iter().take(if both { 2 } else { 1 });
        let sides: Vec<Value> = sides
            .map(|network| {
                let (nat, link) = (network.nat.to_string(), network.link.to_string());
                json!({"name": network.name, "nat": nat, "link": link})
            })
            .collect();
        json!({"networks": sides, "seed": self.seed})
    }

    /// Attaches a peer, the first (0) or the second (1), to its own simulated network. `nth` distinguishes the
    /// peers of a process that have the same role.
    ///
    /// # Errors
    /// The simulated network is not available on this machine, or the peer has no IPv4 address.
    pub fn attach(&self, peer: &mut PeerConfig, side: usize, nth: u64) -> Result<(), Failure> {
        let network = &self.sides[side];
        let seed = self.seed.wrapping_add(nth * 2 + side as u64);
        let address = peer.addresses.iter().filter(|address| address.is_ipv4());
        // Prefer loopback: if it is present, both peers and the server are on this machine.
        let Some(address) = address.min_by_key(|address| !address.is_loopback()).copied() else {
            return Err(Failure::usage(
                "a simulated network needs an IPv4 address, but there is none",
                "omit --network udp6, or choose another --interface",
            ));
        };
        let gateway = Gateway::new(GatewayConfig {
            profile: network.nat.clone(),
            link: network.link,
            seed,
            outside: (!address.is_loopback()).then_some(address),
        });
        peer.gateway =
            Some(gateway.map_err(|error| Failure::usage(error.to_string(), error.remedy()))?);
        Ok(())
    }
}

/// Forwards typed lines, except `/link KEY=VALUE …` (loss, delay, jitter, rate, queue), which changes the simulated
/// link of this peer. `output` shows the resulting link.
#[must_use]
pub fn link_lines(
    mut lines: mpsc::Receiver<String>,
    gateway: Option<Arc<Gateway>>,
    output: Output,
) -> mpsc::Receiver<String> {
    let Some(gateway) = gateway else { return lines };
    let (others, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Some(line) = lines.recv().await {
            let Some(words) = line.strip_prefix("/link ") else {
                if others.send(line).await.is_err() {
                    return;
                }
                continue;
            };
            output.line(match link_changes(words) {
                Ok(changes) => {
                    gateway.set_link(changes.apply(gateway.link()));
                    format!("simulated link changed: {}", gateway.link())
                }
                Err(error) => format!("/link: {error}"),
            });
        }
    });
    receiver
}

/// Parses `rate=1Mbit delay=20ms`.
fn link_changes(words: &str) -> Result<LinkChanges, String> {
    let mut changes = LinkChanges::default();
    for word in words.split_whitespace() {
        let (key, value) = word.split_once('=').ok_or("expected KEY=VALUE, such as rate=1Mbit")?;
        let wrong = |error: units::UnitError| error.to_string();
        match key {
            "loss" => changes.loss = Some(units::percentage(value).map_err(wrong)?),
            "delay" => changes.delay = Some(delay(value)?),
            "jitter" => changes.jitter = Some(delay(value)?),
            "rate" => changes.rate = Some(units::bit_rate(value).map_err(wrong)?),
            "queue" => changes.queue = Some(value.parse()?),
            _ => return Err(units::not_valid(key, "key", "loss, delay, jitter, rate or queue")),
        }
    }
    Ok(changes)
}

/// Shows how many of this peer's packets a simulated link passed and dropped, in each direction.
pub fn show_traffic(reporter: &mut SessionReporter, gateway: Option<&Gateway>) {
    let Some(stats) = gateway.map(Gateway::stats) else { return };
    let dropped = |traffic: &Traffic| traffic.lost + traffic.overflowed;
    if dropped(&stats.up) + dropped(&stats.down) > 0 {
        let describe = |traffic: &Traffic| {
            let Traffic { passed, lost, overflowed, .. } = traffic;
            format!("{passed} passed, {lost} lost, {overflowed} dropped by a full queue")
        };
        let (up, down) = (describe(&stats.up), describe(&stats.down));
        reporter.line(&format!("simulated link: sent packets: {up}; received packets: {down}"));
    }
    let json = |traffic: &Traffic| json!({"passed": traffic.passed, "lost": traffic.lost, "overflowed": traffic.overflowed});
    reporter.event(
        &json!({"kind": "simulatedLink", "sent": json(&stats.up), "received": json(&stats.down)}),
    );
}

/// Attaches a peer to its simulated network, if there is one.
///
/// # Errors
/// See [`SimulatedNetworks::attach`].
pub fn attach(
    networks: Option<&SimulatedNetworks>,
    peer: &mut PeerConfig,
    side: usize,
    nth: u64,
) -> Result<(), Failure> {
    networks.map_or(Ok(()), |networks| networks.attach(peer, side, nth))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Words {
        #[command(flatten)]
        link: NetsimArgs,
    }

    fn both(words: &str) -> Result<Option<SimulatedNetworks>, Failure> {
        let words = std::iter::once("x").chain(words.split_whitespace());
        let words =
            Words::try_parse_from(words).map_err(|error| Failure::usage(error.to_string(), ""))?;
        words.link.network.for_both_peers(words.link.rate.as_ref())
    }

    #[test]
    fn one_value_applies_to_both_peers_and_two_to_one_each() {
        let networks =
            both("--nat sym,port+port --delay 40ms --loss 0,2% --loss-burst 10 --rate 2Mbit --queue 32KB,100ms")
                .unwrap();
        let [a, b] = networks.unwrap().sides;
        assert_eq!((a.nat.to_string(), b.nat.to_string()), ("sym".into(), "port+port".into()));
        assert_eq!((a.link.delay, b.link.delay), (Duration::from_millis(40), a.link.delay));
        assert_eq!((a.link.loss, b.link.loss), (0.0, 0.02));
        assert_eq!((a.link.loss_burst, b.link.loss_burst), (10, 10));
        assert_eq!((a.link.rate, b.link.rate), (Some(2_000_000), Some(2_000_000)));
        let hundred = Queue::Time(Duration::from_millis(100));
        assert_eq!((a.link.queue, b.link.queue), (Some(Queue::Bytes(32_000)), Some(hundred)));
        assert_eq!(both("").unwrap(), None);
        assert!(a.describe().contains("`sym`") && b.describe().contains("2 % loss"));
    }

    #[test]
    fn typed_changes_have_the_syntax_of_flags() {
        let changes = link_changes("rate=1Mbit queue=32KB delay=20ms").unwrap();
        let link = changes.apply(LinkSettings { loss: 0.1, ..LinkSettings::default() });
        assert_eq!((link.rate, link.queue), (Some(1_000_000), Some(Queue::Bytes(32_000))));
        assert_eq!((link.delay, link.loss), (Duration::from_millis(20), 0.1));
        for (words, message) in [
            ("rate", "KEY=VALUE"),
            ("speed=1Mbit", "not a valid key"),
            ("delay=11s", "the maximum is 10s"),
            ("loss=200%", "not a valid percentage"),
        ] {
            assert!(link_changes(words).unwrap_err().contains(message), "{words}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_network() {
        assert_eq!(both("--nat sym --seed 7").unwrap(), both("--nat sym --seed 7").unwrap());
        assert_ne!(both("--nat sym --seed 7").unwrap(), both("--nat sym --seed 8").unwrap());
    }

    #[test]
    fn invalid_flags_are_rejected() {
        for (words, message) in [
            ("--nat symetric", "did you mean `sym`"),
            ("--nat port,", "unknown NAT profile ``"),
            ("--loss 101%", "not a valid percentage"),
            ("--delay 11s", "the maximum is 10s"),
            ("--loss-burst 0", "1 to 1000 packets"),
            ("--loss-burst 10", "without loss"),
            ("--loss-burst 10 --loss 0", "without loss"),
            ("--delay 1s,soon", "not a valid duration"),
            ("--rate 1Mbit --queue full", "not a valid queue"),
            ("--queue 32KB", "without a link rate"),
            ("--rate 5/s", "not a valid link rate"),
            ("--seed 7", "has no effect"),
        ] {
            let failure = both(words).unwrap_err();
            assert!(failure.message.contains(message), "{words}: {failure}");
        }
        let two =
            NetsimBaseArgs { nat: Some("sym,port".parse().unwrap()), ..NetsimBaseArgs::default() };
        let failure = two.for_single_peer(None).unwrap_err();
        assert!(failure.message.contains("--nat has two values"), "{failure}");
    }
}
