//! The routes of the page: events, text messages, keyframe requests and pictures.

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
    access::AccessControl,
    hub::{Hub, Subscription, ViewerEvent},
};
use crate::{page, proto::token::ErrorBody};

/// Maximum number of concurrent viewers.
const MAX_VIEWERS: u16 = 16;

/// Maximum length of a text message in bytes: one message of the control channel.
const MAX_TEXT: usize = 16 * 1024;

/// Maximum length of a request body in bytes: a text message in JSON.
const MAX_BODY: usize = 8 * MAX_TEXT;

/// Permits for viewers, one each.
#[derive(Clone)]
pub(super) struct ViewerPermits(Arc<Semaphore>);

impl Default for ViewerPermits {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_VIEWERS.into())))
    }
}

impl ViewerPermits {
    fn acquire(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0).try_acquire_owned().ok()
    }

    /// Waits until all viewers have disconnected, and admits no more.
    pub(super) async fn all_returned(&self) {
        // Acquiring fails only if the semaphore is already closed.
        let _ = self.0.acquire_many(MAX_VIEWERS.into()).await.map(SemaphorePermit::forget);
    }
}

/// State shared by the routes.
pub(super) struct ViewerState {
    hub: Arc<Hub>,
    lines: mpsc::Sender<String>,
    access: AccessControl,
    viewers: ViewerPermits,
}

impl ViewerState {
    pub(super) fn new(
        hub: Arc<Hub>,
        lines: mpsc::Sender<String>,
        access: AccessControl,
        viewers: ViewerPermits,
    ) -> Self {
        Self { hub, lines, access, viewers }
    }
}

/// An error response with a JSON body.
fn rejected(status: StatusCode, code: &str, message: &str) -> Response {
    let body = ErrorBody { code: code.into(), message: message.into() };
    (status, Json(body)).into_response()
}

/// All routes.
pub(super) fn all(state: Arc<ViewerState>) -> Router {
    page::routes()
        .route("/mode", get(async || Json(serde_json::json!({"mode": "recv"}))))
        .route("/events", get(events))
        .route("/frames/{seq}", get(picture))
        .route("/say", post(say))
        .route("/keyframe-request", post(keyframe_request))
        .fallback(async || {
            rejected(StatusCode::NOT_FOUND, "not-found", "not found; the page is at /")
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(Arc::clone(&state), guard))
        .layer(middleware::from_fn(page::headers))
        .with_state(state)
}

/// Enforces access control; moves the token from the URL to a cookie.
async fn guard(State(state): State<Arc<ViewerState>>, request: Request, next: Next) -> Response {
    if let Some(cookie) = state.access.cookie(request.uri())
        && let Ok(cookie) = HeaderValue::from_str(&cookie)
    {
        let headers =
            [(header::SET_COOKIE, cookie), (header::LOCATION, HeaderValue::from_static("/"))];
        return (StatusCode::SEE_OTHER, headers).into_response();
    }
    match state.access.check(request.method(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err((status, code, message)) => rejected(status, code, message),
    }
}

/// Streams events.
async fn events(State(state): State<Arc<ViewerState>>) -> Response {
    let Some(permit) = state.viewers.acquire() else {
        let message = "too many viewers: close another page";
        return rejected(StatusCode::SERVICE_UNAVAILABLE, "too-many-watchers", message);
    };
    Sse::new(stream(state.hub.subscribe(), permit))
        .keep_alive(sse::KeepAlive::new())
        .into_response()
}

/// Past events, then further ones. Ends for a viewer that lags too far behind, which then reconnects. After the end
/// event the page closes the stream, once it has fetched the last pictures.
fn stream(
    subscription: Subscription,
    permit: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<sse::Event, Infallible>> {
    let Subscription { before, next } = subscription;
    let state = (before.into_iter(), next, false, permit);
    stream::unfold(state, |(mut before, mut next, over, permit)| async move {
        if over {
            return std::future::pending().await;
        }
        let ViewerEvent { name, data } = match before.next() {
            Some(event) => event,
            None => next.recv().await.ok()?,
        };
        let event = sse::Event::default().event(name).data(data);
        Some((Ok(event), (before, next, name == "end", permit)))
    })
}

/// Sends the picture of a keyframe from disk.
async fn picture(State(state): State<Arc<ViewerState>>, Path(seq): Path<u64>) -> Response {
    let Some(path) = state.hub.picture(seq) else {
        return rejected(StatusCode::NOT_FOUND, "no-picture", "no picture with this number");
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
            tracing::warn!(%error, path = %path.display(), "cannot read a picture");
            rejected(StatusCode::GONE, "no-picture", "its file no longer exists")
        }
    }
}

/// Request body of `say`.
#[derive(Debug, Deserialize)]
struct Say {
    text: String,
}

/// Sends a text message to the peer, as if typed.
async fn say(State(state): State<Arc<ViewerState>>, Json(Say { text }): Json<Say>) -> Response {
    let text = text.trim();
    if text.is_empty() || text.len() > MAX_TEXT || text.contains(['\n', '\r']) {
        let message = "a text message must be one line of 1 byte to 16 KiB";
        return rejected(StatusCode::BAD_REQUEST, "bad-text", message);
    }
    typed(&state, text.to_owned())
}

/// Requests a keyframe.
async fn keyframe_request(
    State(state): State<Arc<ViewerState>>,
    _: Json<serde_json::Value>,
) -> Response {
    typed(&state, "/keyframe".to_owned())
}

fn typed(state: &ViewerState, line: String) -> Response {
    if !state.hub.is_connected() {
        let message = "not connected to a peer";
        return rejected(StatusCode::CONFLICT, "not-connected", message);
    }
    if state.lines.try_send(line).is_err() {
        let message = "too many queued messages: try again";
        return rejected(StatusCode::SERVICE_UNAVAILABLE, "busy", message);
    }
    StatusCode::NO_CONTENT.into_response()
}
