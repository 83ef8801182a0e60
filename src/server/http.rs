//! The HTTP/1.1 listener, with or without TLS. It disconnects clients that are slow to send their handshake
//! or header, limits connections in total and per address, and closes them when the server stops.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use axum::{Router, body::Body, extract::Request, http::HeaderValue, response::Response};
use hyper::body::Incoming;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;
use tracing::Instrument;

use super::{
    Parts,
    proxies::Proxies,
    traffic::{Route, Traffic},
};
use crate::{
    http::{self, Within},
    metering::slots::{Slot, Slots},
    signaling::{
        server::limits::metered,
        server::{Arrival, ClientAddr, RequestId},
    },
};

/// Maximum number of connections to the listener for `/metrics`.
const METRICS_CONNECTIONS: usize = 64;

/// First byte of a TLS connection: the record type handshake (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// Header with a request's id, in responses and in requests from trusted proxies.
const REQUEST_ID: &str = "x-request-id";

/// Response to a plain HTTP request on a TLS port.
const SPEAK_TLS: &str = concat!(
    "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\n",
    "Content-Length: 81\r\n\r\n",
    r#"{"code":"tls-required","message":"this port speaks TLS: use https:// or wss://"}"#,
    "\n"
);

/// How connections are served.
#[derive(Clone)]
pub(super) struct Options {
    /// Timeout of a request's header.
    pub header_within: Duration,
    /// Lifetime of a connection, for all of its requests.
    pub connection_within: Duration,
    /// TLS, if enabled, and the timeout of its handshake.
    pub tls: Option<(TlsAcceptor, Duration)>,
    /// One permit per connection.
    pub connections: Arc<Semaphore>,
    /// Connections per address.
    pub addresses: Option<Slots<IpAddr>>,
    /// Proxies that are trusted to name a client's address.
    pub proxies: Arc<Proxies>,
    /// Counters of the listener.
    pub traffic: Arc<Traffic>,
}

/// Accepts connections until `stop` turns true.
pub(super) async fn accept(
    listener: TcpListener,
    router: Router,
    options: Options,
    stop: watch::Receiver<bool>,
) {
    let stopping = stop.clone();
    http::accept(listener, stop, |stream, address| {
        let Ok(place) = options.place(address.ip()) else { return };
        let Ok(permit) = Arc::clone(&options.connections).try_acquire_owned() else {
            return options.refuse("all", address);
        };
        let (router, options, stop) = (router.clone(), options.clone(), stopping.clone());
        tokio::spawn(async move {
            let traffic = Arc::clone(&options.traffic);
            traffic.open.fetch_add(1, Ordering::Relaxed);
            connection(stream, address, router, options, stop).await;
            traffic.open.fetch_sub(1, Ordering::Relaxed);
            drop((permit, place));
        });
    })
    .await;
}

impl Options {
    /// For the main listener.
    pub(super) fn of_all_routes(parts: &Parts) -> Self {
        let listener = &parts.config.listener;
        let acceptor = listener.tls.as_ref().map(|tls| TlsAcceptor::from(tls.http()));
        Self {
            tls: acceptor.map(|acceptor| (acceptor, listener.tls_within)),
            connections: Arc::new(Semaphore::new(parts.config.max_connections)),
            addresses: listener.connections_per_address.map(Slots::new),
            proxies: Arc::new(listener.proxies.clone()),
            ..Self::of_metrics(parts)
        }
    }

    /// For the listener for `/metrics`.
    pub(super) fn of_metrics(parts: &Parts) -> Self {
        Self {
            header_within: parts.config.header_within,
            connection_within: parts.config.listener.connection_within,
            tls: None,
            connections: Arc::new(Semaphore::new(METRICS_CONNECTIONS)),
            addresses: None,
            proxies: Arc::default(),
            traffic: Arc::clone(&parts.traffic),
        }
    }

    /// A slot for a connection from `address`, `None` for a trusted proxy, or an error when all slots are taken.
    fn place(&self, address: IpAddr) -> Result<Option<Slot<IpAddr>>, ()> {
        let Some(slots) = &self.addresses else { return Ok(None) };
        if self.proxies.trust(address) {
            return Ok(None);
        }
        let place = slots.take(metered(address));
        if place.is_none() {
            self.refuse("address", SocketAddr::new(address, 0));
        }
        place.map(Some).ok_or(())
    }

    /// How requests on a connection from `address` to `local` arrive.
    fn arrival(&self, address: SocketAddr, local: Option<IpAddr>, tls: bool) -> Arrival {
        if self.proxies.trust(address.ip()) {
            // A proxy may have terminated TLS: plain HTTP from it does not imply that the client used no TLS.
            return Arrival { local: None, secure: tls.then_some(true) };
        }
        Arrival { local, secure: Some(tls) }
    }

