//! The text of a WebSocket message, as relayed by the rooms and the bus.

/// One text message; clones share its bytes.
pub type Text = tokio_tungstenite::tungstenite::Utf8Bytes;
