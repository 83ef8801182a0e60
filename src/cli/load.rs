//! `orion-peer load`: load-test a signaling server with many rooms.

use std::{io::IsTerminal, net::IpAddr, path::PathBuf, time::Duration};

use clap::Args;

use super::{
    connect::EndpointArgs,
    failure::Failure,
    output::Output,
    secret::SecretText,
    serve::{
        open_files,
        store::{self, DbArgs},
    },
    stop, units,
};
use crate::{
    auth::{
        jws::{Key, SigningKeys},
        secret::Secret,
    },
    load::{
        embedded::{EmbeddedServer, EmbeddedServerError},
        plan::{self, LoadPlan, Pace, Relay, Tokens},
        result::{LoadGates, LoadResult},
        run::{self, Progress},
    },
    pairs::StoreError,
    report::{
        live::{self, LiveMode},
        whole_file,
    },
    signaling::client::redacted,
    tls::certificate::Fingerprint,
    types::Stage,
};

/// Messages in flight per peer with `--message-rate max`.
const WINDOW: u32 = 8;

/// Maximum connections from one address: the size of the default Linux ephemeral port range, rounded down.
const PORTS: u64 = 28_000;

/// Flags of `load`.
#[derive(Debug, Clone, Args)]
pub struct LoadArgs {
    /// Signaling server (ws:// or wss://); default: a server started for this run
    #[arg(long, value_name = "URL", requires = "jwt_secret")]
    signal: Option<String>,
    /// The server's signing key for signaling tokens: a secret or a PEM private key
    #[arg(long, value_name = "TEXT|@FILE", value_parser = SecretText::parse, requires = "signal")]
    jwt_secret: Option<SecretText>,
    /// Required issuer (iss) of signaling tokens
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,
    /// Required audience (aud) of signaling tokens
    #[arg(long, value_name = "NAME")]
    audience: Option<String>,
    #[command(flatten)]
    db: DbArgs,
    /// Process ID of the server, to measure its memory and CPU time
    #[arg(long, value_name = "PID", requires = "signal")]
    server_pid: Option<u32>,
    /// Use TLS for the server started for this run
    #[arg(long, conflicts_with = "signal")]
    tls: bool,
    /// Extra trusted CA certificates (PEM), in addition to the built-in roots; repeatable
    #[arg(long, alias = "ca", value_name = "FILE")]
    cacert: Vec<PathBuf>,
    /// Pin the server certificate by its SHA-256 fingerprint; repeatable
    #[arg(long, value_name = "SHA256")]
    tls_pin: Vec<Fingerprint>,
    /// Local addresses, comma-separated, to connect from in rotation
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    source_address: Vec<IpAddr>,
    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    amount: AmountArgs,
    #[command(flatten)]
    gates: GateArgs,
}

/// Amount of load.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Load")]
struct AmountArgs {
    /// Number of rooms, with two sockets each
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rooms: u32,
    /// Maximum rate of new handshakes; default: as fast as they are answered
    #[arg(long, value_name = "N/s", value_parser = per_second)]
    open_rate: Option<f64>,
    /// Maximum concurrent handshakes
    #[arg(long, value_name = "N", default_value = "64", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    parallel: u16,
    /// Timeout per handshake
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::duration)]
    open_timeout: Duration,
    /// Idle time with all sockets open, before the first message
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = units::duration)]
    idle: Duration,
    /// Total message rate over all rooms; max: as fast as they are relayed; off: none
    #[arg(long, value_name = "N/s", default_value = "100/s", value_parser = message_rate)]
    message_rate: MessageRate,
    /// Size of a message
    #[arg(long, value_name = "SIZE", default_value = "300", value_parser = units::size)]
    message_size: u64,
    /// Duration of the message phase
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::duration)]
    duration: Duration,
}

/// Limits that the result must meet.
#[derive(Debug, Clone, Copy, Args)]
#[command(next_help_heading = "Gates (exit code 3 if one is not met)")]
struct GateArgs {
    /// Maximum relay latency, 99th percentile
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    max_relay_p99: Option<Duration>,
    /// Minimum handshake rate
    #[arg(long, value_name = "N/s", value_parser = per_second)]
    min_handshakes: Option<f64>,
    /// Minimum message rate
    #[arg(long, value_name = "N/s", value_parser = per_second)]
    min_messages: Option<f64>,
    /// Maximum server memory per idle socket
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    max_socket_memory: Option<u64>,
}

/// `--message-rate`.
#[derive(Debug, Clone, Copy, PartialEq)]
enum MessageRate {
    Off,
    Max,
    PerSecond(f64),
}

fn per_second(text: &str) -> Result<f64, String> {
    let number = text.trim().strip_suffix("/s").unwrap_or(text).trim();
    match number.parse::<f64>() {
        Ok(rate) if (0.001..=1e6).contains(&rate) => Ok(rate),
        _ => Err(units::not_valid(text, "rate", "500/s or 0.5/s, at most 1000000/s")),
    }
}

