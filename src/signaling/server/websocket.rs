//! The server's WebSocket layer (RFC 6455): buffers, limits, the close code for each protocol
//! violation, and a close that the client can still read. There is no permessage-deflate (RFC 7692):
//! descriptions are small, but a compressor per socket is not.

use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error as WsError, Message as Frame, Utf8Bytes,
        error::ProtocolError,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

use crate::proto::signaling::close;

/// Messages up to this size, in bytes, are read completely before they are rejected: closing with
/// unread data in the kernel would reset the connection, and the client would not receive 1009.
pub const READ_LIMIT: usize = 1024 * 1024;

/// Read buffer in bytes, allocated for the lifetime of each socket. Most messages are candidates of
/// about 250 bytes.
const READ_BUFFER: usize = 1024;

/// Starts a server WebSocket on an upgraded connection.
pub async fn accept<S>(io: S) -> WebSocketStream<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_message_size(Some(READ_LIMIT))
        .max_frame_size(Some(READ_LIMIT));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

/// The close code for a frame that could not be read; `None` if the connection is broken.
#[must_use]
pub fn close_code(error: &WsError) -> Option<u16> {
    match error {
        WsError::Capacity(_) => Some(close::TOO_BIG),
        WsError::Utf8(_) => Some(close::INVALID_UTF8),
        WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        WsError::Protocol(_) | WsError::AttackAttempt => Some(close::PROTOCOL_ERROR),
        _ => None,
    }
}

/// Sends `rest` and the close frame, then reads until the client closes as well: closing with unread
/// data would reset the connection before the client has read the close frame. `end` is `None` if the
/// client closed the socket or the connection is broken.
pub async fn say_goodbye<S>(
    mut sink: SplitSink<WebSocketStream<S>, Frame>,
    mut stream: SplitStream<WebSocketStream<S>>,
    rest: impl IntoIterator<Item = Utf8Bytes>,
    end: Option<(u16, &'static str)>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if let Some((code, reason)) = end {
        for text in rest {
            if sink.send(Frame::Text(text)).await.is_err() {
                return;
            }
        }
        let frame = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
        if sink.send(Frame::Close(Some(frame))).await.is_err() {
            return;
        }
    }
    let mut answered = end.is_none();
    while let Some(Ok(frame)) = stream.next().await {
        answered |= frame.is_close();
    }
    if answered {
        return;
    }
    // Frames can no longer be parsed, so the remaining bytes are read and discarded.
    let Ok(mut websocket) = sink.reunite(stream) else { return };
    let io = websocket.get_mut();
    if io.shutdown().await.is_ok() {
        // On the heap, because local variables held across an await enlarge the task of every socket.
        let mut rest = vec![0; 4096];
        while matches!(io.read(&mut rest).await, Ok(read) if read > 0) {}
    }
}
