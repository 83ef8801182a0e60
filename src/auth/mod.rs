//! Tokens and TURN credentials: authorization to request signaling tokens, join rooms and use the relay.
//!
//! | file | contents |
//! |---|---|
//! | [`secret`] | a secret that cannot be printed by accident |
//! | [`key`] | one key: a secret, PEM text or a public JWK (RFC 7517) |
//! | [`key_source`] | signing keys from files and directories, reloaded for rotation |
//! | [`jws`] | key sets, and the signature of a compact JWS (RFC 7515) |
//! | [`jwks`] | public keys of external issuers, fetched by URL |
//! | [`jwt`] | the signaling JWT: minting and verification |
//! | [`error`] | every reason to reject a token |
//! | [`login`] | the login token of the token API |
//! | [`turn_rest`] | time-limited TURN credentials from a shared secret |
//! | [`twilio`] | ICE servers from Twilio's Network Traversal Service |
//!
//! Time is always an argument here, in seconds since 1970.

pub mod error;
mod http;
pub mod jwks;
pub mod jws;
pub mod jwt;
pub mod key;
pub mod key_source;
pub mod login;
pub mod secret;
pub mod turn_rest;
pub mod twilio;

/// The current time, seconds since 1970. A clock before 1970 yields 0, so that every token is rejected.
#[must_use]
pub fn unix_now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
