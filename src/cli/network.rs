//! What the network of a peer in this process is like: the flags, and the simulated NAT and link that
//! they mean.

use std::{str::FromStr, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{failure::Failure, observe::Observer, output::Output, units};
use crate::{
    nat::{self, LinkChanges, LinkSettings, Profile, Queue},
    netns,
    netsim::{Gateway, GatewayConfig, Traffic},
    peer::PeerConfig,
};

/// Longest delay and jitter: beyond it no connection would come about.
const MAX_DELAY: Duration = Duration::from_secs(10);

/// Longest burst: with more, no connection would come about.
const MAX_BURST: u32 = 1000;

/// Flags that say what lies between the peer and the internet.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Simulated network")]
pub struct NetworkArgs {
    /// NAT to be behind: none, firewall, fullcone, addr, port, sym, port+sym, …; see `lab list`
    #[arg(long, value_name = "PROFILE")]
    pub nat: Option<Sides<String>>,
    /// Share of packets that get lost, each way; TCP repairs that and takes longer
    #[arg(long, value_name = "PERCENT", value_parser = sides(units::percentage))]
    pub loss: Option<Sides<f64>>,
    /// Packets lost in a row; `--loss` stays their share. Default 1: each on its own
    #[arg(long, value_name = "PACKETS", value_parser = sides(burst))]
    pub loss_burst: Option<Sides<u32>>,
    /// Delay, each way
    #[arg(long, value_name = "TIME", value_parser = sides(delay))]
    pub delay: Option<Sides<Duration>>,
    /// Up to this much more delay, packet by packet
    #[arg(long, value_name = "TIME", value_parser = sides(delay))]
    pub jitter: Option<Sides<Duration>>,
    /// Room in the queue in front of a link's --rate, as a size (32KB) or a time (100ms); default: a home router's,
    /// 100 ms and at least 64 KiB
    #[arg(long, value_name = "SIZE|TIME", value_parser = sides(str::parse::<Queue>))]
    pub queue: Option<Sides<Queue>>,
    /// What chance decides (loss, jitter, ports) is the same for the same number; default 1
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

/// The same, with the rate of the link; `bench` has a rate of connections, too, by the same flag.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Simulated network")]
pub struct LinkArgs {
    #[allow(missing_docs)]
    #[command(flatten)]
    pub network: NetworkArgs,
    /// Rate of the link each way, as in 2Mbit; packets that come faster wait, then get lost
    #[arg(long, value_name = "BITS", value_parser = link_rate)]
    pub rate: Option<Sides<u64>>,
}

impl LinkArgs {
    /// Checks the flags for a process with one peer; `None` when nothing is simulated.
    ///
    /// # Errors
    /// As [`NetworkArgs::one`].
    pub fn one(&self) -> Result<Option<Networks>, Failure> {
        self.network.one(self.rate.as_ref())
    }

    /// The words of `--nat` for the first and the second peer.
    #[must_use]
    pub fn names(&self) -> Option<[String; 2]> {
        let names = self.network.nat.as_ref()?;
        Some([names.of(0).clone(), names.of(1).clone()])
    }

    /// What the flags change of a link, of the first (0) or the second (1) peer.
    #[must_use]
    pub fn changes(&self, side: usize) -> LinkChanges {
        self.network.changes(side, self.rate.as_ref())
    }
}

/// A value for the networks of both peers, or one for each: `A` or `A,B`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sides<T> {
    first: T,
    second: Option<T>,
}

impl<T> Sides<T> {
    /// Reads `A` or `A,B`.
    fn parse<E: ToString>(text: &str, one: impl Fn(&str) -> Result<T, E>) -> Result<Self, String> {
        let one = |text: &str| one(text.trim()).map_err(|error| error.to_string());
        let mut parts = text.splitn(2, ',');
        let first = one(parts.next().unwrap_or_default())?;
        Ok(Self { first, second: parts.next().map(one).transpose()? })
    }

    /// The value for the first peer (0) or the second one (1).
    fn of(&self, side: usize) -> &T {
        match &self.second {
            Some(second) if side == 1 => second,
            _ => &self.first,
        }
    }
}

impl FromStr for Sides<String> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text, |text| Ok::<_, String>(text.to_owned()))
    }
}

