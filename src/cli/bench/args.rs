//! Flags of `bench` and their validation.

use std::{path::PathBuf, time::Duration};

use crate::{
    bench::plan::BenchPlan,
    cli::{
        connect::ConnectArgs,
        exports::ExportArgs,
        failure::Failure,
        network::{self, NetsimBaseArgs, PerPeer},
        send, units,
    },
    media::source::SourceSpec,
    peer::PeerRole,
    report::bench::gates::{Gates, RequiredType},
    session::capture::CaptureConfig,
};

/// Minimum and maximum size of a ping message in bytes: the minimum holds an id and a time, and SCTP handles messages up
/// to the maximum well.
const PING_BYTES: (u64, u64) = (64, 16_000);

/// Maximum number of concurrent connections: each needs about ten sockets and two relayed addresses.
const MAX_PARALLEL: u64 = 256;

/// Roughly the maximum of the 16-bit `maxPacketLifeTime` in milliseconds (RFC 8832 §5.1).
const MAX_LIFETIME: Duration = Duration::from_secs(65);

/// Flags of `bench`.
#[derive(Debug, Clone, clap::Args)]
#[command(mut_arg("signal", |arg| arg.help(
    "Signaling server (ws:// or wss://), to connect to a peer on another machine; default: server and both peers run in this process"
)), mut_arg("timeout", |arg| arg.help(
    "Connection timeout; default: 15s"
)))]
pub struct BenchArgs {
    #[allow(missing_docs)]
    #[command(flatten)]
    pub load: MeasureArgs,
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
    pub network: NetsimBaseArgs,
}

/// Flags that define what is measured.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Load")]
pub struct MeasureArgs {
    /// Number of connections to make and measure
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub connections: u64,
    /// Maximum concurrent connections
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub parallel: u64,
    /// Maximum rate of new connections (5/s), or the bandwidth of the simulated link (2Mbit)
    #[arg(long, value_name = "N/s|BITS", value_parser = rate)]
    pub rate: Vec<Rate>,
    /// Total number of data channel pings, divided among the connections
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub pings: u64,
    /// Interval between the pings of a connection
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "20ms")]
    pub ping_interval: Duration,
    /// Size of a ping message, 64 to 16000 bytes
    #[arg(long, value_name = "BYTES", value_parser = units::size, default_value = "64")]
    pub ping_size: u64,
    /// Discard a ping or pong that is not delivered within this time, as the apps do; 0: never
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "100ms")]
    pub ping_lifetime: Duration,
    /// Total number of keyframes, divided among the connections
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub keyframes: u64,
    /// Interval between the keyframes of a connection
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "1s")]
    pub interval: Duration,
    /// Measure each connection for this long, regardless of --pings and --keyframes
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub duration: Option<Duration>,
    /// Number of warm-up connections, excluded from the results
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub warmup: u64,
    /// Also report one-way times, corrected for the clock offset
    #[arg(long)]
    pub one_way: bool,
    /// Role of this peer: send (phone, makes the offer) or recv (Mac, answers)
    #[arg(long, value_name = "ROLE", value_enum, default_value_t)]
    pub role: Role,
    /// Respond to a bench that runs elsewhere, until Ctrl-C
    #[arg(long)]
    pub respond: bool,
    /// Pictures to send: `pattern[:WxH]`, `camera[:N[:FORMAT]]`, a FILE (JPEG, PNG, WebP, MJPEG, y4m, H.264), or
    /// a DIR of pictures
    #[arg(long, value_name = "SOURCE", default_value = "pattern", value_parser = send::source_parser())]
    pub source: SourceSpec,
    /// Maximum picture size; the aspect ratio is kept; default: original size
    #[arg(long, value_name = "WxH", value_parser = units::picture_size)]
    pub size: Option<units::PictureSize>,
    /// Maximum size of a keyframe
    #[arg(long, value_name = "BYTES", value_parser = send::budget, default_value = "100KB")]
    pub max_bytes: u64,
    /// Pacing of packets: auto (as fast as the path allows), off, or a rate such as 2Mbit
    #[arg(long, value_name = "PACE", value_parser = units::pace, default_value = "auto")]
    pub pace: units::RateSetting,
    /// Do not retransmit lost packets (for comparison)
    #[arg(long)]
    pub no_repair: bool,
    /// Initial bandwidth estimate suggested to the phone: auto (enough to send a keyframe immediately), off (none),
    /// or a rate such as 5Mbit
    #[arg(long, value_name = "BITRATE", value_parser = units::phone_bitrate, default_value = "auto")]
    pub phone_bitrate: units::RateSetting,
}

/// The device of a pair that this peer stands in for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// The phone, which sends keyframes.
    #[default]
    Send,
    /// The Mac, which receives keyframes.
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

