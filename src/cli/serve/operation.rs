//! How `serve` is run: proxies before it, its log, its metrics, its end.

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

/// Longest time for a drain.
const LONGEST_DRAIN: Duration = Duration::from_mins(10);

/// Flags of `serve` for those who run it.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Operation")]
pub struct OperationArgs {
    /// Network of proxies that are believed when they name a client's address, such as 10.0.0.0/8;
    /// repeatable
    #[arg(long, value_name = "NETWORK", value_delimiter = ',')]
    pub trusted_proxy: Vec<IpNet>,
    /// Header in which trusted proxies name it; the other one is not read
    #[arg(long, value_name = "NAME", value_enum)]
    pub proxy_header: Option<ProxyHeaderName>,
    /// Answer /metrics here, in plain HTTP, instead of on --listen; /healthz and /readyz, too
    #[arg(long, value_name = "ADDR", value_parser = units::address)]
    pub metrics_listen: Option<SocketAddr>,
    /// Log every request and socket on stderr, an event a line
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,
    /// On SIGTERM, ask sockets to reconnect elsewhere at random times within this; default 5s
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub drain: Option<Duration>,
}

/// A header that names clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ProxyHeaderName {
    /// X-Forwarded-For; the default.
    XForwardedFor,
    /// Forwarded (RFC 7239).
    Forwarded,
}

impl OperationArgs {
    /// Puts what is given into the configuration.
    ///
    /// # Errors
    /// Exit code 2: flags that do not go together, or a value out of its range.
    pub fn apply(&self, listen: SocketAddr, config: &mut ServerConfig) -> Result<(), Failure> {
        if self.proxy_header.is_some() && self.trusted_proxy.is_empty() {
            return Err(Failure::usage(
                "--proxy-header without --trusted-proxy: nobody is believed",
                "give --trusted-proxy the network of the proxies, too",
            ));
        }
        let header = match self.proxy_header {
            Some(ProxyHeaderName::Forwarded) => ProxyHeader::Forwarded,
            Some(ProxyHeaderName::XForwardedFor) | None => ProxyHeader::XForwardedFor,
        };
        config.front.proxies = Proxies { trusted: self.trusted_proxy.clone(), header };
        if self.metrics_listen.is_some_and(|metrics| metrics.port() != 0 && metrics == listen) {
            return Err(Failure::usage(
                format!("--metrics-listen {listen} is the address of --listen"),
                "give another port, or leave --metrics-listen out",
            ));
        }
        config.front.metrics_listen = self.metrics_listen;
        if let Some(drain) = self.drain {
            if drain > LONGEST_DRAIN {
                return Err(Failure::usage(
                    format!("--drain {drain:?} is out of range"),
                    "give --drain a value from 0s to 10m",
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
    async fn flags_that_make_no_sense_are_usage_errors() {
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
