//! `orion-peer check`: tests a signaling and token server for conformance with the wire contract.

use std::{io::IsTerminal, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::{
    connect::EndpointArgs, failure::Failure, output::Output, secret::SecretText, stop, units,
};
use crate::{
    auth::{jws::Key, secret::Secret},
    check::{
        junit::{junit, unreached},
        level::Level,
        plan::{CheckConfig, Device, OtherPair, Selection, TokenIn},
        result::{CheckReport, List, Outcome},
        rules, run, text, wire,
    },
    report::{
        live::{LiveMode, Progress},
        whole_file,
    },
    types::Stage,
};

/// Timeout of the connection attempt before any rule runs.
const REACH_WITHIN: Duration = Duration::from_secs(10);

/// Flags of `check`.
#[derive(Debug, Clone, Args)]
#[command(
    mut_arg("device", |arg| arg.help("Device ID of the phone; default: phone")),
    mut_arg("access_token", |arg| arg.help("Login token of the phone for the token API; default: `dev` if the API is on this machine")),
    mut_arg("pair", |arg| arg.help("Pair of both devices; use a test pair, because its running peers are disconnected; default: the phone's only active pair"))
)]
pub struct CheckArgs {
    /// production: the rules a deployed site must follow; strict: all rules
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t)]
    level: LevelArg,
    /// Run only the rules with these ids; `*` matches any text; repeatable
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    only: Vec<String>,
    /// Skip the rules with these ids; `*` matches any text; repeatable
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    skip: Vec<String>,
    /// Include slow rules (dead peers, expiry, revocation); takes several minutes
    #[arg(long)]
    slow: bool,
    /// List the rules and exit
    #[arg(long)]
    list: bool,
    /// Rules to test concurrently
    #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u8).range(1..=64))]
    parallel: u8,
    /// Timeout per rule; the rules of --slow get more time
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = positive_duration)]
    case_timeout: Duration,
    /// Write `JUnit` XML for a CI server
    #[arg(long, value_name = "FILE", help = "Write JUnit XML for a CI server")]
    junit: Option<PathBuf>,
    #[command(flatten)]
    endpoint: EndpointArgs,
    #[command(flatten)]
    parties: PartyArgs,
}

/// The devices and the properties of the server.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Devices and server")]
struct PartyArgs {
    /// Device ID of the Mac
    #[arg(long, value_name = "ID", default_value = "mac")]
    mac_device: String,
    /// Login token of the Mac; default: same as the phone's
    #[arg(long, value_name = "TEXT|@FILE", value_parser = SecretText::parse)]
    mac_access_token: Option<SecretText>,
    /// A second pair, to check that pairs are isolated from each other
    #[arg(long, value_name = "ID", requires = "other_device")]
    other_pair: Option<String>,
    /// A device of the second pair
    #[arg(long, value_name = "ID", requires = "other_pair")]
    other_device: Option<String>,
    /// Login token of --other-device; default: same as the phone's
    #[arg(long, value_name = "TEXT|@FILE", value_parser = SecretText::parse)]
    other_access_token: Option<SecretText>,
    /// The server's signing key for signaling tokens, used to forge tokens that it must reject
    #[arg(long, value_name = "TEXT|@FILE", value_parser = SecretText::parse)]
    jwt_secret: Option<SecretText>,
    /// Required issuer (iss) of signaling tokens
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,
    /// Required audience (aud) of signaling tokens
    #[arg(long, value_name = "NAME")]
    audience: Option<String>,
    /// How tokens are presented to the signaling server
    #[arg(long, value_name = "PLACE", value_enum, default_value_t)]
    token_in: TokenInArg,
    /// The server checks tokens only when a client connects
    #[arg(long)]
    connect_only: bool,
    /// Shell command that revokes the pair `$ORION_CHECK_PAIR`; runs last
    #[arg(long, value_name = "COMMAND")]
    revoke_command: Option<String>,
    /// Shell command that restarts the server; runs near the end
    #[arg(long, value_name = "COMMAND")]
    restart_command: Option<String>,
}

/// `--level`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum LevelArg {
    Production,
    #[default]
    Strict,
}

/// `--token-in`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum TokenInArg {
    #[default]
    Header,
    Subprotocol,
    Query,
}

/// Checks a server, shows the results and writes reports.
///
/// # Errors
/// Exit code 2 for conflicting flags, 1 for an unreachable server or an interrupted run, 3 for a broken
/// rule.
pub async fn run(args: CheckArgs, output: Output) -> Result<(), Failure> {
    let config = configure(&args)?;
    if args.list {
        let rules = rules::selected(&config);
        output.event(&List::of(&rules))?;
        return output.page(text::list(&rules));
    }
    if let Some(path) = &args.junit {
        whole_file::check(path).map_err(|error| cannot_write(path, &error))?;
    }
    if let Err(failure) = reach(&config).await {
        if let Some(path) = &args.junit {
            // A CI server must not read the file of the previous run.
            write(path, &unreached(&config.signal, &failure.to_string()))?;
        }
        return Err(failure);
    }
    let mode = LiveMode::choose(std::io::stderr().is_terminal(), output.quiet, output.color);
    let progress = Progress::new(mode, rules::selected(&config).len() as u64);
    let show = |done: usize, id: &str| progress.update(done as u64, id);
    let report = run::run(config, &show, stop::shutdown_signal()).await;
    drop(progress);
    let report = report.map_err(|error| bad_secret(&error.to_string()))?;
    output.event(&report)?;
    output.marked(&text::text(&report), text::MARKED)?;
    if let Some(path) = &args.junit {
        write(path, &junit(&report))?;
    }
    conclude(&report)
}

