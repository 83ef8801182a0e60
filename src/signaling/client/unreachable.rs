//! The remedy when no server answers at an address.

use url::Url;

use crate::types::is_loopback;

/// On loopback, suggests checking the server; elsewhere, also the network path. Names the server by host and port
/// only.
pub(in crate::signaling) fn remedy(url: &str) -> String {
    let Some(url) = Url::parse(url).ok().filter(Url::has_host) else {
        return "check the URL of the server".into();
    };
    let host = url.host_str().unwrap_or_default();
    let server =
        url.port_or_known_default().map_or(host.to_owned(), |port| format!("{host}:{port}"));
    if is_loopback(&url) {
        format!("check that `orion-peer serve` is running at {server}")
    } else {
        format!(
            "check host and port of {server}, that the server is running, and firewalls on the path"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_named_without_its_path() {
        let here = "check that `orion-peer serve` is running at 127.0.0.1:8787";
        assert_eq!(remedy("http://127.0.0.1:8787/api/auth/webrtc-token"), here);
        assert_eq!(remedy("ws://127.0.0.1:8787/api/signal?token=hush"), here);
        let without_port = "check that `orion-peer serve` is running at [::1]:80";
        assert_eq!(remedy("ws://[::1]/api/signal"), without_port);
        let elsewhere = remedy("https://signal.example/api/auth/webrtc-token");
        assert!(
            elsewhere.contains("signal.example:443") && !elsewhere.contains("orion-peer"),
            "{elsewhere}"
        );
        assert!(!elsewhere.contains("/api"), "{elsewhere}");
    }
}
