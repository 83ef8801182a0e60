//! `orion-peer doctor`: what this network and these ICE servers can do.

use std::{
    io::IsTerminal,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    connect::{ConnectArgs, ConnectConfig, Network, TokenSource},
    failure::Failure,
    output::Output,
    stop, units,
};
use crate::{
    doctor::{self, Contact, DoctorConfig, Report, report::Severity, text, verdict::Class},
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
    mut_arg("timeout", |arg| arg.help("Longest time for everything but --binding-lifetime; default 15s")),
    mut_arg("ice_policy", |arg| arg.hide(true)),
    mut_arg("candidates", |arg| arg.hide(true))
)]
pub struct DoctorArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Leave token and signaling out: only the network and the servers of --ice-server
    #[arg(long)]
    no_signal: bool,
    /// Join the room for a moment, too; that ends a running peer of the same device
    #[arg(long, conflicts_with = "no_signal")]
    join: bool,
    /// Look how long the NAT keeps a binding without traffic, up to this; takes as long
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    binding_lifetime: Option<Duration>,
}

/// Longest life time of a binding that is looked for.
const LONGEST_LIFETIME: Duration = Duration::from_mins(10);

/// Looks, and tells.
///
/// # Errors
/// Exit code 1 when nothing works or a server fails, 2 for flags that do not go together, 3 when some
/// peers cannot be reached.
pub async fn run(args: DoctorArgs, output: Output) -> Result<(), Failure> {
    let config = configure(&args).await?;
    let mode = LiveMode::choose(std::io::stderr().is_terminal(), output.quiet, output.color);
    let progress = Progress::new(mode, 1);
    let tell = |what: &str| progress.update(0, &format!("looking at {what} …"));
    let report = tokio::select! {
        // Ctrl-C is listened to before the first datagram is sent.
        biased;
        () = stop::asked() => {
            return Err(Failure::interrupted("let it run to its end: --timeout bounds it"));
        }
        report = doctor::run(&config, &tell) => report,
    };
    drop(progress);
    output.event(&report)?;
    output.marked(&text::text(&report), text::MARKED)?;
    conclude(&report)
}

async fn configure(args: &DoctorArgs) -> Result<DoctorConfig, Failure> {
    let connect = if args.no_signal {
        // No login is needed where nobody is asked for a token.
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
            "--no-signal leaves nothing to ask",
            "give servers with --ice-server stun:HOST or turn:HOST",
        ));
    }
    check_lifetime(args.binding_lifetime)?;
    let contact = if args.no_signal { None } else { Some(contact(&connect, args.join)?) };
    Ok(DoctorConfig {
        contact,
        ice_servers: connect.ice_servers.clone(),
        v4: connect.network.contains(&Network::Udp4),
        v6: connect.network.contains(&Network::Udp6),
        interface: connect.interface.clone(),
        trust: connect.trust.clone(),
        within: connect.timeout.unwrap_or(doctor::WITHIN),
        binding_lifetime: args.binding_lifetime,
    })
}

fn check_lifetime(longest: Option<Duration>) -> Result<(), Failure> {
    match longest {
        Some(longest) if longest.is_zero() || longest > LONGEST_LIFETIME => Err(Failure::usage(
            format!("--binding-lifetime {longest:?} is out of range"),
            "give a time above 0 and up to 10m",
        )),
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
            // Queries may hold secrets.
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

/// The failure a verdict stands for; the JSON has said it already.
fn conclude(report: &Report) -> Result<(), Failure> {
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
        (Class::Some, _) => format!("not reached are peers behind {}", verdict.none.join(", ")),
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
    Err(failure.told())
}
