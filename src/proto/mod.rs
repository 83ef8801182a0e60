//! Every wire message, defined once: client and server share these types. The pages of
//! the guide define them: [`crate::guide::wire_contract`] and [`crate::guide::control_messages`].
//!
//! - [`signaling`]: JSON text frames on the WebSocket `/api/signal`, and its close codes
//! - [`control`]: JSON text on the data channel `control`
//! - [`claims`]: claims of the signaling JWT
//! - [`token`]: request and response of `POST /api/auth/webrtc-token`

pub mod claims;
pub mod control;
pub mod signaling;
pub mod token;