fn message_rate(text: &str) -> Result<MessageRate, String> {
    match text {
        "off" => Ok(MessageRate::Off),
        "max" => Ok(MessageRate::Max),
        text => {
            per_second(text).map(MessageRate::PerSecond).map_err(|error| error + ", max or off")
        }
    }
}

/// Runs the load test, shows and writes the result.
///
/// # Errors
/// Exit code 2 for conflicting flags, 1 for failures or an interrupted run, 3 if a gate is not met.
pub async fn run(args: LoadArgs, output: Output) -> Result<(), Failure> {
    let gates = args.gates();
    let mut plan = args.plan()?;
    if let Some(path) = &args.out {
        whole_file::check(path).map_err(|error| cannot_write(path, &error))?;
    }
    enough_files(u64::from(plan.rooms) * 2)?;
    let embedded = if args.signal.is_some() {
        args.add_pairs(plan.rooms).await?;
        None
    } else {
        Some(args.embed(&mut plan, output).await?)
    };
    output.line(format!("{} rooms on {}", plan.rooms, redacted(&plan.signal)));
    let mode = LiveMode::choose(std::io::stderr().is_terminal(), output.quiet, output.color);
    let progress = live::Progress::new(mode, 0);
    let show = |now: Progress| match now {
        Progress::Opening(opened, requested) => {
            progress.update(0, &format!("{opened} of {requested} sockets open"));
        }
        Progress::Idle => progress.update(0, "idle"),
        Progress::Relaying(sent, delivered) => {
            progress.update(0, &format!("{delivered} of {sent} messages delivered"));
        }
    };
    let mut result = run::run(plan, &show, stop::shutdown_signal()).await;
    drop(progress);
    if let Some(embedded) = embedded {
        embedded.stop().await;
    }
    result.checks = gates.check(&result);
    output.event(&result)?;
    output.page(result.text())?;
    if let Some(path) = &args.out {
        let json = serde_json::to_vec_pretty(&result).unwrap_or_default();
        whole_file::write(path, &json).map_err(|error| cannot_write(path, &error))?;
    }
    conclude(&result)
}

impl LoadArgs {
    fn gates(&self) -> LoadGates {
        let gates = self.gates;
        LoadGates {
            max_relay_p99: gates.max_relay_p99.map(|limit| limit.as_secs_f64() * 1e3),
            min_handshakes: gates.min_handshakes,
            min_messages: gates.min_messages,
            max_socket_memory: gates.max_socket_memory.map(|limit| limit as f64),
        }
    }

    fn plan(&self) -> Result<LoadPlan, Failure> {
        let amount = &self.amount;
        let endpoint = EndpointArgs {
            signal: self.signal.clone(),
            token_url: None,
            access_token: None,
            device: None,
            pair: None,
            cacert: self.cacert.clone(),
            tls_pin: self.tls_pin.clone(),
        };
        let keys = match &self.jwt_secret {
            Some(secret) => signing(&Secret::from(secret.expose()))?,
            None => signing(&fresh_secret())?,
        };
        let relay = match amount.message_rate {
            MessageRate::Off => None,
            MessageRate::Max => Some(Pace::Window(WINDOW)),
            MessageRate::PerSecond(rate) => Some(Pace::PerSecond(rate)),
        };
        let bytes = usize::try_from(amount.message_size).unwrap_or(usize::MAX);
        if !plan::message_bytes().contains(&bytes) {
            let (minimum, maximum) = plan::message_bytes().into_inner();
            return Err(Failure::usage(
                format!("--message-size must be from {minimum} to {maximum} bytes, not {bytes}"),
                "use a size in that range; typical signaling messages have 250 to 4000 bytes",
            ));
        }
        if relay.is_some() && amount.duration.is_zero() {
            return Err(Failure::usage(
                "--duration 0 sends no messages",
                "use a longer duration, or --message-rate off",
            ));
        }
        self.enough_ports()?;
        Ok(LoadPlan {
            signal: endpoint.endpoint("load")?.signal,
            trust: endpoint.trust()?,
            tokens: Tokens { keys, issuer: self.issuer.clone(), audience: self.audience.clone() },
            rooms: amount.rooms,
            open_rate: amount.open_rate,
            parallel: amount.parallel.into(),
            open_within: amount.open_timeout,
            idle: amount.idle,
            relay: relay.map(|pace| Relay { pace, duration: amount.duration, bytes }),
            sources: self.source_address.clone(),
            server_pid: self.server_pid,
        })
    }

