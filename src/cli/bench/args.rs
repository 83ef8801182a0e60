//! Flags of `bench`, and what they mean.

use std::{path::PathBuf, time::Duration};

use crate::{
    bench::plan::BenchPlan,
    cli::{
        connect::ConnectArgs,
        exports::ExportArgs,
        failure::Failure,
        network::{self, NetworkArgs, Sides},
        send, units,
    },
    media::source::SourceSpec,
    peer::PeerRole,
    report::bench::gates::{Gates, RequiredType},
    session::capture::CaptureConfig,
};

/// Smallest and largest ping message, bytes: `ping` with its id and time, and what SCTP carries well.
const PING_BYTES: (u64, u64) = (64, 16_000);

/// Most connections open at once: each takes some ten sockets and two relayed addresses.
const MAX_PARALLEL: u64 = 256;

/// What fits the 16 bits of `maxPacketLifeTime` (RFC 8832 §5.1), about.
const LONGEST_LIFE_TIME: Duration = Duration::from_secs(65);

/// Flags of `bench`.
#[derive(Debug, Clone, clap::Args)]
#[command(mut_arg("signal", |arg| arg.help(
    "Signaling server, ws:// or wss://, to meet another machine's peer; default: everything in this process"
)), mut_arg("timeout", |arg| arg.help(
    "Give a connection up that is not set up by then; default 15s"
)))]
pub struct BenchArgs {
    #[allow(missing_docs)]
    #[command(flatten)]
    pub load: LoadArgs,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub gates: GateArgs,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub results: ResultArgs,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub connect: ConnectArgs,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub network: NetworkArgs,
}

/// What is measured.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Load")]
pub struct LoadArgs {
    /// Connections to make and measure, each a fresh one
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub connections: u64,
    /// Connections open at once
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub parallel: u64,
    /// Connections to begin a second, at most (5/s); or the rate of the simulated link (2Mbit)
    #[arg(long, value_name = "N/s|BITS", value_parser = rate)]
    pub rate: Vec<Rate>,
    /// Pings over the data channel, shared out over the connections
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub pings: u64,
    /// Time between the pings of a connection
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "20ms")]
    pub ping_interval: Duration,
    /// Size of a ping message, 64 to 16000 bytes
    #[arg(long, value_name = "BYTES", value_parser = units::size, default_value = "64")]
    pub ping_size: u64,
    /// Give a ping or pong up when it did not get through in this time, as the apps do; 0: never
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "100ms")]
    pub ping_lifetime: Duration,
    /// Keyframes, shared out over the connections
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub keyframes: u64,
    /// Time between the keyframes of a connection
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "1s")]
    pub interval: Duration,
    /// Measure each connection for this long, whatever the counts of pings and keyframes
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub duration: Option<Duration>,
    /// Connections to make first that do not count
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub warmup: u64,
    /// Tell one-way times, too, with the clocks' offset taken out
    #[arg(long)]
    pub one_way: bool,
    /// What this side is: send (the phone, offers) or recv (the Mac, answers)
    #[arg(long, value_name = "ROLE", value_enum, default_value_t)]
    pub role: Role,
    /// Be the other side of a bench that runs elsewhere, until Ctrl-C
    #[arg(long)]
    pub respond: bool,
    /// Pictures to send: `pattern[:WxH]`, `camera[:N[:FORMAT]]`, a FILE (JPEG, PNG, WebP, MJPEG, y4m, H.264), or
    /// a DIR of pictures
    #[arg(long, value_name = "SOURCE", default_value = "pattern", value_parser = send::source_parser())]
    pub source: SourceSpec,
    /// Box that pictures are fitted into, aspect kept; default: their own size
    #[arg(long, value_name = "WxH", value_parser = units::picture_size)]
    pub size: Option<units::PictureSize>,
    /// Largest keyframe
    #[arg(long, value_name = "BYTES", value_parser = send::budget, default_value = "100KB")]
    pub max_bytes: u64,
    /// How fast packets leave: auto (as fast as the way carries them), off, or a rate such as 2Mbit
    #[arg(long, value_name = "PACE", value_parser = units::pace, default_value = "auto")]
    pub pace: units::RateSetting,
    /// Do not repair lost packets: for comparison
    #[arg(long)]
    pub no_repair: bool,
    /// What the phone's bandwidth estimate starts with: auto (what lets a keyframe come at once), off
    /// (nothing), or a rate such as 5Mbit
    #[arg(long, value_name = "BITRATE", value_parser = units::phone_bitrate, default_value = "auto")]
    pub phone_bitrate: units::RateSetting,
}

