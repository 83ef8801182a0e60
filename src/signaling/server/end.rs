//! The end of a socket: close code, close reason, and the reason reported to the other device.

use tokio_tungstenite::tungstenite::Error as WsError;

use super::websocket;
use crate::proto::signaling::{LeaveReason, close};

/// The end of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    /// Close code to send; `None` if the connection is broken or the client closed it.
    pub code: Option<u16>,
    /// Human-readable close reason.
    pub reason: &'static str,
    /// The reason reported to the other device.
    pub left: LeaveReason,
}

impl End {
    pub(super) fn with(code: u16, reason: &'static str, left: LeaveReason) -> Self {
        Self { code: Some(code), reason, left }
    }

    /// The connection is gone, so no close code is sent.
    pub(super) fn gone(reason: &'static str) -> Self {
        Self { code: None, reason, left: LeaveReason::Closed }
    }

    /// A message exceeds the size limit.
    pub(super) fn too_big() -> Self {
        Self::with(
            close::TOO_BIG,
            "the message exceeds the limit of 64 KiB or of this server",
            LeaveReason::Closed,
        )
    }

    /// The end for a frame that could not be read.
    pub(super) fn of_broken(error: &WsError) -> Self {
        let with = |code, reason| Self::with(code, reason, LeaveReason::Closed);
        match websocket::close_code(error) {
            Some(close::TOO_BIG) => Self::too_big(),
            Some(close::INVALID_UTF8) => {
                with(close::INVALID_UTF8, "a text frame is not valid UTF-8")
            }
            Some(code) => with(code, "a frame violates the protocol"),
            None => Self::gone("the connection is broken"),
        }
    }
}
