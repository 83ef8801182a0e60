//! Login tokens, signing keys, and ICE servers of token answers, against services that fail and rotate.

mod coturn;
mod ice;
mod jwks;
mod keys;
mod stub;