    fn enough_ports(&self) -> Result<(), Failure> {
        let sockets = u64::from(self.amount.rooms) * 2;
        let sources = self.source_address.len().max(1) as u64;
        if sockets <= sources * PORTS {
            return Ok(());
        }
        Err(Failure::usage(
            format!("{sockets} sockets need more ports than {sources} source addresses have"),
            format!(
                "connect from {} addresses of this machine, such as --source-address \
                 127.0.0.2,127.0.0.3 to a server on loopback",
                sockets.div_ceil(PORTS)
            ),
        ))
    }

    /// Adds the pairs to the store given by `--db`, if any.
    async fn add_pairs(&self, rooms: u32) -> Result<(), Failure> {
        let Some(place) = self.db.place()? else { return Ok(()) };
        let store = self.db.open(&place).await?;
        for index in 0..rooms {
            match store.add(&plan::pair(index)).await {
                // The pair was added by an earlier run.
                Ok(()) | Err(StoreError::Rule { .. }) => {}
                Err(error) => return Err(store::failure(&error)),
            }
        }
        Ok(())
    }

    /// Starts a server for this run and points the plan at it.
    async fn embed(&self, plan: &mut LoadPlan, output: Output) -> Result<EmbeddedServer, Failure> {
        if self.db.place()?.is_some() {
            return Err(Failure::usage(
                "--db requires --signal: the server started for this run has its own pairs",
                "omit --db, or add --signal URL",
            ));
        }
        let secret = fresh_secret();
        let embedded =
            EmbeddedServer::start(plan.rooms, &secret, self.tls).await.map_err(|error| {
                let remedy = match error {
                    EmbeddedServerError::Files { .. } | EmbeddedServerError::Pairs(_) => {
                        "set TMPDIR to a writable directory"
                    }
                    _ => "start a server with `orion-peer serve` and pass its URL with --signal",
                };
                Failure::new(Stage::Server, error.to_string(), remedy)
            })?;
        let endpoint = EndpointArgs {
            signal: Some(embedded.signal.clone()),
            token_url: None,
            access_token: None,
            device: None,
            pair: None,
            cacert: Vec::new(),
            tls_pin: embedded.tls_pin.iter().filter_map(|pin| pin.parse().ok()).collect(),
        };
        plan.signal = endpoint.endpoint("load")?.signal;
        plan.trust = endpoint.trust()?;
        plan.tokens.keys = signing(&secret)?;
        plan.server_pid = embedded.pid();
        output.line("started a server for this run, without rate limits");
        Ok(embedded)
    }
}

fn fresh_secret() -> Secret {
    let half = || uuid::Uuid::new_v4().simple().to_string();
    Secret::from(half() + &half())
}

fn signing(secret: &Secret) -> Result<SigningKeys, Failure> {
    let keys = Key::from_secret_or_pem(secret).and_then(|key| SigningKeys::new(vec![key]));
    match keys {
        Ok(keys) if keys.can_sign() => Ok(keys),
        Ok(_) => Err(bad_secret("it is a public key, which cannot sign tokens")),
        Err(error) => Err(bad_secret(&error.to_string())),
    }
}

fn bad_secret(error: &str) -> Failure {
    let remedy = "pass the server's signing secret: at least 32 bytes, or a PEM private key";
    Failure::usage(format!("--jwt-secret: {error}"), remedy)
}

/// Raises the open file limit to the number of files this run needs.
fn enough_files(sockets: u64) -> Result<(), Failure> {
    let Err(allowed) = open_files::raise(sockets) else { return Ok(()) };
    Err(Failure::usage(
        format!("{sockets} sockets need one open file each, but the limit is {allowed}"),
        "raise the limit (ulimit -n, LimitNOFILE=), or lower --rooms",
    ))
}

fn cannot_write(path: &std::path::Path, error: &std::io::Error) -> Failure {
    let message = format!("cannot write `{}`: {error}", path.display());
    Failure::new(Stage::Output, message, "use a file in a writable directory")
}

/// The failure that a result implies; its details are already in the JSON result.
fn conclude(result: &LoadResult) -> Result<(), Failure> {
    let missed: Vec<&str> =
        result.checks.iter().filter(|check| !check.pass).map(|check| check.name.as_str()).collect();
    let failure = if result.partial {
        Failure::interrupted("let it run to completion")
    } else if !result.is_clean() {
        let sockets = &result.sockets;
        let lost = result.relay.as_ref().map_or(0, |relay| relay.lost);
        let message = format!(
            "{} sockets failed, {} were lost, and {lost} messages were not delivered",
            sockets.failed, sockets.lost
        );
        let remedy = result.errors.first().map_or("see the server's log", |error| &error.remedy);
        Failure::new(Stage::Signaling, message, remedy)
    } else if !missed.is_empty() {
        let message = format!("gates not met: {}", missed.join(", "));
        Failure::new(Stage::Gate, message, "see the lines above for limits and measured values")
    } else {
        return Ok(());
    };
    Err(failure.in_result())
}
