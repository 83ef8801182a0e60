//! The routes of the viewer page: events out, texts and requests in, pictures from the disk.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, Path, Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response, Sse, sse},
    routing::{get, post},
};
use futures_util::{Stream, stream};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, mpsc};

use super::{
    gate::Gate,
    hub::{Event, Hub, Watching},
};
use crate::{page, proto::token::ErrorBody};

/// Those who may watch at once.
const WATCHERS: u16 = 16;

/// Longest text, bytes: one message of the control channel.
const MAX_TEXT: usize = 16 * 1024;

/// Longest body of a request, bytes: a text in JSON.
const MAX_BODY: usize = 8 * MAX_TEXT;

/// Those who watch; a permit each.
#[derive(Clone)]
pub(super) struct Watchers(Arc<Semaphore>);

impl Default for Watchers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(WATCHERS.into())))
    }
}

impl Watchers {
    fn enter(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0).try_acquire_owned().ok()
    }

    /// When nobody watches; nobody can come any more.
    pub(super) async fn gone(&self) {
        // An error would be that it is closed already.
        let _ = self.0.acquire_many(WATCHERS.into()).await.map(SemaphorePermit::forget);
    }
}

/// What the routes share.
pub(super) struct Room {
    hub: Arc<Hub>,
    lines: mpsc::Sender<String>,
    gate: Gate,
    watchers: Watchers,
}

impl Room {
    pub(super) fn new(
        hub: Arc<Hub>,
        lines: mpsc::Sender<String>,
        gate: Gate,
        watchers: Watchers,
    ) -> Self {
        Self { hub, lines, gate, watchers }
    }
}

/// A refusal as JSON.
fn refused(status: StatusCode, code: &str, message: &str) -> Response {
    let body = ErrorBody { code: code.into(), message: message.into() };
    (status, Json(body)).into_response()
}

/// All routes.
pub(super) fn all(room: Arc<Room>) -> Router {
    page::routes()
        .route("/mode", get(async || Json(serde_json::json!({"mode": "recv"}))))
        .route("/events", get(events))
        .route("/frames/{seq}", get(picture))
        .route("/say", post(say))
        .route("/keyframe-request", post(keyframe_request))
        .fallback(async || refused(StatusCode::NOT_FOUND, "not-found", "the page is at /"))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(Arc::clone(&room), guard))
        .layer(middleware::from_fn(page::headers))
        .with_state(room)
}

/// Lets in who may look; takes the token out of the URL.
async fn guard(State(room): State<Arc<Room>>, request: Request, next: Next) -> Response {
    if let Some(cookie) = room.gate.cookie(request.uri())
        && let Ok(cookie) = HeaderValue::from_str(&cookie)
    {
        let headers =
            [(header::SET_COOKIE, cookie), (header::LOCATION, HeaderValue::from_static("/"))];
        return (StatusCode::SEE_OTHER, headers).into_response();
    }
    match room.gate.check(request.method(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err((status, code, message)) => refused(status, code, message),
    }
}

/// Everything as it happens.
async fn events(State(room): State<Arc<Room>>) -> Response {
    let Some(permit) = room.watchers.enter() else {
        let message = "too many pages watch already: close one";
        return refused(StatusCode::SERVICE_UNAVAILABLE, "too-many-watchers", message);
    };
    Sse::new(stream(room.hub.watch(), permit)).keep_alive(sse::KeepAlive::new()).into_response()
}

/// What there is, then what comes; ends for one who is too far behind, who then begins anew. After the end
/// it is up to the page to go: it fetches the last pictures first.
fn stream(
    watching: Watching,
    permit: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<sse::Event, Infallible>> {
    let Watching { before, next } = watching;
    let state = (before.into_iter(), next, false, permit);
    stream::unfold(state, |(mut before, mut next, over, permit)| async move {
        if over {
            return std::future::pending().await;
        }
        let Event { name, data } = match before.next() {
            Some(event) => event,
            None => next.recv().await.ok()?,
        };
        let event = sse::Event::default().event(name).data(data);
        Some((Ok(event), (before, next, name == "end", permit)))
    })
}

/// The picture of a keyframe, from the disk.
async fn picture(State(room): State<Arc<Room>>, Path(seq): Path<u64>) -> Response {
    let Some(path) = room.hub.picture(seq) else {
        return refused(StatusCode::NOT_FOUND, "no-picture", "there is no picture of that number");
    };
    let kind = match path.extension().and_then(|end| end.to_str()) {
        Some("png") => "image/png",
        _ => "image/jpeg",
    };
    match tokio::fs::read(&path).await {
        Ok(bytes) => {
            let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-store")];
            (headers, Body::from(bytes)).into_response()
        }
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "a picture cannot be shown");
            refused(StatusCode::GONE, "no-picture", "its file is gone")
        }
    }
}

/// Body of `say`.
#[derive(Debug, Deserialize)]
struct Say {
    text: String,
}

/// A text for the other side, as if typed.
async fn say(State(room): State<Arc<Room>>, Json(Say { text }): Json<Say>) -> Response {
    let text = text.trim();
    if text.is_empty() || text.len() > MAX_TEXT || text.contains(['\n', '\r']) {
        let message = "a text is one line of 1 byte to 16 KiB";
        return refused(StatusCode::BAD_REQUEST, "bad-text", message);
    }
    typed(&room, text.to_owned())
}

/// A keyframe now.
async fn keyframe_request(State(room): State<Arc<Room>>, _: Json<serde_json::Value>) -> Response {
    typed(&room, "/keyframe".to_owned())
}

fn typed(room: &Room, line: String) -> Response {
    if !room.hub.is_connected() {
        let message = "there is no connection to send it over";
        return refused(StatusCode::CONFLICT, "not-connected", message);
    }
    if room.lines.try_send(line).is_err() {
        let message = "too much waits to be sent already: try again";
        return refused(StatusCode::SERVICE_UNAVAILABLE, "busy", message);
    }
    StatusCode::NO_CONTENT.into_response()
}