/// Which side of a pair.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// The phone.
    #[default]
    Send,
    /// The Mac.
    Recv,
}

impl From<Role> for PeerRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Send => Self::Sender,
            Role::Recv => Self::Receiver,
        }
    }
}

/// What must be met.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Gates: exit code 3 when one is not met")]
pub struct GateArgs {
    /// Share of connections that must succeed; without it, all must, or the exit code is 1
    #[arg(long, value_name = "PERCENT", value_parser = units::percentage)]
    pub min_success: Option<f64>,
    /// Half of the round trips must not be slower
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub max_rtt_p50: Option<Duration>,
    /// 95 % of the round trips must not be slower
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub max_rtt_p95: Option<Duration>,
    /// 99 % of the round trips must not be slower
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub max_rtt_p99: Option<Duration>,
    /// 95 % of the set-ups must not be slower, from the token request to the open data channel
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub max_setup_p95: Option<Duration>,
    /// Share of pings that may get lost
    #[arg(long, value_name = "PERCENT", value_parser = units::percentage)]
    pub max_ping_loss: Option<f64>,
    /// How every connection must be made: host, srflx, relay, relay/udp, relay/tcp, relay/tls
    #[arg(long, value_name = "TYPE")]
    pub require_type: Option<RequiredType>,
    /// Share of keyframes that must arrive whole
    #[arg(long, value_name = "PERCENT", value_parser = units::percentage)]
    pub min_keyframes_intact: Option<f64>,
    /// No keyframe may be larger
    #[arg(long, value_name = "BYTES", value_parser = units::size)]
    pub max_frame_bytes: Option<u64>,
    /// Every connection must have its first picture within this time of its start
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub max_first_picture: Option<Duration>,
    /// 95 % of the first pictures must not take longer, from the start of the connection
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub max_first_picture_p95: Option<Duration>,
    /// 95 % of the keyframes must not take longer, from capture to complete
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub max_keyframe_latency_p95: Option<Duration>,
    /// 95 % of the keyframes must not take longer, from the first packet sent to the last one received
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub max_keyframe_network_p95: Option<Duration>,
    /// No keyframe may take longer from its first packet to its last one, as they arrive
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub max_keyframe_spread: Option<Duration>,
    /// Result of an earlier run to compare with; repeatable
    #[arg(long, value_name = "FILE")]
    pub baseline: Vec<PathBuf>,
    /// Largest regression of each quantity against the baseline, tested at 95 % confidence
    #[arg(long, value_name = "PERCENT", value_parser = units::increase)]
    pub max_regression: Option<f64>,
}

/// Where the result goes.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Results")]
pub struct ResultArgs {
    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Write JSON Lines to stdout while it runs; the last one holds the result
    #[arg(long)]
    pub json_stream: bool,
    /// Write getStats to DIR/stats.jsonl
    #[arg(long, value_name = "DIR")]
    pub stats: Option<PathBuf>,
    /// Time between two of them
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "2s")]
    pub stats_interval: Duration,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub exports: ExportArgs,
}

/// One of the two rates there are.
#[derive(Debug, Clone, PartialEq)]
pub enum Rate {
    /// Connections begun a second.
    Connections(f64),
    /// Bits a second of the simulated link.
    Link(Sides<u64>),
}

fn rate(text: &str) -> Result<Rate, String> {
    if let Ok(rate) = network::link_rate(text) {
        return Ok(Rate::Link(rate));
    }
    let number = text.trim().strip_suffix("/s").unwrap_or(text).trim();
    match number.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 && rate <= 10_000.0 => {
            Ok(Rate::Connections(rate))
        }
        _ => Err(format!(
            "`{text}` is no rate: write 5/s or 0.5/s for connections begun, 2Mbit or 500kbit for \
             the link"
        )),
    }
}

impl LoadArgs {
    /// Connections to begin a second; the last one given counts.
    #[must_use]
    pub fn connection_rate(&self) -> Option<f64> {
        self.rate.iter().rev().find_map(|rate| match rate {
            Rate::Connections(rate) => Some(*rate),
            Rate::Link(_) => None,
        })
    }

