//! One attempt: name, TCP, TLS, WebSocket upgrade (RFC 6455 §4.1), with the failure of each told apart.

use std::{io, time::Duration};

use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, client_async_tls_with_config,
    tungstenite::{
        self,
        client::IntoClientRequest,
        error::{ProtocolError, SubProtocolError},
        handshake::client::{Request, Response},
        http::{HeaderMap, HeaderValue, header},
        protocol::WebSocketConfig,
    },
};
use url::Url;

use super::{endpoint::redacted, error::ClientError};
use crate::{
    proto::{signaling::SUBPROTOCOL, token::ErrorBody},
    signaling::token_client::{TokenError, retry_after},
};

/// A socket to the server.
pub(super) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Largest message read at all; those over the contract's 64 KiB are then ignored, not fatal.
const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// Connects with that token.
pub(super) async fn dial(url: &Url, token: &str, within: Duration) -> Result<Socket, ClientError> {
    timeout(within, async {
        match upgrade(url, token, true).await? {
            Ok(socket) => Ok(socket),
            // A server that knows no subprotocols is a server all the same.
            Err(tungstenite::Error::Protocol(ProtocolError::SecWebSocketSubProtocolError(
                SubProtocolError::NoSubProtocol,
            ))) => upgrade(url, token, false).await?.map_err(|error| explain(url, error)),
            Err(error) => Err(explain(url, error)),
        }
    })
    .await
    .unwrap_or_else(|_| Err(ClientError::Timeout { url: redacted(url), after: within }))
}

async fn upgrade(
    url: &Url,
    token: &str,
    subprotocol: bool,
) -> Result<Result<Socket, tungstenite::Error>, ClientError> {
    let request = request(url, token, subprotocol)?;
    let stream = connect(url).await?;
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES));
    let attempt = client_async_tls_with_config(request, stream, Some(config), None);
    Ok(Box::pin(attempt).await.map(|(socket, _)| socket))
}

fn request(url: &Url, token: &str, subprotocol: bool) -> Result<Request, ClientError> {
    let mut request = url.as_str().into_client_request().map_err(|error| explain(url, error))?;
    let mut bearer = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| {
        TokenError::Unreadable("it holds characters that no HTTP header may hold".into())
    })?;
    bearer.set_sensitive(true);
    let headers = request.headers_mut();
    headers.insert(header::AUTHORIZATION, bearer);
    if subprotocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    }
    Ok(request)
}

async fn connect(url: &Url) -> Result<TcpStream, ClientError> {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let port = url.port_or_known_default().unwrap_or(80);
    let failed = |source| ClientError::Dns { host: host.to_owned(), source };
    let addresses = tokio::net::lookup_host((host, port)).await.map_err(failed)?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // Without it small messages wait for acknowledgements; a failure only costs speed.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(ClientError::Connect { url: redacted(url), source: last })
}

fn explain(url: &Url, error: tungstenite::Error) -> ClientError {
    let tls = url.scheme() == "wss";
    let url = redacted(url);
    match error {
        tungstenite::Error::Http(response) => answered(url, &response),
        tungstenite::Error::Tls(error) => ClientError::Tls { url, reason: error.to_string() },
        tungstenite::Error::Io(error) if tls && is_tls(&error) => {
            ClientError::Tls { url, reason: error.to_string() }
        }
        tungstenite::Error::Io(source) => ClientError::Connect { url, source },
        tungstenite::Error::Url(error) => ClientError::Url { url, reason: error.to_string() },
        error => ClientError::NotWebSocket { url, reason: error.to_string() },
    }
}

fn is_tls(error: &io::Error) -> bool {
    error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).is_some()
        || error.to_string().contains("tls handshake")
}

fn answered(url: String, response: &Response) -> ClientError {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return ClientError::NotWebSocket { url, reason: format!("it answered HTTP {status}") };
    }
    let body = response.body().as_deref().unwrap_or_default();
    let ErrorBody { code, message } = error_body(status.canonical_reason(), body);
    ClientError::Refused {
        url,
        status: status.as_u16(),
        code,
        message,
        retry_after: retry_after(header_text(response.headers(), &header::RETRY_AFTER)),
    }
}

fn header_text<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The `{code, message}` of an error answer, or what can be said without one.
pub(in crate::signaling) fn error_body(reason: Option<&str>, body: &[u8]) -> ErrorBody {
    serde_json::from_slice(body).unwrap_or_else(|_| {
        let text: String =
            String::from_utf8_lossy(body).chars().filter(|c| !c.is_control()).take(200).collect();
        let message = if text.is_empty() { "no explanation was given".to_owned() } else { text };
        ErrorBody { code: reason.unwrap_or("Unknown").to_owned(), message }
    })
}
