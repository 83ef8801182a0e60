//! Host names of pages on this machine. With DNS rebinding, a foreign name resolves to this machine, and for a browser
//! it is the same origin as the pages here; only the `Host` of a request (RFC 9110 §7.2) reveals it.

use std::net::IpAddr;

/// The name or address in a `Host`, without brackets and port; `None` if the port is not a number.
fn name(host: &str) -> Option<&str> {
    if let Some(bracketed) = host.strip_prefix('[') {
        let (address, port) = bracketed.split_once(']')?;
        return (port.is_empty() || is_port(port.strip_prefix(':')?)).then_some(address);
    }
    match host.split_once(':') {
        Some((name, port)) => is_port(port).then_some(name),
        None => Some(host),
    }
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The IP address in a `Host`, if it is one.
#[must_use]
pub fn host_address(host: &str) -> Option<IpAddr> {
    name(host)?.parse().ok().map(|ip: IpAddr| ip.to_canonical())
}

/// Whether a `Host` is loopback: a loopback address, `localhost` or a name under it (RFC 6761 §6.3), with any port,
/// because ports may be forwarded.
#[must_use]
pub fn is_loopback_host(host: &str) -> bool {
    if let Some(address) = host_address(host) {
        return address.is_loopback();
    }
    let name = name(host).unwrap_or_default().to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_loopback() {
        for host in [
            "localhost",
            "LOCALHOST:8787",
            "app.localhost:1",
            "127.0.0.1",
            "127.0.0.1:8787",
            "127.9.9.9:80",
            "[::1]",
            "[::1]:8787",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert!(is_loopback_host(host), "{host}");
        }
        for host in [
            "",
            ":8787",
            "evil.example:8787",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "evillocalhost",
            "localhost:80:80",
            "localhost:evil",
            "evil.example:127.0.0.1",
            "[::1]evil.example",
            "[::1",
            "0.0.0.0:8787",
            "192.0.2.1:8787",
            "[2001:db8::1]",
            "user@localhost",
        ] {
            assert!(!is_loopback_host(host), "{host}");
        }
    }

    #[test]
    fn addresses_are_read_with_and_without_a_port() {
        let address = |host: &str| host_address(host).map(|ip| ip.to_string());
        assert_eq!(address("192.0.2.1:80").as_deref(), Some("192.0.2.1"));
        assert_eq!(address("[2001:db8::1]:80").as_deref(), Some("2001:db8::1"));
        assert_eq!(address("example.org:80"), None);
    }
}
