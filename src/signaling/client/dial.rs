//! One connection attempt: DNS, TCP, TLS and WebSocket upgrade (RFC 6455 §4.1), with the duration and the error of
//! each step.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant, SystemTime},
};

use rustls::pki_types::ServerName;
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, client_async_with_config,
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

use super::{
    clock::clock_skew,
    endpoint::endpoint,
    error::ClientError,
    http::{
        MAX_REDIRECTS, error_body, install_crypto, redirect, retry_after, rustls_error, stays,
        tls_reason,
    },
    proxy::proxy_of,
    redact::redacted,
    token_error::TokenError,
};
use crate::{
    proto::{signaling::SUBPROTOCOL, token::ErrorBody},
    tls::Trust,
};

/// A socket to the server.
pub type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Maximum size of a message that is read; above the contract's 64 KiB, so that larger ones are ignored, not fatal.
const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// Size of the read buffer, bytes; the default of 128 KiB is for busy sockets.
const READ_BUFFER: usize = 4096;

/// Duration of each connection step; the sum if a step was repeated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DialTimings {
    /// Fetching the token; `None` for a fixed token.
    pub token: Option<Duration>,
    /// Resolving the host name.
    pub dns: Duration,
    /// TCP connection.
    pub tcp: Duration,
    /// TLS handshake; `None` for `ws://`.
    pub tls: Option<Duration>,
    /// WebSocket upgrade.
    pub upgrade: Duration,
}

/// The result of an attempt.
pub(super) struct Dialed {
    pub(super) socket: Socket,
    /// How far this machine's clock is ahead of the server's, seconds, if known.
    pub(super) clock_skew: Option<f64>,
}

/// Connects with `token`, and adds the duration of each step to `timings`.
pub(super) async fn dial(
    url: &Url,
    token: &str,
    trust: &Trust,
    source: Option<IpAddr>,
    within: Duration,
    timings: &mut DialTimings,
) -> Result<Dialed, ClientError> {
    let attempts = async {
        let mut at = url.clone();
        let mut redirects = 0;
        loop {
            let result = attempt(&at, token, trust, source, timings).await;
            let Err(ClientError::Redirected { target, .. }) = &result else { return result };
            if redirects == MAX_REDIRECTS || !stays(&at, target) {
                return result;
            }
            redirects += 1;
            at = target.clone();
        }
    };
    timeout(within, attempts)
        .await
        .unwrap_or_else(|_| Err(ClientError::Timeout { url: redacted(url), after: within }))
}

async fn attempt(
    url: &Url,
    token: &str,
    trust: &Trust,
    source: Option<IpAddr>,
    timings: &mut DialTimings,
) -> Result<Dialed, ClientError> {
    match upgrade(url, token, trust, source, true, timings).await? {
        Ok(dialed) => Ok(dialed),
        // Servers without support for subprotocols are accepted as well.
        Err(tungstenite::Error::Protocol(ProtocolError::SecWebSocketSubProtocolError(
            SubProtocolError::NoSubProtocol,
        ))) => upgrade(url, token, trust, source, false, timings)
            .await?
            .map_err(|error| explain(url, error)),
        Err(error) => Err(explain(url, error)),
    }
}

/// Opens a bare socket to the server at `url` ([`endpoint`]): no reconnection, no renewal, a read buffer of 4 KiB.
/// `source` is the local address to connect from.
///
/// # Errors
/// [`ClientError`], as for an attempt of [`super::connect`].
pub async fn open(
    url: &Url,
    token: &str,
    trust: &Trust,
    source: Option<IpAddr>,
    within: Duration,
) -> Result<Socket, ClientError> {
    install_crypto();
    let mut timings = DialTimings::default();
    dial(url, token, trust, source, within, &mut timings).await.map(|dialed| dialed.socket)
}

/// The result of [`probe_server`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ServerProbe {
    /// Duration of each step.
    pub timings: DialTimings,
    /// How far this machine's clock is ahead of the server's, seconds, if known.
    pub clock_skew: Option<f64>,
}

/// Connects up to the WebSocket upgrade, with an invalid token: a signaling server rejects it with 401 or 403, which
/// shows that the server is running and does not affect its rooms.
///
/// # Errors
/// [`ClientError`] when no signaling server answers.
pub async fn probe_server(
    url: &str,
    trust: &Trust,
    within: Duration,
) -> Result<ServerProbe, ClientError> {
    install_crypto();
    let url = endpoint(url)?;
    let mut timings = DialTimings::default();
    let clock_skew = match dial(&url, "no-token", trust, None, within, &mut timings).await {
        Ok(dialed) => dialed.clock_skew,
        Err(ClientError::Refused { status: 401 | 403, clock_skew, .. }) => clock_skew,
        Err(error) => return Err(error),
    };
    Ok(ServerProbe { timings, clock_skew })
}

async fn upgrade(
    url: &Url,
    token: &str,
    trust: &Trust,
    source: Option<IpAddr>,
    subprotocol: bool,
    timings: &mut DialTimings,
) -> Result<Result<Dialed, tungstenite::Error>, ClientError> {
    let request = request(url, token, subprotocol)?;
    let stream = connect(url, source, timings).await?;
    let stream = secure(url, stream, trust, timings).await?;
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES));
    let started = Instant::now();
    let attempt = Box::pin(client_async_with_config(request, stream, Some(config))).await;
    timings.upgrade += started.elapsed();
    Ok(attempt.map(|(socket, response)| {
        let date = header_text(response.headers(), &header::DATE);
        Dialed { socket, clock_skew: clock_skew(date, SystemTime::now()) }
    }))
}

