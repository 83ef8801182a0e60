//! `POST /api/auth/webrtc-token`: takes a login token and a device id, and returns a signaling JWT and ICE
//! servers.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    Json,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use super::{Parts, ServerConfig, TokenRates, TurnAdvert, listener::ListenerConfig};
use crate::{
    auth::{login::LoginError, turn_rest, unix_now},
    pairs::{Pair, StoreError},
    proto::token::{ErrorBody, IceServer, TokenAnswer, TokenRequest},
    signaling::{
        server::counters::Family,
        server::handshake::bearer,
        server::limits::{KeyedRate, metered},
        server::origin,
        server::tap::Visit,
        server::{Arrival, ClientAddr},
    },
    stun::uri::is_turn,
    types::{DeviceId, PairId, check_id},
};

/// State of the token API.
pub(super) struct TokenApi {
    addresses: Option<KeyedRate<IpAddr>>,
    users: Option<KeyedRate<String>>,
    /// Responses by status.
    pub answers: Family,
}

impl TokenApi {
    pub(super) fn new(rates: Option<TokenRates>) -> Self {
        Self {
            addresses: rates.map(|rates| KeyedRate::new(rates.per_address)),
            users: rates.map(|rates| KeyedRate::new(rates.per_user)),
            answers: Family::new(&["200", "400", "401", "403", "429", "503", "other"]),
        }
    }
}

