//! Tokens and TURN credentials.