fn request(url: &Url, token: &str, subprotocol: bool) -> Result<Request, ClientError> {
    let mut request = url.as_str().into_client_request().map_err(|error| explain(url, error))?;
    let mut bearer = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| {
        TokenError::Unreadable(
            "it contains characters that are not allowed in an HTTP header".into(),
        )
    })?;
    bearer.set_sensitive(true);
    let headers = request.headers_mut();
    headers.insert(header::AUTHORIZATION, bearer);
    if subprotocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    }
    Ok(request)
}

fn host(url: &Url) -> &str {
    url.host_str().unwrap_or_default().trim_matches(['[', ']'])
}

async fn connect(
    url: &Url,
    source: Option<IpAddr>,
    timings: &mut DialTimings,
) -> Result<TcpStream, ClientError> {
    let proxy = proxy_of(url)?;
    let (host, port) = match &proxy {
        Some(proxy) => (proxy.host.as_str(), proxy.port),
        None => (host(url), url.port_or_known_default().unwrap_or(80)),
    };
    let failed = |source| ClientError::Dns { host: host.to_owned(), source };
    let started = Instant::now();
    let addresses = tokio::net::lookup_host((host, port)).await.map_err(failed)?;
    let resolved = Instant::now();
    timings.dns += resolved - started;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    for address in addresses {
        match open_tcp(address, source).await {
            Ok(mut stream) => {
                if let Some(proxy) = &proxy {
                    proxy.tunnel(&mut stream, url).await?;
                }
                timings.tcp += resolved.elapsed();
                // Otherwise small messages wait for acknowledgements; a failure only costs latency.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(match proxy {
        Some(proxy) => ClientError::Proxy { proxy: proxy.shown(), reason: last.to_string() },
        None => ClientError::Connect { url: redacted(url), source: last },
    })
}

async fn open_tcp(address: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let Some(source) = source else { return TcpStream::connect(address).await };
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.bind(SocketAddr::new(source, 0))?;
    socket.connect(address).await
}

/// Performs the TLS handshake for `wss://`.
async fn secure(
    url: &Url,
    stream: TcpStream,
    trust: &Trust,
    timings: &mut DialTimings,
) -> Result<MaybeTlsStream<TcpStream>, ClientError> {
    if url.scheme() != "wss" {
        return Ok(MaybeTlsStream::Plain(stream));
    }
    let failed = |reason: String| ClientError::Tls { url: redacted(url), reason };
    let name = ServerName::try_from(host(url).to_owned())
        .map_err(|_| failed("the host name is not valid in a certificate".into()))?;
    let started = Instant::now();
    let connector = TlsConnector::from(trust.client());
    let stream = Box::pin(connector.connect(name, stream)).await.map_err(|error| {
        match rustls_error(&error) {
            // Not a TLS record at all, such as the start of an HTTP response.
            Some(rustls::Error::InvalidMessage(_)) => ClientError::PlainText { url: redacted(url) },
            Some(tls) => failed(tls_reason(tls)),
            None => failed(error.to_string()),
        }
    })?;
    *timings.tls.get_or_insert_default() += started.elapsed();
    Ok(MaybeTlsStream::Rustls(stream))
}

fn explain(url: &Url, error: tungstenite::Error) -> ClientError {
    let at = url;
    let url = redacted(at);
    match error {
        tungstenite::Error::Http(response) => answered(at, &response),
        tungstenite::Error::Tls(error) => ClientError::Tls { url, reason: error.to_string() },
        // With TLS 1.3 a server rejects the client only after the handshake.
        tungstenite::Error::Io(error) if rustls_error(&error).is_some() => {
            ClientError::Tls { url, reason: error.to_string() }
        }
        tungstenite::Error::Io(source) => ClientError::Connect { url, source },
        tungstenite::Error::Url(error) => ClientError::Url { url, reason: error.to_string() },
        error => ClientError::NotWebSocket { url, reason: error.to_string() },
    }
}

fn answered(at: &Url, response: &Response) -> ClientError {
    let (url, status) = (redacted(at), response.status());
    let target = redirect(at, status.as_u16(), header_text(response.headers(), &header::LOCATION));
    if let Some(target) = target.and_then(|target| endpoint(target.as_str()).ok()) {
        return ClientError::Redirected { url, status: status.as_u16(), target };
    }
    if !status.is_client_error() && !status.is_server_error() {
        return ClientError::NotWebSocket { url, reason: format!("it answered HTTP {status}") };
    }
    let body = response.body().as_deref().unwrap_or_default();
    let ErrorBody { code, message } = error_body(status.canonical_reason(), body);
    let headers = response.headers();
    ClientError::Refused {
        url,
        status: status.as_u16(),
        code,
        message,
        retry_after: retry_after(
            header_text(headers, &header::RETRY_AFTER),
            header_text(headers, &header::DATE),
            SystemTime::now(),
        ),
        clock_skew: clock_skew(header_text(headers, &header::DATE), SystemTime::now()),
    }
}

fn header_text<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