/// An error response.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
    retry_after: Option<Duration>,
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after: None }
    }

    fn malformed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed", message)
    }

    fn unavailable(code: &'static str, message: &str) -> Self {
        let refusal = Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message);
        Self { retry_after: Some(Duration::from_secs(2)), ..refusal }
    }

    fn too_often(who: &str, wait: Duration) -> Self {
        let message = format!("too many token requests by this {who}");
        let refusal = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate-limited", message);
        Self { retry_after: Some(wait), ..refusal }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        tracing::warn!(%error, "token request failed");
        if !error.is_outage() {
            return Self::malformed("the pair store rejected this deviceId or pairId");
        }
        Self::unavailable("store-down", "the pair store is not available; try again")
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = ErrorBody { code: self.code.to_owned(), message: self.message };
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(after) = self.retry_after {
            let seconds = after.as_secs_f64().ceil().max(1.0) as u64;
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// How long a browser may cache the preflight response, seconds: two hours, Chromium's maximum.
const PREFLIGHT_LIFE: &str = "7200";

/// The origin of a request, if pages of that origin may open a signaling socket.
fn page_of(parts: &Parts, request: &Request) -> Option<HeaderValue> {
    let origin = request.headers().get(header::ORIGIN)?.clone();
    let arrival = request.extensions().get();
    origin::may_connect(&parts.config.signaling, request.headers(), arrival).then_some(origin)
}

/// Lets a page that may open a signaling socket read the response (Fetch standard, §3.3 HTTP CORS protocol).
fn share(page: Option<HeaderValue>, response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = page {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        // Without these a page cannot see how long to wait.
        let exposed = HeaderValue::from_static("Retry-After, Date");
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
}

/// Handles the preflight request that a browser sends before a page may send its login token.
pub(super) async fn preflight(State(parts): State<Arc<Parts>>, request: Request) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    share(page_of(&parts, &request), &mut response);
    let headers = response.headers_mut();
    if headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN) {
        for (name, value) in [
            (header::ACCESS_CONTROL_ALLOW_METHODS, "POST"),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-type"),
            (header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_LIFE),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
    response
}

/// Handles `POST /api/auth/webrtc-token`.
pub(super) async fn answer(State(parts): State<Arc<Parts>>, request: Request) -> Response {
    let page = page_of(&parts, &request);
    let client = request.extensions().get().map(ClientAddr::ip);
    let mut response = match grant(&parts, request).await {
        Ok(answer) => Json(answer).into_response(),
        Err(refusal) => {
            parts.config.signaling.tap.show(|| Visit::Refused {
                code: refusal.code,
                message: refusal.message.clone(),
                client,
            });
            refusal.into_response()
        }
    };
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    share(page, &mut response);
    parts.tokens.answers.count(response.status().as_str());
    response
}

async fn grant(parts: &Parts, request: Request) -> Result<TokenAnswer, Refusal> {
    let (head, body) = request.into_parts();
    if let (Some(rate), Some(ClientAddr(address))) =
        (&parts.tokens.addresses, head.extensions.get())
    {
        rate.take(&metered(address.ip())).map_err(|wait| Refusal::too_often("address", wait))?;
    }
    let now = unix_now();
    let user = user(parts, &head.headers, now).await?;
    if let Some(rate) = &parts.tokens.users {
        rate.take(&user).map_err(|wait| Refusal::too_often("user", wait))?;
    }
    let wanted = read(body, &parts.config.listener).await?;
    let pair = choose_pair(parts, &user, &wanted).await?;
    let device = wanted.device_id;
    let life = parts.config.token_ttl_s;
    let minted = parts.config.verifier.mint(device.clone(), pair.id.clone(), now, life);
    let (token, claims) = minted.map_err(|error| {
        tracing::warn!(%error, "token request failed");
        Refusal::unavailable("cannot-sign", "the server cannot sign tokens now")
    })?;
    tracing::info!(pair = %pair.id, %device, "token issued");
    let local = head.extensions.get::<Arrival>().and_then(|arrival| arrival.local);
    Ok(TokenAnswer {
        token,
        expires_at: rfc3339(claims.exp),
        expires_in: life,
        ice_servers: ice_servers(&parts.config, (&device, &pair.id), local, now),
        pair_id: pair.id,
    })
}

/// The id of the user who sent the request.
async fn user(parts: &Parts, headers: &HeaderMap, now: u64) -> Result<String, Refusal> {
    let refused =
        |message: String| Refusal::new(StatusCode::UNAUTHORIZED, "login-required", message);
    let token = headers.get(header::AUTHORIZATION).and_then(bearer).ok_or_else(|| {
        refused("the header `Authorization: Bearer <login token>` is missing".into())
    })?;
    let login =
        parts.config.login.as_ref().ok_or_else(|| {
            Refusal::unavailable("login-down", "this server accepts no login tokens")
        })?;
    login.user(token, now).await.map_err(|error| match error {
        LoginError::Refused(reason) => refused(format!("the login token was rejected: {reason}")),
        LoginError::Unavailable(cause) => {
            tracing::warn!(cause, "token request failed");
            Refusal::unavailable("login-down", "the login service is not available; try again")
        }
    })
}

async fn read(body: Body, listener: &ListenerConfig) -> Result<TokenRequest, Refusal> {
    let bytes = tokio::time::timeout(listener.body_within, to_bytes(body, listener.max_body))
        .await
        .map_err(|_| Refusal::malformed("the body did not arrive in time"))?
        .map_err(|_| {
            let max = listener.max_body;
            Refusal::malformed(format!("the body is truncated or exceeds {max} bytes"))
        })?;
    let request: TokenRequest = serde_json::from_slice(&bytes).map_err(|error| {
        Refusal::malformed(format!("the body is not a valid token request: {error}"))
    })?;
    let ids = [
        ("deviceId", Some(request.device_id.as_str())),
        ("pairId", request.pair_id.as_ref().map(PairId::as_str)),
    ];
    for (name, id) in ids {
        id.map_or(Ok(()), check_id).map_err(|error| {
            Refusal::malformed(format!("the {name} is not a valid id: {error}"))
        })?;
    }
    Ok(request)
}

/// The requested pair, or the only active pair of this user and device. The error is the same for an unknown
/// pair, another user's pair and a pair without this device.
async fn choose_pair(parts: &Parts, user: &str, wanted: &TokenRequest) -> Result<Pair, Refusal> {
    let (store, meter) = (&parts.config.store, &parts.signaling.counters().store);
    let device = &wanted.device_id;
    let forbidden = || {
        let message = "this user has no active pair with this id and device";
        Refusal::new(StatusCode::FORBIDDEN, "no-pair", message)
    };
    let Some(id) = &wanted.pair_id else {
        let mut pairs = meter.watch(store.pairs_of(user, device)).await?;
        return match (pairs.pop(), pairs.is_empty()) {
            (Some(only), true) => Ok(only),
            (Some(_), false) => Err(Refusal::malformed(
                "this device has several active pairs: add a pairId to the request",
            )),
            (None, _) => Err(forbidden()),
        };
    };
    let pair = meter.watch(store.active_pair(id)).await?;
    pair.filter(|pair| pair.user_id == user && pair.role(device).is_some()).ok_or_else(forbidden)
}

/// The static servers, then STUN, then TURN with credentials for the device of a pair, then Twilio's servers.
/// `local` is the address of this machine that the client connected to.
fn ice_servers(
    config: &ServerConfig,
    (device, pair): (&DeviceId, &PairId),
    local: Option<IpAddr>,
    now: u64,
) -> Vec<IceServer> {
    let mut servers = config.ice_servers.clone();
    if let Some(turn) = &config.turn {
        servers.extend(turn_servers(turn, (device, pair), local, now));
    }
    if let Some(twilio) = &config.twilio {
        servers.extend(twilio.servers(now));
    }
    servers
}

fn turn_servers(
    turn: &TurnAdvert,
    (device, pair): (&DeviceId, &PairId),
    local: Option<IpAddr>,
    now: u64,
) -> Vec<IceServer> {
    let mut servers = Vec::new();
    let (stun, relay): (Vec<String>, Vec<String>) =
        turn.urls_at(local).into_iter().partition(|url| !is_turn(url));
    if !stun.is_empty() {
        servers.push(IceServer { urls: stun, username: None, credential: None });
    }
    if !relay.is_empty() {
        let expires_at = now + turn.ttl.as_secs();
        let device = device.as_str();
        let id = if turn.names_pair {
            turn_rest::id_of(device, pair.as_str())
        } else {
            device.to_owned()
        };
        let made = turn.secrets().mint(&id, expires_at);
        servers.push(IceServer {
            urls: relay,
            username: Some(made.username),
            credential: Some(made.password),
        });
    }
    servers
}

fn rfc3339(seconds: u64) -> String {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
        .map_or_else(|| seconds.to_string(), |instant| instant.to_string())
}

impl TokenApi {
    /// Forgets addresses and users without recent requests.
    pub(super) fn forget_idle(&self) {
        if let Some(addresses) = &self.addresses {
            addresses.forget_idle();
        }
        if let Some(users) = &self.users {
            users.forget_idle();
        }
    }
}
