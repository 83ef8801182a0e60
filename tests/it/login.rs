//! Login tokens, signing keys, and ICE servers of token responses, with services that fail and rotate keys.

mod coturn;
mod ice;
mod jwks;
mod keys;
mod stub;