    fn refuse(&self, limit: &'static str, address: SocketAddr) {
        self.traffic.refused.count(limit);
        let so_far = self.traffic.refused.get(limit);
        // A flood of connections must not cause a flood of log lines.
        if so_far.is_power_of_two() {
            tracing::warn!(client = %address.ip().to_canonical(), limit, so_far, "connection dropped: too many connections");
        }
    }
}

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    router: Router,
    options: Options,
    stop: watch::Receiver<bool>,
) {
    // Signaling messages are small and rare: none should be delayed until the next.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let local = stream.local_addr().ok().map(|local| local.ip().to_canonical());
    let Some((acceptor, within)) = options.tls.clone() else {
        let arrival = options.arrival(address, local, false);
        return requests(stream, (address, arrival), router, options, stop).await;
    };
    let started = Instant::now();
    let result = match timeout(within, secure(stream, &acceptor)).await {
        Err(_) => "timeout",
        Ok(Err(error)) => {
            tracing::info!(client = %address.ip().to_canonical(), %error, "TLS handshake failed");
            "failed"
        }
        Ok(Ok(None)) => {
            tracing::info!(client = %address.ip().to_canonical(), "plain HTTP on the TLS port: answered 400");
            "plain-http"
        }
        Ok(Ok(Some(stream))) => {
            options.traffic.tls_handshake.observe(started.elapsed());
            options.traffic.tls.count("ok");
            let arrival = options.arrival(address, local, true);
            return requests(*stream, (address, arrival), router, options, stop).await;
        }
    };
    options.traffic.tls.count(result);
}

type Secured = Box<tokio_rustls::server::TlsStream<TcpStream>>;

/// Performs the TLS handshake; `None` for a plain HTTP request, which gets an error response.
async fn secure(mut stream: TcpStream, acceptor: &TlsAcceptor) -> io::Result<Option<Secured>> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if first[0] == TLS_HANDSHAKE || !first[0].is_ascii_alphabetic() {
        return Box::pin(acceptor.accept(stream)).await.map(|stream| Some(Box::new(stream)));
    }
    stream.write_all(SPEAK_TLS.as_bytes()).await?;
    stream.shutdown().await?;
    // Closing with unread data would reset the connection before the client has read the response.
    let mut rest = [0; 1024];
    while stream.read(&mut rest).await? > 0 {}
    Ok(None)
}

async fn requests(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    (address, arrival): (SocketAddr, Arrival),
    router: Router,
    options: Options,
    stop: watch::Receiver<bool>,
) {
    let within = Within { header: options.header_within, connection: options.connection_within };
    let (proxies, traffic) = (options.proxies, options.traffic);
    http::requests(stream, address, within, stop, move |request| {
        let from = (address, arrival);
        answer(router.clone(), from, Arc::clone(&proxies), Arc::clone(&traffic), request)
    })
    .await;
}

/// Answers one request, counts it and logs it: its route, but never its path or query, which may contain a token.
async fn answer(
    router: Router,
    (address, arrival): (SocketAddr, Arrival),
    proxies: Arc<Proxies>,
    traffic: Arc<Traffic>,
    request: hyper::Request<Incoming>,
) -> Result<Response, Infallible> {
    let started = Instant::now();
    let client = proxies.client(address, request.headers());
    let id = request_id(&request, proxies.trust(address.ip()));
    let route = Route::of(request.uri().path());
    let method = method(request.method());
    let mut request: Request = request.map(Body::new);
    request.extensions_mut().insert(ClientAddr(client));
    request.extensions_mut().insert(arrival);
    request.extensions_mut().insert(id.clone());
    let span = tracing::info_span!("request", request = &*id.0);
    let logged = span.clone();
    let mut response = router.oneshot(request).instrument(span).await?;
    if let Ok(id) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    let (status, took) = (response.status(), started.elapsed());
    traffic.answered(route, status, took);
    let _entered = logged.entered();
    let (status, ms) = (status.as_u16(), took.as_micros() as f64 / 1e3);
    tracing::info!(client = %client.ip().to_canonical(), method, route = route.name(), status, ms, "answered");
    Ok(response)
}

/// The id that a trusted proxy assigned to a request, or a new one.
fn request_id<B>(request: &hyper::Request<B>, trusted: bool) -> RequestId {
    let sane = |id: &&str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        (1..=64).contains(&id.len()) && id.chars().all(plain)
    };
    let given = request.headers().get(REQUEST_ID).filter(|_| trusted);
    let given = given.and_then(|id| id.to_str().ok()).filter(sane);
    RequestId(given.map_or_else(|| uuid::Uuid::new_v4().simple().to_string().into(), Into::into))
}

/// The name of a method, or `other` if no route uses it.
fn method(method: &hyper::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "POST" => "POST",
        "HEAD" => "HEAD",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}
