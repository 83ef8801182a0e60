//! Flags for a Twilio account: for the token responses of `serve`, and for peers with `--twilio`.

use clap::Args;

use super::{failure::Failure, secret::SecretText};
use crate::{
    auth::{
        secret::Secret,
        twilio::{API, MAX_TTL, Twilio, TwilioError},
    },
    proto::token::IceServer,
    types::Stage,
};

/// Flags for Twilio.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct TwilioArgs {
    /// Twilio account SID (AC…) for ICE servers from the Network Traversal Service
    #[arg(long, value_name = "AC")]
    pub twilio_account: Option<String>,
    /// API key SID of the account (SK…); default: none, and --twilio-secret is the auth token
    #[arg(long, value_name = "SK")]
    pub twilio_key: Option<String>,
    /// Secret of the API key, or the auth token of the account
    #[arg(long, value_name = "TEXT|@FILE", value_parser = SecretText::parse)]
    pub twilio_secret: Option<SecretText>,
    /// URL of the Twilio API; default: `https://api.twilio.com`
    #[arg(long, value_name = "URL")]
    pub twilio_url: Option<String>,
}

impl TwilioArgs {
    /// The account; `None` if none is given.
    ///
    /// # Errors
    /// Conflicting flags: exit code 2.
    pub fn account(&self) -> Result<Option<Twilio>, Failure> {
        let Some(account) = self.twilio_account.as_deref().map(str::trim) else {
            let alone = [
                ("--twilio-key", self.twilio_key.is_some()),
                ("--twilio-secret", self.twilio_secret.is_some()),
                ("--twilio-url", self.twilio_url.is_some()),
            ];
            return match alone.into_iter().find(|(_, given)| *given) {
                None => Ok(None),
                Some((flag, _)) => Err(without_account(flag)),
            };
        };
        let Some(secret) = &self.twilio_secret else {
            return Err(Failure::usage(
                "--twilio-account requires --twilio-secret",
                "add --twilio-secret @FILE or set ORION_TWILIO_SECRET",
            ));
        };
        let base = self.twilio_url.as_deref().unwrap_or(API);
        let key = self.twilio_key.as_deref().map(str::trim);
        Twilio::new(base, account, key, Secret::from(secret.expose()))
            .map(Some)
            .map_err(|error| Failure::usage(error.to_string(), error.remedy()))
    }

    /// Fetches ICE servers for a peer, valid for a day.
    ///
    /// # Errors
    /// No account is given (exit code 2); Twilio returns no servers (exit code 1).
    pub async fn ice_servers(&self) -> Result<Vec<IceServer>, Failure> {
        let account = self.account()?.ok_or_else(|| {
            Failure::usage(
                "--twilio requires an account",
                "add --twilio-account AC… and --twilio-secret @FILE (or set ORION_TWILIO_ACCOUNT and \
                 ORION_TWILIO_SECRET)",
            )
        })?;
        account.fetch(MAX_TTL).await.map(|lease| lease.servers).map_err(|error| failed(&error))
    }
}

/// The failure of a request to Twilio.
pub(super) fn failed(error: &TwilioError) -> Failure {
    Failure::new(Stage::Gathering, error.to_string(), error.remedy())
}

/// The failure of an account flag without an account.
#[must_use]
pub fn without_account(flag: &str) -> Failure {
    Failure::usage(format!("{flag} requires --twilio-account"), "add --twilio-account AC…")
}
