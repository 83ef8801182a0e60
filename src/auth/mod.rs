//! Tokens and TURN credentials: who may ask for a signaling token, who may join a room, who may
//! relay.
//!
//! | file | what |
//! |---|---|
//! | [`secret`] | a secret that cannot be printed by accident |
//! | [`key`] | one key: a secret, PEM text or a public JWK (RFC 7517) |
//! | [`key_source`] | signing keys from files and directories, read again to rotate them |
//! | [`jws`] | several keys at once, and the signature of a compact JWS (RFC 7515) |
//! | [`jwks`] | public keys of others, by URL |
//! | [`jwt`] | the signaling JWT: minting it, and every reason to refuse one |
//! | [`login`] | the login token of the token API |
//! | [`turn_rest`] | time-limited TURN credentials from a shared secret |
//! | [`twilio`] | ICE servers of Twilio's Network Traversal Service |
//!
//! Time is always an argument here, in seconds since 1970.

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

/// Now, in seconds since 1970. A clock before 1970 reads as 1970, so that every token is refused.
#[must_use]
pub fn unix_now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