/// Limits that the result must meet.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Gates (exit code 3 if one is not met)")]
pub struct GateArgs {
    /// Minimum connection success rate; without this flag, any failure means exit code 1
    #[arg(long, value_name = "PERCENT", value_parser = units::percentage)]
    pub min_success: Option<f64>,
    /// Maximum median round-trip time
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub max_rtt_p50: Option<Duration>,
    /// Maximum round-trip time, 95th percentile
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub max_rtt_p95: Option<Duration>,
    /// Maximum round-trip time, 99th percentile
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub max_rtt_p99: Option<Duration>,
    /// Maximum setup time (token request to open data channel), 95th percentile
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub max_setup_p95: Option<Duration>,
    /// Maximum ping loss
    #[arg(long, value_name = "PERCENT", value_parser = units::percentage)]
    pub max_ping_loss: Option<f64>,
    /// Required connection type: host, srflx, relay, relay/udp, relay/tcp, relay/tls
    #[arg(long, value_name = "TYPE")]
    pub require_type: Option<RequiredType>,
    /// Minimum share of keyframes that arrive intact
    #[arg(long, value_name = "PERCENT", value_parser = units::percentage)]
    pub min_keyframes_intact: Option<f64>,
    /// Maximum keyframe size
    #[arg(long, value_name = "BYTES", value_parser = units::size)]
    pub max_frame_bytes: Option<u64>,
    /// Maximum time from the start of a connection to its first picture
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub max_first_picture: Option<Duration>,
    /// Maximum time to the first picture, 95th percentile
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub max_first_picture_p95: Option<Duration>,
    /// Maximum keyframe latency (capture to fully received), 95th percentile
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub max_keyframe_latency_p95: Option<Duration>,
    /// Maximum keyframe network time (first packet sent to last packet received), 95th percentile
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub max_keyframe_network_p95: Option<Duration>,
    /// Maximum time between the arrival of a keyframe's first and last packet
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub max_keyframe_spread: Option<Duration>,
    /// Result of an earlier run to compare against; repeatable
    #[arg(long, value_name = "FILE")]
    pub baseline: Vec<PathBuf>,
    /// Maximum regression per metric against the baseline (tested at 95 % confidence)
    #[arg(long, value_name = "PERCENT", value_parser = units::increase)]
    pub max_regression: Option<f64>,
}

/// Outputs of the result.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Results")]
pub struct ResultArgs {
    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Write JSON Lines to stdout during the run; the last line holds the result
    #[arg(long)]
    pub json_stream: bool,
    /// Write getStats reports to DIR/stats.jsonl
    #[arg(long, value_name = "DIR")]
    pub stats: Option<PathBuf>,
    /// Interval between getStats reports
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "2s")]
    pub stats_interval: Duration,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub exports: ExportArgs,
}

/// The two meanings of `--rate`.
#[derive(Debug, Clone, PartialEq)]
pub enum Rate {
    /// New connections per second.
    Connections(f64),
    /// Bandwidth of the simulated link in bits per second.
    Link(PerPeer<u64>),
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
        _ => Err(units::not_valid(
            text,
            "rate",
            "new connections per second (5/s, 0.5/s) or the bandwidth of the link (2Mbit, 500kbit)",
        )),
    }
}

impl MeasureArgs {
    /// Maximum new connections per second; the last value given wins.
    #[must_use]
    pub fn connection_rate(&self) -> Option<f64> {
        self.rate.iter().rev().find_map(|rate| match rate {
            Rate::Connections(rate) => Some(*rate),
            Rate::Link(_) => None,
        })
    }

    /// The bandwidth of the simulated link; the last value given wins.
    #[must_use]
    pub fn link_rate(&self) -> Option<&PerPeer<u64>> {
        self.rate.iter().rev().find_map(|rate| match rate {
            Rate::Connections(_) => None,
            Rate::Link(rate) => Some(rate),
        })
    }

    /// The plan of the run.
    ///
    /// # Errors
    /// A value is out of range: exit code 2.
    pub fn plan(&self) -> Result<BenchPlan, Failure> {
        let wrong = |message: &str, remedy: &str| Err(Failure::usage(message, remedy));
        if self.connections == 0 {
            return wrong("--connections 0 measures nothing", "use at least 1");
        }
        if !(1..=MAX_PARALLEL).contains(&self.parallel) {
            return wrong("--parallel must be from 1 to 256", "use a number in that range");
        }
        if self.ping_interval.is_zero() || self.ping_interval > Duration::from_hours(1) {
            return wrong("--ping-interval must be from 1us to 1h", "use a time in that range");
        }
        if !(PING_BYTES.0..=PING_BYTES.1).contains(&self.ping_size) {
            return wrong("--ping-size must be from 64 to 16000 bytes", "use a size in that range");
        }
        if self.ping_lifetime > MAX_LIFETIME {
            return wrong(
                "--ping-lifetime must be from 1ms to 65s, or 0",
                "use a time in that range",
            );
        }
        if self.interval < Duration::from_millis(10) || self.interval > Duration::from_hours(24) {
            return wrong("--interval must be from 10ms to 24h", "use a time in that range");
        }
        if self.duration.is_some_and(|duration| duration.is_zero()) {
            return wrong(
                "--duration 0 measures nothing",
                "use a longer duration, or omit the flag",
            );
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

    /// The capture settings.
    #[must_use]
    pub fn capture(&self) -> CaptureConfig {
        send::capture(&self.source, self.size, self.max_bytes)
    }
}

impl GateArgs {
    /// The gates in the units of the result: times in milliseconds.
    ///
    /// # Errors
    /// `--max-regression` without a baseline: exit code 2.
    pub fn gates(&self) -> Result<Gates, Failure> {
        if self.max_regression.is_some() && self.baseline.is_empty() {
            return Err(Failure::usage(
                "--max-regression requires --baseline",
                "add --baseline FILE with the result of an earlier `bench --out FILE`",
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
