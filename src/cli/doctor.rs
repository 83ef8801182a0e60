//! `orion-peer doctor`: diagnose the network and the ICE servers.

use std::{
    io::IsTerminal,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    connect::{AddressFamily, ConnectArgs, ConnectConfig, TokenSource},
    failure::Failure,
    output::Output,
    stop, units,
};
use crate::{
    doctor::{self, Contact, DoctorConfig, DoctorReport, problem::Severity, report::Class, text},
    report::live::{LiveMode, Progress},
    signaling::{
        client::token_client::{TokenClient, TokenError},
        client::{StaticToken, TokenProvider},
    },
    types::Stage,
};

/// Flags of `doctor`.
#[derive(Debug, clap::Args)]
#[command(
    mut_arg("timeout", |arg| arg.help("Timeout for all checks except --binding-lifetime; default: 15s")),
    mut_arg("ice_policy", |arg| arg.hide(true)),
    mut_arg("candidates", |arg| arg.hide(true))
)]
pub struct DoctorArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Skip token and signaling; check only the network and the servers of --ice-server
    #[arg(long)]
    no_signal: bool,
    /// Also join the room briefly; this disconnects a running peer with the same device ID
    #[arg(long, conflicts_with = "no_signal")]
    join: bool,
    /// Measure how long the NAT keeps an idle binding, up to this time; takes that long
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    binding_lifetime: Option<Duration>,
}

/// Maximum of `--binding-lifetime`.
const MAX_BINDING_LIFETIME: Duration = Duration::from_mins(10);

/// Runs the checks and shows the report.
///
/// # Errors
/// Exit code 1 if no server works or one fails, 2 for conflicting flags, 3 if some peers cannot be reached.
pub async fn run(args: DoctorArgs, output: Output) -> Result<(), Failure> {
    let config = configure(&args).await?;
    let mode = LiveMode::choose(std::io::stderr().is_terminal(), output.quiet, output.color);
    let progress = Progress::new(mode, 1);
    let show = |what: &str| progress.update(0, &format!("checking {what} …"));
    let report = tokio::select! {
        // The Ctrl-C handler must be installed before the first datagram is sent.
        biased;
        () = stop::shutdown_signal() => {
            return Err(Failure::interrupted("let it run to completion; --timeout limits the time"));
        }
        report = doctor::run(&config, &show) => report,
    };
    drop(progress);
    output.event(&report)?;
    output.marked(&text::text(&report), text::MARKED)?;
    conclude(&report)
}

async fn configure(args: &DoctorArgs) -> Result<DoctorConfig, Failure> {
    let connect = if args.no_signal {
        // Without a token request, no login is needed.
        let mut offline = args.connect.clone();
        offline.endpoint.signal = None;
        offline.endpoint.token_url = None;
        offline.resolve("phone", SystemTime::now())?
    } else {
        args.connect.resolve("phone", SystemTime::now())?
    };
    let connect = connect.with_twilio().await?;
    if args.no_signal && connect.ice_servers.is_empty() {
        return Err(Failure::usage(
            "--no-signal without --ice-server leaves nothing to check",
            "add --ice-server stun:HOST or turn:HOST",
        ));
    }
    check_lifetime(args.binding_lifetime)?;
    let contact = if args.no_signal { None } else { Some(contact(&connect, args.join)?) };
    Ok(DoctorConfig {
        contact,
        ice_servers: connect.ice_servers.clone(),
        v4: connect.network.contains(&AddressFamily::Udp4),
        v6: connect.network.contains(&AddressFamily::Udp6),
        interface: connect.interface.clone(),
        trust: connect.trust.clone(),
        within: connect.timeout.unwrap_or(doctor::WITHIN),
        binding_lifetime: args.binding_lifetime,
    })
}

fn check_lifetime(maximum: Option<Duration>) -> Result<(), Failure> {
    match maximum {
        Some(maximum) if maximum.is_zero() || maximum > MAX_BINDING_LIFETIME => {
            Err(Failure::usage(
                format!("--binding-lifetime {maximum:?} is out of range"),
                "use a time greater than 0 and at most 10m",
            ))
        }
        _ => Ok(()),
    }
}

fn contact(connect: &ConnectConfig, join: bool) -> Result<Contact, Failure> {
    let failed = |error: TokenError| Failure::new(error.stage(), error.to_string(), error.remedy());
    let (token_url, tokens): (_, Arc<dyn TokenProvider>) = match &connect.token {
        TokenSource::Fixed(token) => {
            (None, Arc::new(StaticToken::new(token.expose()).map_err(failed)?))
        }
        TokenSource::Api { url, access_token } => {
            let device = connect.device.clone();
            let client =
                TokenClient::new(url.as_str(), access_token.expose(), device, connect.pair.clone())
                    .and_then(|client| client.trusting(&connect.trust));
            // Queries may contain secrets.
            let mut shown = url.clone();
            shown.set_query(None);
            (Some(shown.to_string()), Arc::new(client.map_err(failed)?))
        }
    };
    Ok(Contact {
        signal: connect.signal.to_string(),
        token_url,
        tokens,
        trust: connect.trust.clone(),
        join,
    })
}

/// The failure that a verdict implies; its details are already in the JSON result.
fn conclude(report: &DoctorReport) -> Result<(), Failure> {
    let verdict = &report.verdict;
    let first = report.problems.iter().find(|problem| problem.severity == Severity::Error);
    let remedy = first.map_or_else(String::new, |problem| problem.remedy.clone());
    let contacted = [&report.token, &report.signaling].into_iter().flatten().all(|one| one.ok);
    let message = match (verdict.class, first) {
        (Class::All, _) => return Ok(()),
        (Class::None, Some(first)) if !contacted => {
            format!("peers cannot find each other: {}", first.message)
        }
        (Class::None, None) => "no server works".to_owned(),
        (Class::None, Some(first)) => format!("no server works: {}", first.message),
        (Class::Some, _) => format!("cannot reach peers behind {}", verdict.none.join(", ")),
    };
    let stage = if report.token.as_ref().is_some_and(|token| !token.ok) {
        Stage::Token
    } else if report.signaling.as_ref().is_some_and(|signaling| !signaling.ok) {
        Stage::Signaling
    } else {
        Stage::Gathering
    };
    let failure = match verdict.exit {
        3 => Failure::requirement(stage, message, remedy),
        _ => Failure::new(stage, message, remedy),
    };
    Err(failure.in_result())
}
