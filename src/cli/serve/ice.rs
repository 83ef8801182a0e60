//! ICE servers in the token responses of `serve`, in addition to its own relay: a fixed list, and Twilio's.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use clap::Args;

use crate::{
    auth::{
        twilio::{MAX_TTL, TwilioError},
        unix_now,
    },
    cli::{
        failure::Failure,
        ice::{self, TurnLogin},
        secret::SecretText,
        twilio::{TwilioArgs, without_account},
        units,
    },
    proto::claims::MAX_LIFETIME_S,
    server::{MIN_TURN_TTL, SHORTEST_TTL, ServerConfig, twilio::TwilioServers},
};

/// Maximum lifetime of TURN credentials generated from a shared secret.
const MAX_TURN_TTL: Duration = Duration::from_hours(7 * 24);

/// Flags of `serve` for ICE servers.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "ICE servers in token responses")]
pub struct IceArgs {
    /// Additional ICE server (stun:, turn: or turns:) to include in token responses; repeatable
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub ice_server: Vec<String>,
    /// User name for the TURN servers given by --ice-server
    #[arg(long, value_name = "NAME")]
    pub ice_username: Option<String>,
    /// Password for the TURN servers given by --ice-server
    #[arg(long, value_name = "TEXT|@FILE", value_parser = SecretText::parse)]
    pub ice_credential: Option<SecretText>,
    /// Signaling token lifetime, 10s to 5m; default: 5m; short lifetimes test whether an app renews its token
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub token_ttl: Option<Duration>,
    /// Lifetime of TURN credentials generated from --turn-secret, 10s to 7 days; default: 2h; less than 1h is for tests
    /// only, because calls outlive it
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub turn_ttl: Option<Duration>,
    /// The Twilio account.
    #[command(flatten)]
    pub twilio: TwilioArgs,
    /// Lifetime of Twilio's credentials, 2h to 24h (renewed halfway through); default: 24h
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub twilio_ttl: Option<Duration>,
}

impl IceArgs {
    /// Adds the servers to token responses; sends one request to Twilio.
    ///
    /// # Errors
    /// Conflicting flags, or credentials that Twilio rejects: exit code 2.
    pub(super) async fn apply(&self, config: &mut ServerConfig) -> Result<(), Failure> {
        config.ice_servers = self.listed()?;
        if let Some(ttl) = self.token_ttl {
            let maximum = Duration::from_secs(MAX_LIFETIME_S);
            config.token_ttl_s = in_range("--token-ttl", ttl, SHORTEST_TTL, maximum)?.as_secs();
        }
        if let Some(ttl) = self.turn_ttl {
            let ttl = in_range("--turn-ttl", ttl, SHORTEST_TTL, MAX_TURN_TTL)?;
            if ttl < MIN_TURN_TTL {
                tracing::warn!(
                    "--turn-ttl is less than an hour: calls will outlive their TURN credentials"
                );
            }
            let Some(turn) = &mut config.turn else {
                return Err(Failure::usage(
                    "--turn-ttl requires a TURN server",
                    "omit --no-turn, or add --turn-url and --turn-secret",
                ));
            };
            turn.ttl = ttl;
        }
        config.twilio = self.twilio().await?;
        Ok(())
    }

    fn listed(&self) -> Result<Vec<crate::proto::token::IceServer>, Failure> {
        let login = match (&self.ice_username, &self.ice_credential) {
            (None, None) => TurnLogin::None,
            (Some(username), Some(credential)) => {
                TurnLogin::Fixed(username.clone(), credential.clone())
            }
            _ => {
                return Err(Failure::usage(
                    "--ice-username and --ice-credential must be used together",
                    "specify both, or neither",
                ));
            }
        };
        ice::servers(&self.ice_server, &login, SystemTime::now()).map_err(|failure| Failure {
            remedy: "use stun:HOST[:PORT], or turn:HOST[:PORT] with --ice-username and \
                    --ice-credential @FILE; for a shared secret use --turn-url and \
                     --turn-secret"
                .into(),
            ..failure
        })
    }

    async fn twilio(&self) -> Result<Option<Arc<TwilioServers>>, Failure> {
        let ttl = self.twilio_ttl.unwrap_or(MAX_TTL);
        // Renewed halfway through, so credentials handed out are valid for at least another hour.
        let ttl = in_range("--twilio-ttl", ttl, 2 * MIN_TURN_TTL, MAX_TTL)?;
        let Some(account) = self.twilio.account()? else {
            let ttl = self.twilio_ttl.map(|_| Err(without_account("--twilio-ttl")));
            return ttl.unwrap_or(Ok(None));
        };
        let servers = TwilioServers::new(account, ttl);
        match servers.renew_if_due(unix_now()).await {
            Err(error @ TwilioError::Refused { .. }) => {
                Err(Failure::usage(error.to_string(), error.remedy()))
            }
            // Other errors may be temporary: they have been logged, and the request is retried.
            _ => Ok(Some(Arc::new(servers))),
        }
    }
}

fn in_range(
    flag: &str,
    given: Duration,
    minimum: Duration,
    maximum: Duration,
) -> Result<Duration, Failure> {
    if (minimum..=maximum).contains(&given) {
        return Ok(given);
    }
    let flag_value = |time: Duration| match time.as_secs() {
        seconds if seconds >= 3600 => format!("{}h", seconds / 3600),
        seconds => format!("{seconds}s"),
    };
    Err(Failure::usage(
        format!("{flag} of {} s is out of range", given.as_secs()),
        format!("use a time from {} to {}", flag_value(minimum), flag_value(maximum)),
    ))
}
