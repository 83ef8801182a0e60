//! The web page: static files in this directory, shared by `recv --view` and `serve`.
//!
//! | file | contents |
//! |---|---|
//! | `index.html`, `style.css` | the page |
//! | `main.js` | fetches `mode` and starts the matching source |
//! | `view.js`, `plot.js` | the display |
//! | `recv.js` | source: the events of a receiver ([`crate::view`]) |
//! | `pair.js` | source: this browser as the phone or the Mac; the join form and its session |
//! | `signaling.js`, `call.js`, `control.js` | the wire contract: socket, peer connection, control messages |
//! | `pictures.js`, `stats.js` | sent and received pictures, and a summary of getStats |
//!
//! `host` checks whether a request names this machine.

mod host;

pub use self::host::{host_address, is_loopback_host};

use axum::{
    Router,
    extract::Request,
    http::{HeaderName, HeaderValue, header},
    middleware::Next,
    response::Response,
    routing::get,
};

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Path, content type and text of each file.
const FILES: [(&str, &str, &str); 12] = [
    ("/", "text/html; charset=utf-8", include_str!("index.html")),
    ("/style.css", "text/css; charset=utf-8", include_str!("style.css")),
    ("/call.js", SCRIPT, include_str!("call.js")),
    ("/control.js", SCRIPT, include_str!("control.js")),
    ("/main.js", SCRIPT, include_str!("main.js")),
    ("/pair.js", SCRIPT, include_str!("pair.js")),
    ("/pictures.js", SCRIPT, include_str!("pictures.js")),
    ("/plot.js", SCRIPT, include_str!("plot.js")),
    ("/recv.js", SCRIPT, include_str!("recv.js")),
    ("/signaling.js", SCRIPT, include_str!("signaling.js")),
    ("/stats.js", SCRIPT, include_str!("stats.js")),
    ("/view.js", SCRIPT, include_str!("view.js")),
];

/// Security headers: nothing from other origins, nothing inline, no frames, no access for other origins (CSP level 3;
/// Fetch §3.7).
const HEADERS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; \
         media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// The routes of the files.
pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.into_iter().fold(Router::new(), |router, (path, kind, text)| {
        let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")];
        router.route(path, get(async move || (headers, text)))
    })
}

/// Adds the security headers to a response.
pub async fn headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
