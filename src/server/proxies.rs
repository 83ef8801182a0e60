//! The client's address behind a proxy: `X-Forwarded-For`, or `Forwarded` (RFC 7239).
//!
//! A client may send both headers itself, so only entries appended by trusted proxies count: the list is
//! read from the right, and the first address that does not belong to a trusted proxy is the client. Only one
//! of the two headers is read, because a proxy that sets one forwards the other unchanged.

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;

use crate::turn::IpNet;

/// The header that trusted proxies set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProxyHeader {
    /// `X-Forwarded-For: client, proxy`
    #[default]
    XForwardedFor,
    /// `Forwarded: for=client, for=proxy`
    Forwarded,
}

/// The trusted proxies; none by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// Networks of the proxies.
    pub trusted: Vec<IpNet>,
    /// The header they set.
    pub header: ProxyHeader,
}

impl Proxies {
    /// Whether connections from `address` come from a trusted proxy.
    #[must_use]
    pub fn trust(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted.iter().any(|network| network.contains(address))
    }

    /// The address of the client behind a connection from `peer`.
    #[must_use]
    pub fn client(&self, peer: SocketAddr, headers: &HeaderMap) -> SocketAddr {
        if !self.trust(peer.ip()) {
            return peer;
        }
        let name = match self.header {
            ProxyHeader::XForwardedFor => "x-forwarded-for",
            ProxyHeader::Forwarded => "forwarded",
        };
        let lines: Vec<&str> =
            headers.get_all(name).iter().filter_map(|line| line.to_str().ok()).collect();
        let mut client = peer;
        for item in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
            let named = match self.header {
                ProxyHeader::XForwardedFor => address(item),
                ProxyHeader::Forwarded => forwarded_for(item),
            };
            // An entry that is not an address ends the list: the proxy that wrote it counts as the client.
            let Some(named) = named else { break };
            client = named;
            if !self.trust(named.ip()) {
                break;
            }
        }
        client
    }
}

/// `for=` of one element of `Forwarded`.
fn forwarded_for(element: &str) -> Option<SocketAddr> {
    element.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then(|| address(value.trim().trim_matches('"')))?
    })
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:80`.
fn address(text: &str) -> Option<SocketAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse::<IpAddr>()
        .map(|ip| SocketAddr::new(ip, 0))
        .or_else(|_| text.parse::<SocketAddr>())
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(header: ProxyHeader, peer: &str, lines: &[&str]) -> String {
        let trusted = ["10.0.0.0/8", "2001:db8:a::/48"].map(|net| net.parse().unwrap()).to_vec();
        let proxies = Proxies { trusted, header };
        let mut headers = HeaderMap::new();
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap();
            let name: axum::http::HeaderName = name.parse().unwrap();
            headers.append(name, value.parse().unwrap());
        }
        proxies.client(peer.parse().unwrap(), &headers).ip().to_string()
    }

    #[test]
    fn the_first_address_from_the_right_that_is_not_a_proxy_is_the_client() {
        use ProxyHeader::{Forwarded, XForwardedFor};
        for (header, peer, lines, expected) in [
            // Headers from any other client are ignored.
            (XForwardedFor, "192.0.2.9:1", &["X-Forwarded-For: 198.51.100.1"][..], "192.0.2.9"),
            (XForwardedFor, "10.0.0.1:1", &["X-Forwarded-For: 198.51.100.1"], "198.51.100.1"),
            // The client wrote the left part itself.
            (
                XForwardedFor,
                "10.0.0.1:1",
                &["X-Forwarded-For: 1.2.3.4, 198.51.100.1"],
                "198.51.100.1",
            ),
            (
                XForwardedFor,
                "10.0.0.1:1",
                &["X-Forwarded-For: 1.2.3.4", "X-Forwarded-For: 198.51.100.1, 10.9.9.9"],
                "198.51.100.1",
            ),
            (
                XForwardedFor,
                "[::ffff:10.0.0.1]:1",
                &["X-Forwarded-For: 198.51.100.1"],
                "198.51.100.1",
            ),
            (XForwardedFor, "10.0.0.1:1", &["X-Forwarded-For: 198.51.100.1:443"], "198.51.100.1"),
            (XForwardedFor, "10.0.0.1:1", &["X-Forwarded-For: 1.2.3.4, unknown"], "10.0.0.1"),
            (XForwardedFor, "10.0.0.1:1", &["X-Forwarded-For: 10.0.0.7"], "10.0.0.7"),
            (XForwardedFor, "10.0.0.1:1", &[], "10.0.0.1"),
            // The other header is not read.
            (XForwardedFor, "10.0.0.1:1", &["Forwarded: for=1.2.3.4"], "10.0.0.1"),
            (Forwarded, "10.0.0.1:1", &["X-Forwarded-For: 1.2.3.4"], "10.0.0.1"),
            (
                Forwarded,
                "10.0.0.1:1",
                &["Forwarded: for=1.2.3.4, For=\"[2001:db8:b::1]:4711\";proto=https, for=10.2.3.4"],
                "2001:db8:b::1",
            ),
            (
                Forwarded,
                "[2001:db8:a::1]:1",
                &["Forwarded: for=1.2.3.4, for=_hidden"],
                "2001:db8:a::1",
            ),
        ] {
            assert_eq!(client(header, peer, lines), expected, "{peer} {lines:?}");
        }
    }
}