/// A clap value parser of `A` or `A,B`.
fn sides<T: Clone + Send + Sync + 'static, E: ToString + 'static>(
    one: fn(&str) -> Result<T, E>,
) -> impl Fn(&str) -> Result<Sides<T>, String> + Clone + Send + Sync + 'static {
    move |text: &str| Sides::parse(text, one)
}

fn burst(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(packets @ 1..=MAX_BURST) => Ok(packets),
        _ => Err(format!("from 1 to {MAX_BURST} packets")),
    }
}

fn delay(text: &str) -> Result<Duration, String> {
    let delay = units::duration(text).map_err(|error| error.to_string())?;
    if delay <= MAX_DELAY { Ok(delay) } else { Err("at most 10s".to_owned()) }
}

/// Reads the rate of a link, or one for each peer.
///
/// # Errors
/// See [`units::bit_rate`].
pub fn link_rate(text: &str) -> Result<Sides<u64>, String> {
    Sides::parse(text, units::bit_rate)
}

/// What the networks of the peers of this process are like, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Networks {
    /// Of the first and of the second peer.
    pub sides: [SimulatedNetwork; 2],
    seed: u64,
}

/// What lies between one peer and the internet.
#[derive(Debug, Clone, PartialEq)]
pub struct SimulatedNetwork {
    /// As it was asked for: `lte-symmetric`, `port+sym`; none when only the link was.
    pub name: Option<String>,
    /// NATs and firewalls.
    pub nat: Profile,
    /// The link.
    pub link: LinkSettings,
}

impl SimulatedNetwork {
    /// In words: `behind port+sym (40ms delay)`.
    #[must_use]
    pub fn words(&self) -> String {
        if self.link.is_clear() {
            format!("behind `{}`, simulated", self.nat)
        } else {
            format!("behind `{}` over a link with {}, simulated", self.nat, self.link)
        }
    }
}

impl NetworkArgs {
    /// Checks the flags for a process with one peer.
    ///
    /// # Errors
    /// An unknown profile, or values for two peers: exit code 2.
    pub fn one(&self, rate: Option<&Sides<u64>>) -> Result<Option<Networks>, Failure> {
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
                format!("{flag} with two values, but only one peer is in this process"),
                "give one value here, and the other one where the other peer runs",
            ));
        }
        self.both(rate)
    }

    /// Checks the flags for a process with both peers; `None` when nothing is simulated.
    ///
    /// # Errors
    /// An unknown profile: exit code 2.
    pub fn both(&self, rate: Option<&Sides<u64>>) -> Result<Option<Networks>, Failure> {
        let nothing = self.nat.is_none() && self.changes(0, rate) == LinkChanges::default();
        if nothing {
            return match self.seed {
                None => Ok(None),
                Some(_) => Err(Failure::usage(
                    "--seed without a simulated network decides nothing",
                    "add --nat, --loss, --delay, --jitter or a link's --rate",
                )),
            };
        }
        let sides = [self.side(0, rate)?, self.side(1, rate)?];
        if self.loss_burst.is_some() && sides.iter().all(|side| side.link.loss <= 0.0) {
            return Err(Failure::usage(
                "--loss-burst without loss changes nothing",
                "say how much is lost with --loss, such as --loss 5%",
            ));
        }
        if self.queue.is_some() && sides.iter().all(|side| side.link.rate.is_none()) {
            return Err(Failure::usage(
                "--queue without a link's rate never fills",
                "say how fast the link is with --rate, such as --rate 2Mbit",
            ));
        }
        Ok(Some(Networks { sides, seed: self.seed.unwrap_or(1) }))
    }

    fn changes(&self, side: usize, rate: Option<&Sides<u64>>) -> LinkChanges {
        LinkChanges {
            loss: self.loss.as_ref().map(|loss| *loss.of(side)),
            loss_burst: self.loss_burst.as_ref().map(|burst| *burst.of(side)),
            delay: self.delay.as_ref().map(|delay| *delay.of(side)),
            jitter: self.jitter.as_ref().map(|jitter| *jitter.of(side)),
            rate: rate.map(|rate| *rate.of(side)),
            queue: self.queue.as_ref().map(|queue| *queue.of(side)),
        }
    }

    fn side(&self, side: usize, rate: Option<&Sides<u64>>) -> Result<SimulatedNetwork, Failure> {
        let (nat, link) = match &self.nat {
            None => (Profile::default(), LinkSettings::default()),
            Some(names) => network(names.of(side))?,
        };
        let link = self.changes(side, rate).apply(link);
        let name = self.nat.as_ref().map(|names| names.of(side).clone());
        Ok(SimulatedNetwork { name, nat, link })
    }
}

