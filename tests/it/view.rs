//! The page of `recv --view`: its events, its requests, and access control.

use std::time::Duration;

use reqwest::{Client, Method, Response, StatusCode};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::run::{HANG, Rig, Running, run};

struct Page {
    url: String,
    client: Client,
}

impl Page {
    fn of(recv: &Running) -> Self {
        // Fails if another test has already installed it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let url = recv.event("page", 1)["url"].as_str().unwrap().to_owned();
        Self { url, client: Client::builder().timeout(HANG).build().unwrap() }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Response {
        let mut request = self.client.request(method, format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(body.to_owned()).send().await.unwrap()
    }

    async fn get(&self, path: &str) -> Response {
        self.ask(Method::GET, path, &[], "").await
    }

    async fn post(&self, path: &str, body: &Value) -> Response {
        let json = [("content-type", "application/json")];
        self.ask(Method::POST, path, &json, &body.to_string()).await
    }
}

/// Events of a stream, in order of arrival.
struct Events {
    response: Response,
    text: String,
}

impl Events {
    /// The next event with this name.
    async fn next(&mut self, name: &str) -> Value {
        loop {
            while let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |key: &str| {
                    event.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().trim()
                };
                let (found, data) = (field("event:").to_owned(), field("data:").to_owned());
                self.text = String::from(rest);
                if found == name {
                    return serde_json::from_str(&data).unwrap();
                }
            }
            let chunk = self.response.chunk().await.unwrap();
            let chunk = chunk.unwrap_or_else(|| panic!("the stream ended before `{name}`"));
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_shown_and_requests_are_executed() {
    let rig = Rig::new();
    let recv = rig.recv("frames", &["--view", "127.0.0.1:0"]);
    let page = Page::of(&recv);
    let html = page.get("").await;
    let policy = html.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert!(html.text().await.unwrap().contains("main.js"));
    assert_eq!(page.get("mode").await.json::<Value>().await.unwrap()["mode"], "recv");
    let refused = page.post("say", &json!({"text": "too early"})).await;
    assert_eq!(refused.status(), StatusCode::CONFLICT);

    let mut events = Events { response: page.get("events").await, text: String::new() };
    let hello = events.next("hello").await;
    assert_eq!((&hello["role"], &hello["device"]), (&json!("recv"), &json!("mac")));
    let mut send = rig.send("pattern:320x240", &["--interval", "1h"]);
    let keyframe = events.next("keyframe").await;
    assert_eq!((&keyframe["seq"], &keyframe["verified"]), (&json!(1), &json!(true)));
    let picture = page.get(keyframe["url"].as_str().unwrap()).await;
    assert_eq!(picture.headers()["content-type"], "image/jpeg");
    let file = std::fs::read(rig.path("frames").join("000001.jpg")).unwrap();
    assert_eq!(picture.bytes().await.unwrap(), file);
    assert_eq!(page.get("frames/7").await.status(), StatusCode::NOT_FOUND);
    assert_eq!(page.get("frames/..%2f..%2fetc").await.status(), StatusCode::BAD_REQUEST);

    // The report with `connected` arrives within a second.
    loop {
        let report = events.next("report").await;
        if report["state"] == "connected" {
            assert_eq!(report["connectionType"], "host");
            break;
        }
    }
    assert_eq!(page.post("say", &json!({"text": "Grüße"})).await.status(), StatusCode::NO_CONTENT);
    assert_eq!(send.event("text", 1)["text"], "Grüße");
    send.type_line("hello page");
    assert_eq!(events.next("text").await["text"], "hello page");
    for wrong in [json!({"text": ""}), json!({"text": "a\nb"}), json!({"text": "x".repeat(20_000)})]
    {
        assert_eq!(page.post("say", &wrong).await.status(), StatusCode::BAD_REQUEST);
    }
    assert_eq!(page.post("keyframe-request", &json!({})).await.status(), StatusCode::NO_CONTENT);
    assert_eq!(events.next("keyframe").await["seq"], 2, "an hour early");

    // A viewer that joins later receives the same events.
    let mut later = Events { response: page.get("events").await, text: String::new() };
    later.next("hello").await;
    assert_eq!(later.next("keyframe").await["seq"], 1);
    recv.signal(Signal::INT);
    assert_eq!(events.next("end").await["reason"], "stopped");
    // The last pictures remain available until the viewers have left, also on new connections.
    let other = Page::of(&recv);
    assert_eq!(other.get("frames/2").await.status(), StatusCode::OK);
    drop((events, later, page, other));
    recv.end().well();
    send.signal(Signal::INT);
    send.end().well();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cross_origin_pages_are_rejected() {
    let rig = Rig::new();
    let recv = rig.recv("frames", &["--view", "127.0.0.1:0"]);
    let page = Page::of(&recv);
    for (headers, status) in [
        (&[("host", "evil.example")][..], StatusCode::MISDIRECTED_REQUEST),
        (&[("origin", "https://evil.example")], StatusCode::FORBIDDEN),
        (&[("sec-fetch-site", "cross-site")], StatusCode::FORBIDDEN),
    ] {
        for path in ["events", "mode", "frames/1"] {
            assert_eq!(
                page.ask(Method::GET, path, headers, "").await.status(),
                status,
                "{headers:?}"
            );
        }
        let json = [headers, &[("content-type", "application/json")]].concat();
        let answer = page.ask(Method::POST, "say", &json, r#"{"text":"x"}"#).await;
        assert_eq!(answer.status(), status, "{headers:?}");
    }
    let form = [("content-type", "text/plain")];
    let answer = page.ask(Method::POST, "say", &form, r#"{"text":"x"}"#).await;
    assert_eq!(answer.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE, "a form needs no preflight");
    // The number of viewers is limited, and one that leaves frees its place.
    let mut watching = Vec::new();
    for _ in 0..16 {
        watching.push(page.get("events").await);
    }
    assert_eq!(page.get("events").await.status(), StatusCode::SERVICE_UNAVAILABLE);
    watching.pop();
    let mut tries = 0;
    while page.get("events").await.status() != StatusCode::OK {
        tries += 1;
        assert!(tries < 200, "no place for another viewer");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    recv.signal(Signal::INT);
    recv.end().well();
}

/// Idle connections prevent neither `recv` from writing its files nor other clients from using the page.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_are_harmless() {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };
    let rig = Rig::new();
    let recv = rig.recv("frames", &["--view", "127.0.0.1:0"]);
    let page = Page::of(&recv);
    let address = page.url["http://".len()..].trim_end_matches('/').to_owned();
    let files = rustix::process::Resource::Nofile;
    let limit = rustix::process::Rlimit { current: Some(200), ..rustix::process::getrlimit(files) };
    let pid = rustix::process::Pid::from_raw(recv.pid() as i32);
    rustix::process::prlimit(pid, files, limit).unwrap();
    let send = rig.send("pattern:320x240", &[]);
    recv.event("keyframe", 1);
    let mut idle = Vec::new();
    for number in 0..600 {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        // Some send the start of a header and never finish it.
        if number % 2 == 0 {
            let _ = stream.write_all(b"GET /events HTTP/1.1\r\nHost: 127.0").await;
        }
        idle.push(stream);
    }
    let before = recv.events("keyframe").len();
    recv.event("keyframe", before + 10);
    // Some are closed immediately because there are too many, the others by a timeout.
    for stream in &mut idle {
        let closed = tokio::time::timeout(HANG, stream.read(&mut [0; 256])).await;
        assert!(!matches!(closed.expect("still open"), Ok(1..)), "nothing was requested");
    }
    assert_eq!(page.get("mode").await.status(), StatusCode::OK);
    // A connection with a completed request is not kept open forever either.
    let mut kept = TcpStream::connect(&address).await.unwrap();
    let request = format!("GET /mode HTTP/1.1\r\nHost: {address}\r\n\r\n");
    kept.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let closed = tokio::time::timeout(HANG, kept.read_to_end(&mut answer)).await;
    closed.expect("still open").unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    assert!(!recv.said_after(0, "Too many open files"), "the limits are below the system's");
    for running in [send, recv] {
        running.signal(Signal::INT);
        running.end().well();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_machines_need_a_token() {
    let rig = Rig::new();
    let recv = rig.recv("frames", &["--view", "0.0.0.0:0"]);
    let printed = recv.event("page", 1)["url"].as_str().unwrap().to_owned();
    let (base, token) = printed.split_once("?token=").unwrap();
    let mut page = Page::of(&recv);
    base.clone_into(&mut page.url);
    page.client = Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(HANG)
        .build()
        .unwrap();
    for path in ["", "mode", "events", "main.js", "?token=wrong"] {
        assert_eq!(page.get(path).await.status(), StatusCode::UNAUTHORIZED, "{path}");
    }
    let answer = page.get(&format!("?token={token}")).await;
    assert_eq!(
        (answer.status(), &answer.headers()["location"]),
        (StatusCode::SEE_OTHER, &"/".parse().unwrap())
    );
    let cookie = answer.headers()["set-cookie"].to_str().unwrap().to_owned();
    let cookie = cookie.split(';').next().unwrap();
    let answer = page.ask(Method::GET, "mode", &[("cookie", cookie)], "").await;
    assert_eq!(answer.status(), StatusCode::OK);
    recv.signal(Signal::INT);
    recv.end().well();
}

#[test]
fn invalid_view_options_are_reported_immediately() {
    let dir = tempfile::tempdir().unwrap();
    let ended = run(dir.path(), &["recv", "--json", "--view", "--format", "h264"]);
    assert!(ended.failed(2, "config")["message"].as_str().unwrap().contains("--format"));
    let ended = run(dir.path(), &["recv", "--json", "--view", "localhost"]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("IP:PORT"), "{}", ended.stderr);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended = run(dir.path(), &["recv", "--json", "--view", &address]);
    assert!(ended.failed(1, "output")["message"].as_str().unwrap().contains(&address));
}
