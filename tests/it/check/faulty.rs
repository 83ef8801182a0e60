//! A small server that conforms to the contract except for one fault. Tokens and admission are here,
//! rooms in `room`.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use orion_peer::{auth::unix_now, check::wire::Stream};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{fault::Fault, room::Room};

/// Signs the server's tokens.
pub const SECRET: &str = "a secret of more than 32 bytes for tests";

/// Issuer and audience of the server's tokens.
pub const POLICY: [&str; 2] = ["faulty", "signal"];

/// Number of requests of a kind until one is answered with 429.
const REQUESTS: usize = 200;

/// Timings of the server, shorter than the contract's.
pub const PING_EVERY: Duration = Duration::from_secs(1);
pub const PONG_WITHIN: Duration = Duration::from_secs(1);
pub const GRACE_S: u64 = 1;
const HEADER_WITHIN: Duration = Duration::from_millis(500);

/// State shared by the connections of one server.
pub struct Shared {
    pub fault: Fault,
    /// Whether sockets are pinged.
    pub pings: bool,
    pub rooms: Mutex<HashMap<String, Room>>,
    pub revoked: AtomicBool,
    dir: PathBuf,
    /// Whether the next token request is answered with 503.
    outage: AtomicUsize,
    token_requests: AtomicUsize,
    handshakes: AtomicUsize,
    tokens: AtomicUsize,
}

/// A running server.
pub struct Faulty {
    pub addr: SocketAddr,
    /// Creating a file named `revoke` or `restart` here triggers it.
    pub dir: tempfile::TempDir,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Faulty {
    /// Starts a server with this fault.
    pub async fn start(fault: Fault, pings: bool, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let shared = Arc::new(Shared {
            fault,
            pings,
            rooms: Mutex::default(),
            revoked: AtomicBool::new(false),
            dir: dir.path().to_owned(),
            outage: AtomicUsize::new(0),
            token_requests: AtomicUsize::new(0),
            handshakes: AtomicUsize::new(0),
            tokens: AtomicUsize::new(0),
        });
        let watching = tokio::spawn(watch(Arc::clone(&shared)));
        let accepting = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let (shared, tls) = (Arc::clone(&shared), tls.clone());
                tokio::spawn(async move {
                    let _ = stream.set_nodelay(true);
                    let stream: Stream = match tls {
                        None => Box::new(stream),
                        Some(tls) => {
                            let patient = shared.fault == Fault::PatientTls;
                            let within = if patient { 100 * HEADER_WITHIN } else { HEADER_WITHIN };
                            let Ok(Ok(stream)) = timeout(within, tls.accept(stream)).await else {
                                return;
                            };
                            Box::new(stream)
                        }
                    };
                    serve(&shared, stream).await;
                });
            }
        });
        Self { addr, dir, tasks: vec![watching, accepting] }
    }
}

/// Polls for the files that trigger revocation and restart.
async fn watch(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let asked = |name: &str| std::fs::remove_file(shared.dir.join(name)).is_ok();
        if asked("restart") {
            let code = if shared.fault == Fault::RestartDrops { None } else { Some(1012) };
            shared.rooms.lock().unwrap().values_mut().for_each(|room| room.close_all(code));
        }
        if asked("revoke") {
            shared.revoked.store(true, Ordering::Relaxed);
            if shared.fault != Fault::RevocationUnnoticed {
                shared.rooms.lock().unwrap().values_mut().for_each(Room::revoke);
            }
        }
    }
}

/// A request.
struct Request {
    line: String,
    headers: HashMap<String, String>,
    body: String,
}

impl Request {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    fn bearer(&self) -> Option<&str> {
        self.header("authorization").strip_prefix("Bearer ")
    }
}

