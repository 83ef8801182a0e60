//! The text of a WebSocket message as the rooms and the bus pass it on.

/// One text message; cloning shares its bytes.
pub type Text = tokio_tungstenite::tungstenite::Utf8Bytes;
