//! Connects to a signaling server through the proxy named by the environment, with `CONNECT` (RFC 9110 §9.3.6).
//!
//! The variables are the same as for curl and for the token client: `HTTPS_PROXY` for `wss:`, `HTTP_PROXY` for
//! `ws:`, `ALL_PROXY` for both, and `NO_PROXY` for servers reached directly. Loopback is always reached directly.

use std::sync::LazyLock;

use hyper_util::client::proxy::matcher::Matcher;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::tungstenite::http::Uri;
use url::Url;

use super::{error::ClientError, redact::redacted};
use crate::{text::printable, types::is_loopback};

/// Maximum size of a proxy's response header, bytes.
const MAX_ANSWER: usize = 8 * 1024;

/// A proxy to connect through.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Proxy {
    pub(super) host: String,
    pub(super) port: u16,
    /// Value of `Proxy-Authorization`.
    login: Option<String>,
}

/// The proxy for a server, from the environment.
pub(super) fn proxy_of(url: &Url) -> Result<Option<Proxy>, ClientError> {
    static ENVIRONMENT: LazyLock<Matcher> = LazyLock::new(Matcher::from_env);
    if is_loopback(url) { Ok(None) } else { chosen(url, &ENVIRONMENT) }
}

fn chosen(url: &Url, matcher: &Matcher) -> Result<Option<Proxy>, ClientError> {
    // The variables are defined for HTTP schemes only.
    let http = url.as_str().replacen("ws", "http", 1);
    let Ok(target) = http.parse::<Uri>() else { return Ok(None) };
    let Some(found) = matcher.intercept(&target) else { return Ok(None) };
    let uri = found.uri();
    let (scheme, host) = (uri.scheme_str().unwrap_or("http"), uri.host().unwrap_or_default());
    if scheme != "http" {
        return Err(ClientError::Proxy {
            proxy: format!("{scheme}://{host}"),
            reason: format!("`{scheme}` proxies are not supported"),
        });
    }
    let login = found.basic_auth().and_then(|value| value.to_str().ok()).map(str::to_owned);
    let host = host.trim_matches(['[', ']']).to_owned();
    Ok(Some(Proxy { host, port: uri.port_u16().unwrap_or(80), login }))
}

impl Proxy {
    /// Host and port for messages, without the login.
    pub(super) fn shown(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// Asks the proxy to connect the stream to the server.
    pub(super) async fn tunnel(
        &self,
        stream: &mut TcpStream,
        url: &Url,
    ) -> Result<(), ClientError> {
        let failed = |reason: String| ClientError::Proxy { proxy: self.shown(), reason };
        let target = format!(
            "{}:{}",
            url.host_str().unwrap_or_default(),
            url.port_or_known_default().unwrap_or(80)
        );
        let login = self.login.as_ref().map(|login| format!("Proxy-Authorization: {login}\r\n"));
        let request = format!(
            "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{}\r\n",
            login.unwrap_or_default()
        );
        stream.write_all(request.as_bytes()).await.map_err(|error| failed(error.to_string()))?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() >= MAX_ANSWER {
                return Err(failed("the response is too long".into()));
            }
            // Byte by byte, because the data after the response comes from the server.
            let byte = stream.read_u8().await.map_err(|_| failed(answered(&answer)))?;
            answer.push(byte);
        }
        let status = String::from_utf8_lossy(&answer);
        let status = status.lines().next().unwrap_or_default();
        let code = status.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1));
        if code.is_some_and(|code| code.len() == 3 && code.starts_with('2')) {
            return Ok(());
        }
        Err(failed(format!("cannot connect to {}: {}", redacted(url), printable(status))))
    }
}

fn answered(answer: &[u8]) -> String {
    if answer.is_empty() {
        "the proxy closed the connection without a response".into()
    } else {
        "the proxy closed the connection in the middle of its response".into()
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn the_environment_selects_the_proxy_of_a_server() {
        let matcher = Matcher::builder()
            .http("http://u:hush@proxy.example:3128")
            .https("http://[2001:db8::1]:8080")
            .no("direct.example,192.0.2.0/24")
            .build();
        let shown = |text| chosen(&url(text), &matcher).unwrap().map(|proxy| proxy.shown());
        assert_eq!(shown("ws://s.example/x").as_deref(), Some("proxy.example:3128"));
        assert_eq!(shown("wss://s.example/x").as_deref(), Some("[2001:db8::1]:8080"));
        for direct in ["ws://direct.example", "wss://a.direct.example", "ws://192.0.2.7:1"] {
            assert_eq!(shown(direct), None, "{direct}");
        }
        let socks = Matcher::builder().all("socks5://u:hush@p:1").build();
        let Err(error) = chosen(&url("ws://s.example"), &socks) else { panic!() };
        let words = error.to_string();
        assert!(words.contains("socks5") && !words.contains("hush"), "{words}");
    }

    /// The result of `tunnel` when the proxy responds with `answer`, the request, and the data that follows.
    async fn answered_with(answer: &'static [u8]) -> (Result<(), ClientError>, String, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let proxy = Proxy { host: "p".into(), port: 1, login: Some("Basic aHVzaA==".into()) };
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(answer).await.unwrap();
            String::from_utf8(request).unwrap()
        };
        let client = async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let result = proxy.tunnel(&mut stream, &url("wss://[2001:db8::7]/x?t=hush")).await;
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            (result, rest)
        };
        let (request, (result, rest)) = tokio::join!(server, client);
        (result, request, rest)
    }

    #[tokio::test]
    async fn the_request_to_the_proxy_is_connect() {
        let (result, request, rest) =
            answered_with(b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\nserver").await;
        assert!(result.is_ok(), "{result:?}");
        assert_eq!(
            request,
            "CONNECT [2001:db8::7]:443 HTTP/1.1\r\nHost: [2001:db8::7]:443\r\n\
             Proxy-Authorization: Basic aHVzaA==\r\n\r\n"
        );
        assert_eq!(rest, b"server", "the data after the response comes from the server");
    }

    #[tokio::test]
    async fn errors_name_the_proxy() {
        for (answer, words) in [
            (&b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"[..], "407"),
            (b"HTTP/1.0 403 Forbidden\r\n\r\n", "403"),
            (b"SSH-2.0-x\r\n\r\n", "SSH"),
            (b"", "without a response"),
            (b"HTTP/1.1 200", "middle"),
        ] {
            let error = answered_with(answer).await.0.unwrap_err();
            let message = error.to_string();
            assert!(message.contains(words) && message.contains("p:1"), "{message}");
            assert!(!message.contains("hush"), "{message}");
            assert_eq!(error.code(), "proxy-failed");
        }
    }
}