/// A network by its name.
///
/// # Errors
/// There is none of that name: exit code 2, with the nearest one.
pub fn network(name: &str) -> Result<(Profile, LinkSettings), Failure> {
    let network = nat::network(name)
        .map_err(|error| Failure::usage(format!("--nat: {error}"), "see `orion-peer lab list`"))?;
    Ok((network.profile, network.link))
}

impl Networks {
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

    /// For the result of a run: a network for each peer that is in this process.
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

    /// Puts a simulated network of its own under a peer: the first (0) or the second one (1). `nth`
    /// tells apart the peers of a process that stand on the same side.
    ///
    /// # Errors
    /// The simulated network cannot be had on this machine, or the peer has no IPv4 address.
    pub fn put_under(&self, peer: &mut PeerConfig, side: usize, nth: u64) -> Result<(), Failure> {
        let network = &self.sides[side];
        let seed = self.seed.wrapping_add(nth * 2 + side as u64);
        let address = peer.addresses.iter().filter(|address| address.is_ipv4());
        // Loopback, when it is there, for then both peers and the server are on this machine.
        let Some(address) = address.min_by_key(|address| !address.is_loopback()).copied() else {
            return Err(Failure::usage(
                "a simulated network needs an IPv4 address, and none is left",
                "leave --network udp6 out, or choose another --interface",
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

/// Passes typed lines on, but for `/link KEY=VALUE …` (loss, delay, jitter, rate, queue), which changes the simulated
/// link of this peer from now on. `output` shows what came of it.
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
            output.line(match typed(words) {
                Ok(changes) => {
                    gateway.set_link(changes.apply(gateway.link()));
                    format!("the simulated link is now: {}", gateway.link())
                }
                Err(error) => format!("/link: {error}"),
            });
        }
    });
    receiver
}

/// Reads `rate=1Mbit delay=20ms`.
fn typed(words: &str) -> Result<LinkChanges, String> {
    let mut changes = LinkChanges::default();
    for word in words.split_whitespace() {
        let (key, value) = word.split_once('=').ok_or("write KEY=VALUE, as in rate=1Mbit")?;
        let wrong = |error: units::UnitError| error.to_string();
        match key {
            "loss" => changes.loss = Some(units::percentage(value).map_err(wrong)?),
            "delay" => changes.delay = Some(delay(value)?),
            "jitter" => changes.jitter = Some(delay(value)?),
            "rate" => changes.rate = Some(units::bit_rate(value).map_err(wrong)?),
            "queue" => changes.queue = Some(value.parse()?),
            _ => return Err(format!("`{key}` is not loss, delay, jitter, rate or queue")),
        }
    }
    Ok(changes)
}

/// Says what a simulated link did to this peer's packets, each way.
pub fn show_traffic(observer: &mut Observer, gateway: Option<&Gateway>) {
    let Some(stats) = gateway.map(Gateway::stats) else { return };
    let dropped = |traffic: &Traffic| traffic.lost + traffic.overflowed;
    if dropped(&stats.up) + dropped(&stats.down) > 0 {
        let words = |traffic: &Traffic| {
            let Traffic { passed, lost, overflowed, .. } = traffic;
            format!("{passed} passed, {lost} lost, {overflowed} dropped by a full queue")
        };
        let (up, down) = (words(&stats.up), words(&stats.down));
        observer.line(&format!("simulated link: packets sent {up}; received {down}"));
    }
    let json = |traffic: &Traffic| json!({"passed": traffic.passed, "lost": traffic.lost, "overflowed": traffic.overflowed});
    observer.event(
        &json!({"kind": "simulatedLink", "sent": json(&stats.up), "received": json(&stats.down)}),
    );
}

/// Nothing to simulate is no failure.
///
/// # Errors
/// As [`Networks::put_under`].
pub fn put_under(
    networks: Option<&Networks>,
    peer: &mut PeerConfig,
    side: usize,
    nth: u64,
) -> Result<(), Failure> {
    networks.map_or(Ok(()), |networks| networks.put_under(peer, side, nth))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Words {
        #[command(flatten)]
        link: LinkArgs,
    }

    fn both(words: &str) -> Result<Option<Networks>, Failure> {
        let words = std::iter::once("x").chain(words.split_whitespace());
        let words =
            Words::try_parse_from(words).map_err(|error| Failure::usage(error.to_string(), ""))?;
        words.link.network.both(words.link.rate.as_ref())
    }

    #[test]
    fn one_value_is_for_both_and_two_are_one_each() {
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
        assert!(a.words().contains("`sym`") && b.words().contains("2 % loss"));
    }

    #[test]
    fn a_typed_change_is_what_flags_would_say() {
        let changes = typed("rate=1Mbit queue=32KB delay=20ms").unwrap();
        let link = changes.apply(LinkSettings { loss: 0.1, ..LinkSettings::default() });
        assert_eq!((link.rate, link.queue), (Some(1_000_000), Some(Queue::Bytes(32_000))));
        assert_eq!((link.delay, link.loss), (Duration::from_millis(20), 0.1));
        for (words, message) in [
            ("rate", "KEY=VALUE"),
            ("speed=1Mbit", "not loss, delay"),
            ("delay=11s", "at most 10s"),
            ("loss=200%", "not a valid percentage"),
        ] {
            assert!(typed(words).unwrap_err().contains(message), "{words}");
        }
    }

    #[test]
    fn the_same_seed_is_the_same_network() {
        assert_eq!(both("--nat sym --seed 7").unwrap(), both("--nat sym --seed 7").unwrap());
        assert_ne!(both("--nat sym --seed 7").unwrap(), both("--nat sym --seed 8").unwrap());
    }

    #[test]
    fn wrong_words_are_refused() {
        for (words, message) in [
            ("--nat symetric", "did you mean `sym`"),
            ("--nat port,", "unknown NAT profile ``"),
            ("--loss 101%", "not a valid percentage"),
            ("--delay 11s", "at most 10s"),
            ("--loss-burst 0", "from 1 to 1000 packets"),
            ("--loss-burst 10", "without loss"),
            ("--loss-burst 10 --loss 0", "without loss"),
            ("--delay 1s,soon", "not a valid duration"),
            ("--rate 1Mbit --queue full", "not a valid queue"),
            ("--queue 32KB", "without a link's rate"),
            ("--rate 5/s", "no link rate"),
            ("--seed 7", "decides nothing"),
        ] {
            let failure = both(words).unwrap_err();
            assert!(failure.message.contains(message), "{words}: {failure}");
        }
        let two = NetworkArgs { nat: Some("sym,port".parse().unwrap()), ..NetworkArgs::default() };
        let failure = two.one(None).unwrap_err();
        assert!(failure.message.contains("--nat with two values"), "{failure}");
    }
}
