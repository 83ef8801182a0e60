//! ICE servers given by flag: `stun:` and `turn:` URLs (RFC 7064, RFC 7065) and their credentials.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{failure::Failure, secret::SecretText};
use crate::{
    auth::{secret::Secret, turn_rest::TurnSecrets},
    proto::token::IceServer,
    stun::uri::{ServerUri, is_turn},
};

/// Lifetime of credentials generated from a shared secret: a day, so that a long run can create new
/// allocations.
const REST_LIFETIME: Duration = Duration::from_hours(24);

/// User part of credentials generated from a shared secret.
const REST_USER: &str = "orion-peer";

/// Credentials for the TURN servers given by flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TurnLogin {
    /// No credentials: only STUN servers can be used.
    None,
    /// User name and password given by flag.
    Fixed(String, SecretText),
    /// The server's shared secret, from which credentials are generated.
    Secret(SecretText),
}

/// Validates the URL of an ICE server.
///
/// # Errors
/// Exit code 2: the URL is not valid.
pub fn check_url(flag: &str, url: &str) -> Result<(), Failure> {
    url.parse::<ServerUri>().map(drop).map_err(|problem| {
        Failure::usage(
            format!("{flag} `{url}`: {problem}"),
            "use stun:HOST[:PORT], turn:HOST[:PORT][?transport=udp|tcp] or turns:HOST[:PORT]",
        )
    })
}

/// Validates the URLs and adds credentials to TURN servers.
///
/// # Errors
/// A URL is not an ICE server URL, a TURN server has no credentials, or there are credentials but no TURN
/// server.
pub fn servers(
    urls: &[String],
    login: &TurnLogin,
    now: SystemTime,
) -> Result<Vec<IceServer>, Failure> {
    let mut stun = Vec::new();
    let mut turn = Vec::new();
    for url in urls {
        check_url("--ice-server", url)?;
        if is_turn(url) { turn.push(url.clone()) } else { stun.push(url.clone()) }
    }
    let mut servers = Vec::new();
    if !stun.is_empty() {
        servers.push(IceServer { urls: stun, username: None, credential: None });
    }
    match (turn.first(), login) {
        (None, TurnLogin::None) => {}
        (None, _) => {
            return Err(Failure::usage(
                "TURN credentials without a TURN server",
                "add --ice-server turn:HOST:PORT",
            ));
        }
        (Some(url), TurnLogin::None) => {
            return Err(Failure::usage(
                format!("--ice-server `{url}` requires credentials"),
                "add --turn-username and --turn-credential @FILE, or --turn-secret @FILE",
            ));
        }
        (Some(_), login) => {
            let (username, credential) = credentials(login, now);
            servers.push(IceServer { urls: turn, username, credential });
        }
    }
    Ok(servers)
}

fn credentials(login: &TurnLogin, now: SystemTime) -> (Option<String>, Option<String>) {
    match login {
        TurnLogin::None => (None, None),
        TurnLogin::Fixed(username, credential) => {
            (Some(username.clone()), Some(credential.expose().to_owned()))
        }
        TurnLogin::Secret(secret) => {
            let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
            let secrets = TurnSecrets { current: Secret::from(secret.expose()), previous: None };
            let made = secrets.mint(REST_USER, (now + REST_LIFETIME).as_secs());
            (Some(made.username), Some(made.password))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(urls: &[&str], login: &TurnLogin) -> Result<Vec<IceServer>, Failure> {
        let urls: Vec<String> = urls.iter().map(|url| (*url).to_owned()).collect();
        servers(&urls, login, UNIX_EPOCH + Duration::from_secs(1_000))
    }

    #[test]
    fn only_turn_servers_get_credentials() {
        let login = TurnLogin::Fixed("u".into(), SecretText::new("c"));
        let urls =
            ["turn:t:3478?transport=tcp", "stun:s", "turns:[::1]:5349", "turns:t?transport=tcp"];
        let servers = given(&urls, &login).unwrap();
        assert_eq!(servers.len(), 2);
        assert_eq!(servers[0].urls, ["stun:s"]);
        assert_eq!(servers[0].username, None);
        assert_eq!(servers[1].urls.len(), 3);
        assert_eq!(servers[1].username.as_deref(), Some("u"));
        assert_eq!(servers[1].credential.as_deref(), Some("c"));
    }

    #[test]
    fn a_shared_secret_generates_rest_credentials() {
        let servers = given(&["turn:t"], &TurnLogin::Secret(SecretText::new("north"))).unwrap();
        assert_eq!(servers[0].username.as_deref(), Some("87400:orion-peer"));
        // printf 87400:orion-peer | openssl dgst -sha1 -hmac north -binary | base64
        assert_eq!(servers[0].credential.as_deref(), Some("EHeP6i4NVIGAr3e9gHcP1HWmIy0="));
    }

    #[test]
    fn invalid_ice_server_urls_are_rejected() {
        for url in [
            "t.example",
            "http://t.example",
            "stun://t.example",
            "stun:",
            "stun:s?transport=udp",
            "stuns:s",
            "turns:t?transport=udp",
            "turn:t?transport=sctp",
            "turn:t?x=1",
            "turn:t:99999",
            "turn:t/path",
            "turn:u@t",
        ] {
            let failure = given(&[url], &TurnLogin::None).unwrap_err();
            assert!(failure.message.contains(url), "{failure}");
            assert!(failure.remedy.contains("turns:HOST"), "{failure}");
        }
    }

    #[test]
    fn turn_servers_and_credentials_require_each_other() {
        let without = given(&["turn:t"], &TurnLogin::None).unwrap_err();
        assert!(without.remedy.contains("--turn-username"), "{without}");
        let alone = given(&["stun:s"], &TurnLogin::Secret(SecretText::new("s"))).unwrap_err();
        assert!(alone.remedy.contains("--ice-server turn:"), "{alone}");
    }
}
