//! Limits of `serve`: timeouts, sizes, rates and counts. The defaults are those of the wire contract; a dev server
//! has no limits per client.

use std::{fmt::Display, ops::RangeInclusive, str::FromStr, time::Duration};

use clap::Args;

use crate::{
    cli::{failure::Failure, units},
    proto::signaling::MAX_MESSAGE_BYTES,
    server::{ServerConfig, TokenRates},
    signaling::server::limits::Rate,
};

/// Maximum of all counts.
const MAX_COUNT: u32 = 1_000_000;

/// A rate that never limits.
const UNLIMITED: Rate = Rate::new(u32::MAX, Duration::ZERO);

/// Flags of `serve` for limits.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Maximum concurrent signaling sockets; default: 20000
    #[arg(long, value_name = "N")]
    pub max_sockets: Option<u32>,
    /// Maximum concurrent sockets per IP address (IPv6: per /64); 0: unlimited; default: 1000
    #[arg(long, value_name = "N")]
    pub max_sockets_per_ip: Option<u32>,
    /// Maximum concurrent sockets per user; 0: unlimited; default: 50
    #[arg(long, value_name = "N")]
    pub max_sockets_per_user: Option<u32>,
    /// Maximum concurrent HTTP connections, not counting sockets; default: 4096
    #[arg(long, value_name = "N")]
    pub max_connections: Option<u32>,
    /// Maximum concurrent HTTP connections per IP address; 0: unlimited; default: 256
    #[arg(long, value_name = "N")]
    pub max_connections_per_ip: Option<u32>,
    /// Maximum size of a signaling message; default and upper limit: 64KiB
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    pub max_message: Option<u64>,
    /// Maximum size of a request body; default: 16KiB
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    pub max_body: Option<u64>,
    /// Maximum messages queued for a slow socket before it is closed; default: 64
    #[arg(long, value_name = "N")]
    pub queue_messages: Option<u32>,
    /// Maximum bytes queued for a slow socket before it is closed; default: 256KiB
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    pub queue_bytes: Option<u64>,
    /// Maximum message rate per socket, as BURST:RATE; default: 100:20/s
    #[arg(long, value_name = "RATE")]
    pub socket_rate: Option<RateLimit>,
    /// Maximum handshake rate per IP address (IPv6: per /64), or off; default: 60:2/s
    #[arg(long, value_name = "RATE")]
    pub ip_rate: Option<RateLimit>,
    /// Maximum handshake rate per pair, or off; default: 60:1/s
    #[arg(long, value_name = "RATE")]
    pub pair_rate: Option<RateLimit>,
    /// Maximum handshake rate per user, or off; default: 120:2/s
    #[arg(long, value_name = "RATE")]
    pub user_rate: Option<RateLimit>,
    /// Maximum token request rate per IP address, or off; default: 60:2/s
    #[arg(long, value_name = "RATE")]
    pub token_ip_rate: Option<RateLimit>,
    /// Maximum token request rate per user, or off; default: 20:30/min
    #[arg(long, value_name = "RATE")]
    pub token_user_rate: Option<RateLimit>,
    /// Timeout for request headers; default: 5s
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub header_timeout: Option<Duration>,
    /// Timeout for the TLS handshake; default: 5s
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub tls_timeout: Option<Duration>,
    /// Timeout for request bodies; default: 5s
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub body_timeout: Option<Duration>,
}

/// A rate with a burst, or `off`: the values of the rate flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit(Option<Rate>);

/// Text that is not a valid rate limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", units::not_valid(.0, "rate limit", EXPECTED_RATE))]
pub struct RateError(String);

/// The accepted forms of a rate limit.
const EXPECTED_RATE: &str = "60:2/s (a burst of 60, then 2 per second), 20:30/min, 5:10/h, or off; \
     bursts up to 1000000, rates from 0.001 to 100000 per second";

