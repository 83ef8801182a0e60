//! Tokens and TURN credentials: who may ask for a signaling token, who may join a room, who may
//! relay.
//!
//! | file | what |
//! |---|---|
//! | [`secret`] | a secret that cannot be printed by accident |
//! | [`jws`] | signing keys, and the signature of a compact JWS (RFC 7515) |
//! | [`jwt`] | the signaling JWT: minting it, and every reason to refuse one |
//! | [`login`] | the login token of the token API |
//! | [`turn_rest`] | time-limited TURN credentials from a shared secret |
//!
//! Time is always an argument here, in seconds since 1970.

pub mod jws;
pub mod jwt;
pub mod login;
pub mod secret;
pub mod turn_rest;

/// Now, in seconds since 1970. A clock before 1970 reads as 1970, so that every token is refused.
#[must_use]
pub fn unix_now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