    /// The rate of the simulated link; the last one given counts.
    #[must_use]
    pub fn link_rate(&self) -> Option<&Sides<u64>> {
        self.rate.iter().rev().find_map(|rate| match rate {
            Rate::Connections(_) => None,
            Rate::Link(rate) => Some(rate),
        })
    }

    /// What there is to do.
    ///
    /// # Errors
    /// A number that means nothing: exit code 2.
    pub fn plan(&self) -> Result<BenchPlan, Failure> {
        let wrong = |message: &str, remedy: &str| Err(Failure::usage(message, remedy));
        if self.connections == 0 {
            return wrong("--connections 0 measures nothing", "give at least 1");
        }
        if !(1..=MAX_PARALLEL).contains(&self.parallel) {
            return wrong("--parallel is from 1 to 256", "give how many may be open at once");
        }
        if self.ping_interval.is_zero() || self.ping_interval > Duration::from_hours(1) {
            return wrong("--ping-interval is from 1us to 1h", "give the time between two pings");
        }
        if !(PING_BYTES.0..=PING_BYTES.1).contains(&self.ping_size) {
            return wrong("--ping-size is from 64 to 16000 bytes", "give a size in that range");
        }
        if self.ping_lifetime > LONGEST_LIFE_TIME {
            return wrong("--ping-lifetime is from 1ms to 65s, or 0", "give a time in that range");
        }
        if self.interval < Duration::from_millis(10) || self.interval > Duration::from_hours(24) {
            return wrong("--interval is from 10ms to 24h", "give the time between two keyframes");
        }
        if self.duration.is_some_and(|duration| duration.is_zero()) {
            return wrong("--duration 0 measures nothing", "give a longer one, or leave it out");
        }
        Ok(BenchPlan {
            connections: self.connections,
            warmup: self.warmup,
            rate: self.connection_rate(),
            pings: self.pings,
            ping_interval: self.ping_interval,
            ping_bytes: usize::try_from(self.ping_size).unwrap_or(usize::MAX),
            ping_life_time: self.control_life_time(),
            keyframes: self.keyframes,
            interval: self.interval,
            duration: self.duration,
        })
    }

    /// [`PeerConfig::control_life_time`](crate::peer::PeerConfig::control_life_time).
    #[must_use]
    pub fn control_life_time(&self) -> Option<Duration> {
        (!self.ping_lifetime.is_zero()).then_some(self.ping_lifetime)
    }

    /// How to capture.
    #[must_use]
    pub fn capture(&self) -> CaptureConfig {
        send::capture(&self.source, self.size, self.max_bytes)
    }
}

impl GateArgs {
    /// The gates as they are checked.
    ///
    /// # Errors
    /// `--max-regression` without a baseline: exit code 2.
    pub fn gates(&self) -> Result<Gates, Failure> {
        if self.max_regression.is_some() && self.baseline.is_empty() {
            return Err(Failure::usage(
                "--max-regression without --baseline has nothing to compare with",
                "give --baseline FILE with the result of an earlier `bench --out FILE`",
            ));
        }
        let ms = |time: Option<Duration>| time.map(|time| time.as_secs_f64() * 1e3);
        Ok(Gates {
            min_success: self.min_success,
            max_rtt_p50: ms(self.max_rtt_p50),
            max_rtt_p95: ms(self.max_rtt_p95),
            max_rtt_p99: ms(self.max_rtt_p99),
            max_setup_p95: ms(self.max_setup_p95),
            max_ping_loss: self.max_ping_loss,
            require_type: self.require_type,
            min_keyframes_intact: self.min_keyframes_intact,
            max_frame_bytes: self.max_frame_bytes,
            max_keyframe_latency_p95: ms(self.max_keyframe_latency_p95),
            max_keyframe_network_p95: ms(self.max_keyframe_network_p95),
            max_keyframe_spread: ms(self.max_keyframe_spread),
            max_first_picture: ms(self.max_first_picture),
            max_first_picture_p95: ms(self.max_first_picture_p95),
            max_regression: self.max_regression,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        assert_eq!(rate("5/s"), Ok(Rate::Connections(5.0)));
        assert_eq!(rate("0.5"), Ok(Rate::Connections(0.5)));
        assert!(matches!(rate("2Mbit"), Ok(Rate::Link(_))));
        assert!(matches!(rate("2Mbit,500kbit"), Ok(Rate::Link(_))));
        for text in ["", "0", "-1/s", "0Mbit", "NaN", "inf"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }
}