impl FromStr for RateLimit {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" {
            return Ok(Self(None));
        }
        parse(text).map(|rate| Self(Some(rate))).ok_or_else(|| RateError(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<Rate> {
    let (burst, rate) = text.split_once(':')?;
    let (count, unit) = rate.split_once('/')?;
    let seconds = match unit {
        "s" => 1.0,
        "min" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    let burst: u32 = burst.parse().ok().filter(|burst| (1..=MAX_COUNT).contains(burst))?;
    let per_second = count.parse::<f64>().ok()? / seconds;
    let sane = (0.001 * 0.999..=100_000.0).contains(&per_second);
    sane.then(|| Rate::new(burst, Duration::from_secs_f64(1.0 / per_second)))
}

impl LimitArgs {
    /// Applies the given flags to the configuration.
    ///
    /// # Errors
    /// Exit code 2: a value is out of range; the error names the flag and the range.
    pub fn apply(&self, config: &mut ServerConfig) -> Result<(), Failure> {
        self.counts(config)?;
        self.sizes(config)?;
        self.rates(config)?;
        let times = Duration::from_millis(100)..=Duration::from_mins(5);
        for (flag, given, place) in [
            ("--header-timeout", self.header_timeout, &mut config.header_within),
            ("--tls-timeout", self.tls_timeout, &mut config.listener.tls_within),
            ("--body-timeout", self.body_timeout, &mut config.listener.body_within),
        ] {
            if let Some(given) = given {
                if !times.contains(&given) {
                    return Err(out_of_range(flag, &format!("{given:?}"), "100ms", "5m"));
                }
                *place = given;
            }
        }
        Ok(())
    }

    fn counts(&self, config: &mut ServerConfig) -> Result<(), Failure> {
        let limits = &mut config.signaling.limits;
        if let Some(maximum) = within("--max-sockets", self.max_sockets, 1..=MAX_COUNT)? {
            limits.sockets = maximum;
        }
        if let Some(maximum) = within("--max-connections", self.max_connections, 1..=MAX_COUNT)? {
            config.max_connections = maximum as usize;
        }
        for (flag, given, place) in [
            ("--max-sockets-per-ip", self.max_sockets_per_ip, &mut limits.sockets_per_address),
            ("--max-sockets-per-user", self.max_sockets_per_user, &mut limits.sockets_per_user),
            (
                "--max-connections-per-ip",
                self.max_connections_per_ip,
                &mut config.listener.connections_per_address,
            ),
        ] {
            if let Some(maximum) = within(flag, given, 0..=MAX_COUNT)? {
                *place = (maximum > 0).then_some(maximum);
            }
        }
        // A pair needs one socket per device, and one more to replace an old one.
        if let Some(maximum) = limits.sockets_per_user.filter(|maximum| *maximum < 3) {
            return Err(out_of_range(
                "--max-sockets-per-user",
                &maximum,
                "3",
                &MAX_COUNT.to_string(),
            ));
        }
        Ok(())
    }

    fn sizes(&self, config: &mut ServerConfig) -> Result<(), Failure> {
        let limits = &mut config.signaling.limits;
        let message = 1024..=MAX_MESSAGE_BYTES as u64;
        if let Some(maximum) = within("--max-message", self.max_message, message)? {
            limits.message_bytes = maximum as usize;
        }
        if let Some(maximum) = within("--max-body", self.max_body, 1024..=1024 * 1024)? {
            config.listener.max_body = maximum as usize;
        }
        if let Some(maximum) = within("--queue-messages", self.queue_messages, 8..=4096)? {
            limits.queue_messages = maximum as usize;
        }
        let queue = limits.message_bytes as u64..=16 * 1024 * 1024;
        if let Some(maximum) = within("--queue-bytes", self.queue_bytes, queue)? {
            limits.queue_bytes = maximum as usize;
        }
        Ok(())
    }

    fn rates(&self, config: &mut ServerConfig) -> Result<(), Failure> {
        let limits = &mut config.signaling.limits;
        match self.socket_rate {
            Some(RateLimit(Some(rate))) => limits.messages = rate,
            Some(RateLimit(None)) => {
                return Err(Failure::usage(
                    "--socket-rate cannot be off: one socket could keep the server busy",
                    "use a high rate, such as 1000:1000/s",
                ));
            }
            None => {}
        }
        for (given, place) in [
            (self.ip_rate, &mut limits.handshakes),
            (self.pair_rate, &mut limits.pair_handshakes),
            (self.user_rate, &mut limits.user_handshakes),
        ] {
            if let Some(RateLimit(rate)) = given {
                *place = rate;
            }
        }
        if self.token_ip_rate.is_some() || self.token_user_rate.is_some() {
            let none = TokenRates { per_address: UNLIMITED, per_user: UNLIMITED };
            let rates = config.token_rates.get_or_insert(none);
            if let Some(RateLimit(rate)) = self.token_ip_rate {
                rates.per_address = rate.unwrap_or(UNLIMITED);
            }
            if let Some(RateLimit(rate)) = self.token_user_rate {
                rates.per_user = rate.unwrap_or(UNLIMITED);
            }
        }
        Ok(())
    }
}

fn within<T: PartialOrd + Display + Copy>(
    flag: &str,
    given: Option<T>,
    range: RangeInclusive<T>,
) -> Result<Option<T>, Failure> {
    match given {
        Some(value) if !range.contains(&value) => {
            Err(out_of_range(flag, &value, &range.start().to_string(), &range.end().to_string()))
        }
        given => Ok(given),
    }
}

fn out_of_range(flag: &str, given: &dyn Display, minimum: &str, maximum: &str) -> Failure {
    Failure::usage(
        format!("{flag} {given} is out of range"),
        format!("use a value from {minimum} to {maximum}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn applied(args: LimitArgs) -> Result<ServerConfig, Failure> {
        let mut config = ServerConfig::dev().await.unwrap();
        args.apply(&mut config).map(|()| config)
    }

    #[test]
    fn rates_are_parsed() {
        let read = |text: &str| text.parse::<RateLimit>().map(|limit| limit.0);
        assert_eq!(read("60:2/s"), Ok(Some(Rate::new(60, Duration::from_millis(500)))));
        assert_eq!(read("20:30/min"), Ok(Some(Rate::new(20, Duration::from_secs(2)))));
        assert_eq!(read("1:3.6/h"), Ok(Some(Rate::new(1, Duration::from_secs(1000)))));
        assert_eq!(read("off"), Ok(None));
        for wrong in ["", "5", "5/s", "0:1/s", "5:0/s", "5:-1/s", "5:1/d", "5:nan/s", "5:inf/s"] {
            let error = read(wrong).unwrap_err().to_string();
            assert!(error.contains("60:2/s"), "{error}");
        }
    }

    #[tokio::test]
    async fn given_limits_apply_and_others_keep_their_defaults() {
        let args = LimitArgs {
            max_sockets: Some(7),
            max_sockets_per_ip: Some(3),
            max_connections_per_ip: Some(0),
            pair_rate: "5:1/s".parse().ok(),
            token_user_rate: "4:1/s".parse().ok(),
            header_timeout: Some(Duration::from_secs(1)),
            ..LimitArgs::default()
        };
        let config = applied(args).await.unwrap();
        let limits = &config.signaling.limits;
        assert_eq!((limits.sockets, limits.sockets_per_address), (7, Some(3)));
        assert_eq!((limits.sockets_per_user, limits.handshakes), (None, None), "a dev server");
        assert_eq!(limits.pair_handshakes, Some(Rate::new(5, Duration::from_secs(1))));
        assert_eq!(limits.messages, Rate::new(100, Duration::from_millis(50)));
        assert_eq!(config.token_rates.map(|rates| rates.per_address), Some(UNLIMITED));
        assert_eq!(config.header_within, Duration::from_secs(1));
        assert_eq!(config.listener.connections_per_address, None);
    }

    #[tokio::test]
    async fn values_out_of_range_are_rejected_with_flag_and_range() {
        let args = LimitArgs::default;
        for (args, flag) in [
            (LimitArgs { max_sockets: Some(0), ..args() }, "--max-sockets "),
            (LimitArgs { max_sockets_per_user: Some(2), ..args() }, "--max-sockets-per-user"),
            (LimitArgs { max_connections: Some(2_000_000), ..args() }, "--max-connections "),
            (LimitArgs { max_message: Some(65 * 1024), ..args() }, "--max-message"),
            (LimitArgs { max_body: Some(10), ..args() }, "--max-body"),
            (LimitArgs { queue_messages: Some(1), ..args() }, "--queue-messages"),
            (LimitArgs { queue_bytes: Some(1000), ..args() }, "--queue-bytes"),
            (LimitArgs { socket_rate: "off".parse().ok(), ..args() }, "--socket-rate"),
            (LimitArgs { header_timeout: Some(Duration::ZERO), ..args() }, "--header-timeout"),
            (LimitArgs { tls_timeout: Some(Duration::from_hours(1)), ..args() }, "--tls-timeout"),
        ] {
            let failure = applied(args).await.err().unwrap();
            assert_eq!(failure.exit, 2, "{failure}");
            assert!(failure.message.contains(flag) && !failure.remedy.is_empty(), "{failure}");
        }
    }
}