fn configure(args: &CheckArgs) -> Result<CheckConfig, Failure> {
    let endpoint = args.endpoint.endpoint("phone")?;
    let parties = &args.parties;
    let secret = parties.jwt_secret.as_ref().map(|secret| Secret::from(secret.expose()));
    if let Some(secret) = &secret {
        Key::from_secret_or_pem(secret).map_err(|error| bad_secret(&error.to_string()))?;
    }
    // With the signing secret, tokens can be minted without a login.
    let loginless = secret.is_some() || args.list;
    let (token_url, login) = match args.endpoint.token_api() {
        Ok((url, login)) => (url, Some(login)),
        Err(_) if loginless => {
            let mut with_any_login = args.endpoint.clone();
            with_any_login.access_token = Some(SecretText::new("none"));
            (with_any_login.token_api()?.0, None)
        }
        Err(failure) => return Err(failure),
    };
    let device = |id: &str, own_login: &Option<SecretText>| Device {
        id: id.into(),
        login: own_login.as_ref().or(login.as_ref()).map(|login| Secret::from(login.expose())),
    };
    let phone = device(endpoint.device.as_str(), &None);
    let mac = device(&parties.mac_device, &parties.mac_access_token);
    if phone.id == mac.id {
        let message = format!("phone and Mac are both `{}`", mac.id);
        return Err(Failure::usage(
            message,
            "specify two different ids: --device ID and --mac-device ID",
        ));
    }
    let mut config = CheckConfig::new(endpoint.signal, token_url, phone, mac);
    config.other =
        parties.other_pair.as_ref().zip(parties.other_device.as_ref()).map(|(pair, id)| {
            OtherPair {
                pair: pair.as_str().into(),
                device: device(id, &parties.other_access_token),
            }
        });
    config.trust = args.endpoint.trust()?;
    config.pair = endpoint.pair;
    config.jwt_secret = secret;
    config.issuer.clone_from(&parties.issuer);
    config.audience.clone_from(&parties.audience);
    config.token_in = match parties.token_in {
        TokenInArg::Header => TokenIn::Header,
        TokenInArg::Subprotocol => TokenIn::Subprotocol,
        TokenInArg::Query => TokenIn::Query,
    };
    config.connect_only = parties.connect_only;
    config.revoke_command.clone_from(&parties.revoke_command);
    config.restart_command.clone_from(&parties.restart_command);
    config.level = match args.level {
        LevelArg::Production => Level::Production,
        LevelArg::Strict => Level::Strict,
    };
    config.slow = args.slow;
    config.parallel = args.parallel.into();
    config.case_timeout = args.case_timeout;
    config.selection = Selection { only: args.only.clone(), skip: args.skip.clone() };
    if let Some(pattern) = rules::unknown_pattern(&config.selection) {
        return Err(Failure::usage(
            format!("no rule matches `{pattern}`"),
            "run `orion-peer check --list` for all rules; `*` matches any text",
        ));
    }
    Ok(config)
}

fn bad_secret(error: &str) -> Failure {
    let remedy = "pass the server's signing secret: at least 32 bytes, or a PEM private key";
    Failure::usage(format!("--jwt-secret: {error}"), remedy)
}

/// Connects once before any rule runs: an unreachable server is an error, not a broken rule.
async fn reach(config: &CheckConfig) -> Result<(), Failure> {
    let url = &config.signal;
    let host = url.host_str().unwrap_or_default();
    let connected =
        tokio::time::timeout(REACH_WITHIN, wire::connect(url, &config.trust, None)).await;
    let reason = match connected {
        Ok(Ok(_)) => return Ok(()),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", REACH_WITHIN.as_secs()),
    };
    let failure = Failure::new(
        Stage::Signaling,
        format!(
            "cannot connect to {host}, port {}: {reason}",
            url.port_or_known_default().unwrap_or(80)
        ),
        "check that the server is running; run `orion-peer doctor` for a diagnosis; for a private CA add --cacert FILE",
    );
    Err(Failure { code: Some("unreachable".into()), ..failure })
}

fn write(path: &std::path::Path, text: &str) -> Result<(), Failure> {
    whole_file::write(path, text.as_bytes()).map_err(|error| cannot_write(path, &error))
}

/// Parses a duration greater than 0.
fn positive_duration(text: &str) -> Result<Duration, String> {
    match units::duration(text) {
        Ok(Duration::ZERO) => Err("must be greater than 0, such as 30s".to_owned()),
        Ok(time) => Ok(time),
        Err(error) => Err(error.to_string()),
    }
}

fn cannot_write(path: &std::path::Path, error: &std::io::Error) -> Failure {
    let message = format!("cannot write `{}`: {error}", path.display());
    Failure::new(Stage::Output, message, "use a file in a writable directory")
}

/// The failure that a report implies; its details are already in the JSON result.
fn conclude(report: &CheckReport) -> Result<(), Failure> {
    let failed: Vec<&str> = report.with(Outcome::Fail).map(|case| case.id.as_str()).collect();
    let failure = match failed[..] {
        [first, ..] => Failure::requirement(
            Stage::Server,
            match failed.len() {
                1 => format!("1 rule of the contract is broken: {first}"),
                many => format!("{many} rules of the contract are broken: {}", failed.join(", ")),
            },
            format!("run a single rule: orion-peer check --only {first}"),
        ),
        [] if report.partial => {
            Failure::interrupted("let it run to completion, or select rules with --only")
        }
        [] if report.counts.passed == 0 => Failure::new(
            Stage::Config,
            "no rule could be run",
            "see the table for what each rule needs, or list all rules with --list",
        ),
        [] => return Ok(()),
    };
    Err(failure.in_result())
}
