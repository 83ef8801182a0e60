//! Operation of `serve`: reverse proxies, log, metrics and shutdown.

use std::{net::SocketAddr, time::Duration};

use clap::Args;

use crate::{
    cli::{failure::Failure, logging::LogFormat, units},
    server::{
        ServerConfig,
        proxies::{Proxies, ProxyHeader},
    },
    turn::IpNet,
};

/// Maximum of `--drain`.
const MAX_DRAIN: Duration = Duration::from_mins(10);

/// Flags of `serve` for operators.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Operation")]
pub struct OperationArgs {
    /// Network of reverse proxies trusted to report client addresses, such as 10.0.0.0/8; repeatable
    #[arg(long, value_name = "NETWORK", value_delimiter = ',')]
    pub trusted_proxy: Vec<IpNet>,
    /// Header in which trusted proxies report client addresses; other headers are ignored; default: x-forwarded-for
    #[arg(long, value_name = "NAME", value_enum)]
    pub proxy_header: Option<ProxyHeaderName>,
    /// Serve /metrics on this address in plain HTTP, instead of on --listen; also /healthz and /readyz
    #[arg(long, value_name = "ADDR", value_parser = units::address)]
    pub metrics_listen: Option<SocketAddr>,
    /// Log every request and socket to stderr, one event per line
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,
    /// On SIGTERM, ask clients to reconnect at random times within this period; default: 5s
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub drain: Option<Duration>,
}

/// A header with client addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ProxyHeaderName {
    /// X-Forwarded-For; the default.
    XForwardedFor,
    /// Forwarded (RFC 7239).
    Forwarded,
}

impl OperationArgs {
    /// Applies the given flags to the configuration.
    ///
    /// # Errors
    /// Exit code 2: conflicting flags, or a value out of range.
    pub fn apply(&self, listen: SocketAddr, config: &mut ServerConfig) -> Result<(), Failure> {
        if self.proxy_header.is_some() && self.trusted_proxy.is_empty() {
            return Err(Failure::usage(
                "--proxy-header has no effect without --trusted-proxy",
                "add --trusted-proxy with the network of the proxies",
            ));
        }
        let header = match self.proxy_header {
            Some(ProxyHeaderName::Forwarded) => ProxyHeader::Forwarded,
            Some(ProxyHeaderName::XForwardedFor) | None => ProxyHeader::XForwardedFor,
        };
        config.listener.proxies = Proxies { trusted: self.trusted_proxy.clone(), header };
        if self.metrics_listen.is_some_and(|metrics| metrics.port() != 0 && metrics == listen) {
            return Err(Failure::usage(
                format!("--metrics-listen {listen} is the same address as --listen"),
                "use another port, or omit --metrics-listen",
            ));
        }
        config.listener.metrics_listen = self.metrics_listen;
        if let Some(drain) = self.drain {
            if drain > MAX_DRAIN {
                return Err(Failure::usage(
                    format!("--drain {drain:?} is out of range"),
                    "use a value from 0s to 10m",
                ));
            }
            config.signaling.timings.drain_jitter = drain;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn invalid_flags_are_usage_errors() {
        let listen: SocketAddr = "127.0.0.1:8787".parse().unwrap();
        let args = OperationArgs::default;
        for (args, flag) in [
            (
                OperationArgs { proxy_header: Some(ProxyHeaderName::Forwarded), ..args() },
                "--proxy-header",
            ),
            (OperationArgs { metrics_listen: Some(listen), ..args() }, "--metrics-listen"),
            (OperationArgs { drain: Some(Duration::from_hours(1)), ..args() }, "--drain"),
        ] {
            let mut config = ServerConfig::dev().await.unwrap();
            let failure = args.apply(listen, &mut config).unwrap_err();
            assert_eq!(failure.exit, 2);
            assert!(failure.message.contains(flag) && !failure.remedy.is_empty(), "{failure}");
        }
    }
}