async fn read(stream: &mut Stream) -> Option<Request> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let mut lines = head.split("\r\n");
            let line = lines.next()?.to_owned();
            let headers: HashMap<_, _> = lines
                .filter_map(|line| line.split_once(": "))
                .map(|(key, value)| (key.to_lowercase(), value.to_owned()))
                .collect();
            let length = headers.get("content-length").and_then(|text| text.parse().ok());
            if let Some(body) = bytes.get(end + 4..end + 4 + length.unwrap_or(0)) {
                let body = String::from_utf8_lossy(body).into_owned();
                return Some(Request { line, headers, body });
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

async fn serve(shared: &Arc<Shared>, mut stream: Stream) {
    let patient = shared.fault == Fault::PatientHeader;
    let within = if patient { 100 * HEADER_WITHIN } else { 10 * HEADER_WITHIN };
    let Ok(Some(request)) = timeout(within, read(&mut stream)).await else { return };
    if request.line.starts_with("POST") {
        let (status, headers, body) = shared.token_answer(&request);
        let _ = stream.write_all(answer(status, &headers, &body).as_bytes()).await;
        let _ = stream.shutdown().await;
        return;
    }
    match shared.admit(&request) {
        Ok(claims) => {
            let _ = stream.write_all(shared.switching(&request).as_bytes()).await;
            super::room::run(Arc::clone(shared), stream, claims).await;
        }
        Err((status, headers)) => {
            let body = json!({"code": "refused", "message": "no"}).to_string();
            let _ = stream.write_all(answer(status, &headers, &body).as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    }
}

/// Counts a request; returns true and resets the count if it exceeds the limit.
fn too_many(counter: &AtomicUsize) -> bool {
    let many = counter.fetch_add(1, Ordering::Relaxed) >= REQUESTS;
    if many {
        counter.store(0, Ordering::Relaxed);
    }
    many
}

fn answer(status: u16, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status} X\r\n{headers}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

type Refusal = (u16, String);

impl Shared {
    pub fn has(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Relaxed)
    }

    fn limited(&self) -> String {
        if self.has(Fault::NoRetryAfter) { String::new() } else { "Retry-After: 1\r\n".into() }
    }

    // The token API.

    fn token_answer(&self, request: &Request) -> (u16, String, String) {
        let store = if self.has(Fault::Cached) { "" } else { "Cache-Control: no-store\r\n" };
        if too_many(&self.token_requests) {
            return (429, self.limited(), json!({"code": "429", "message": "later"}).to_string());
        }
        match self.grant(request) {
            Ok(body) => (200, store.into(), body.to_string()),
            Err((status, message)) => {
                let status = if self.has(Fault::Bare) { 418 } else { status };
                let body = json!({"code": "refused", "message": message});
                (status, store.into(), body.to_string())
            }
        }
    }

    fn logged_in(&self, login: Option<&str>) -> bool {
        let Some(login) = login else { return self.has(Fault::NoLoginNeeded) };
        let unsigned = || {
            let header = login.split('.').next().and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
            let header = header.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
            header.is_some_and(|header| header["alg"].as_str() == Some("none"))
        };
        login == "dev"
            || self.has(Fault::AnyLogin)
            || (self.has(Fault::UnsignedLogin) && unsigned())
    }

    /// Whether a request names a host other than the server.
    fn is_misdirected(&self, request: &Request) -> bool {
        !request.header("host").starts_with("127.0.0.1:") && !self.has(Fault::AnyHost)
    }

    fn grant(&self, request: &Request) -> Result<Value, (u16, &'static str)> {
        if self.is_misdirected(request) {
            return Err((421, "not here"));
        }
        if self.outage.swap(0, Ordering::Relaxed) > 0 {
            return Err((503, "the store is down"));
        }
        if self.has(Fault::ApiDown) {
            return Err((500, "down"));
        }
        if !self.logged_in(request.bearer()) {
            return Err((401, "log in"));
        }
        let malformed = (if self.has(Fault::Malformed422) { 422 } else { 400 }, "malformed");
        let body: Value = serde_json::from_str(&request.body).map_err(|_| malformed)?;
        let device = body["deviceId"].as_str().filter(|id| !id.is_empty()).ok_or(malformed)?;
        let ids = [device, body["pairId"].as_str().unwrap_or_default()];
        if ids.iter().any(|id| id.contains('\0')) && !self.has(Fault::NulIsUnknown) {
            self.outage.store(usize::from(self.has(Fault::NulIsOutage)), Ordering::Relaxed);
            return Err(malformed);
        }
        let home = if device.ends_with('2') { "p2" } else { "demo" };
        let known = ["phone", "mac", "phone2"].contains(&device);
        let pair = body["pairId"].as_str().unwrap_or(home);
        let message =
            if self.has(Fault::DistinguishesPairs) && pair != home { "unknown" } else { "no pair" };
        if !known && !self.has(Fault::ThirdDeviceGetsToken) {
            return Err((403, message));
        }
        if pair != home && !self.has(Fault::AnyPairGetsToken) {
            return Err((403, message));
        }
        if self.is_revoked() && pair == "demo" && !self.has(Fault::RevokedGetsToken) {
            return Err((403, message));
        }
        let named = body["pairId"] == "demo" && self.has(Fault::WrongNamedPair);
        Ok(self.token(device, if named { "p2" } else { pair }))
    }

    fn token(&self, device: &str, pair: &str) -> Value {
        let (now, number) = (unix_now(), self.tokens.fetch_add(1, Ordering::Relaxed));
        let life = if self.has(Fault::LongToken) { 301 } else { 300 };
        let jti = if self.has(Fault::SameJti) { 0 } else { number };
        let claims = json!({
            "sub": device, "pairId": pair, "iat": now, "exp": now + life, "jti": jti.to_string(),
            "iss": POLICY[0], "aud": POLICY[1],
        });
        let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let input = format!("{}.{}", encode(json!({"alg": "HS256", "kid": "k"})), encode(claims));
        let at = jiff::Timestamp::from_second((now + life) as i64).unwrap().to_string();
        let expires_in = if self.has(Fault::WrongExpiresIn) { 3600 } else { 300 };
        let mut turn = json!({"urls": ["turn:192.0.2.1"], "username": "u", "credential": "c"});
        if self.has(Fault::TurnWithoutCredential) {
            turn["credential"] = Value::Null;
        }
        json!({
            "token": format!("{input}.{}", signature(&input, Algorithm::HS256)),
            "expiresAt": at, "expiresIn": expires_in, "pairId": pair,
            "iceServers": [{"urls": "stun:192.0.2.1"}, turn],
        })
    }

    // The handshake.

    fn admit(&self, request: &Request) -> Result<Value, Refusal> {
        let refused = |status: u16| {
            let status = if self.has(Fault::Bare) { 418 } else { status };
            (status, String::new())
        };
        if !request.header("upgrade").eq_ignore_ascii_case("websocket") {
            let status = if self.has(Fault::NoUpgradeIs400) { 400 } else { 426 };
            return Err((status, "Upgrade: websocket\r\n".into()));
        }
        if self.is_misdirected(request) {
            return Err(refused(421));
        }
        if too_many(&self.handshakes) {
            return Err((429, self.limited()));
        }
        if !request.header("origin").is_empty() && !self.has(Fault::AnyOrigin) {
            return Err(refused(403));
        }
        let protocols = request.header("sec-websocket-protocol");
        let by_protocol = protocols
            .split(", ")
            .find_map(|one| one.strip_prefix("bearer."))
            .filter(|_| !self.has(Fault::NoSubprotocol));
        if request.line.contains("?token=") {
            return Err(refused(if self.has(Fault::QueryCrashes) { 500 } else { 401 }));
        }
        let phone = || json!({"sub": "phone", "pairId": "demo", "exp": unix_now() + 300});
        let Some(token) = request.bearer().or(by_protocol) else {
            return if self.has(Fault::NoTokenNeeded) { Ok(phone()) } else { Err(refused(401)) };
        };
        let Some(parts) = parts(token) else {
            return if self.has(Fault::GarbageLetIn) { Ok(phone()) } else { Err(refused(401)) };
        };
        let claims = self.verify(token, parts).ok_or_else(|| refused(401))?;
        let pair = claims["pairId"].as_str().unwrap_or_default();
        let devices: &[&str] = if pair == "p2" { &["phone2"] } else { &["phone", "mac"] };
        let sub = claims["sub"].as_str().unwrap_or_default();
        if !["demo", "p2"].contains(&pair) && !self.has(Fault::AnyPairLetIn) {
            return Err(refused(403));
        }
        if !devices.contains(&sub) && !self.has(Fault::ThirdDeviceLetIn) {
            return Err(refused(403));
        }
        if self.is_revoked() && pair == "demo" && !self.has(Fault::RevokedLetIn) {
            return Err(refused(403));
        }
        Ok(claims)
    }

    fn switching(&self, request: &Request) -> String {
        let key = request.header("sec-websocket-key");
        let key = if self.has(Fault::WrongAccept) { "wrong" } else { key };
        let protocols = request.header("sec-websocket-protocol");
        let echoed = match protocols {
            "" => String::new(),
            all if self.has(Fault::EchoesBearer) => format!("Sec-WebSocket-Protocol: {all}\r\n"),
            _ => "Sec-WebSocket-Protocol: orion.v1\r\n".into(),
        };
        format!(
            "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n{echoed}\r\n",
            derive_accept_key(key.as_bytes())
        )
    }

    /// The claims of a valid token.
    pub fn verify(&self, token: &str, (header, claims): (Value, Value)) -> Option<Value> {
        let (input, given) = token.rsplit_once('.')?;
        let algorithm = match header["alg"].as_str()? {
            "HS256" => Some(Algorithm::HS256),
            "HS384" if self.has(Fault::WrongAlg) => Some(Algorithm::HS384),
            none if none.eq_ignore_ascii_case("none") && self.has(Fault::AlgNone) => None,
            _ => return None,
        };
        let signed = algorithm.is_none_or(|algorithm| signature(input, algorithm) == given);
        if !signed && !self.has(Fault::Unverified) {
            return None;
        }
        let now = unix_now();
        let latest = now + 10;
        let has = |name: &str| claims.get(name).is_some();
        let life = if self.has(Fault::LongToken) { 301 } else { 300 };
        let number = |name: &str| claims[name].as_u64();
        let good = (has("exp") || self.has(Fault::ExpNotNeeded))
            && has("sub")
            && has("pairId")
            && (header.get("crit").is_none() || self.has(Fault::CritIgnored))
            && (number("exp").is_none_or(|exp| now < exp + 10) || self.has(Fault::ExpIgnored))
            && (number("nbf").is_none_or(|nbf| nbf <= latest) || self.has(Fault::NbfIgnored))
            && (number("iat").is_none_or(|iat| iat <= latest) || self.has(Fault::IatIgnored))
            && (number("exp").zip(number("iat")).is_none_or(|(exp, iat)| exp <= iat + life)
                || self.has(Fault::LifetimeIgnored))
            && ((claims["iss"] == POLICY[0] && claims["aud"] == POLICY[1])
                || self.has(Fault::PolicyIgnored));
        good.then_some(claims)
    }
}

fn signature(input: &str, algorithm: Algorithm) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    crypto::sign(input.as_bytes(), &key, algorithm).unwrap()
}

/// Header and claims of a token, unverified.
pub fn parts(token: &str) -> Option<(Value, Value)> {
    let part = |text: &str| {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        serde_json::from_slice::<Value>(&bytes).ok().filter(Value::is_object)
    };
    let mut parts = token.split('.');
    Some((part(parts.next()?)?, part(parts.next()?)?))
}
