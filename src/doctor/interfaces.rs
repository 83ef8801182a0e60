//! The addresses of this machine, and their scope.

use std::net::{IpAddr, Ipv4Addr};

use super::{DoctorConfig, problem::Problem, report::Interface};

/// Prefixes of the names of VPN interfaces.
const VPN_NAMES: [&str; 9] =
    ["tun", "tap", "utun", "wg", "ppp", "ipsec", "tailscale", "zt", "nordlynx"];

/// The addresses from which candidates may be gathered, loopback last.
pub(super) fn list(config: &DoctorConfig) -> Vec<Interface> {
    let mut all: Vec<Interface> = if_addrs::get_if_addrs()
        .unwrap_or_default()
        .into_iter()
        .filter(|found| config.interface.as_ref().is_none_or(|name| *name == found.name))
        .filter(|found| config.includes(found.ip()))
        .map(|found| Interface {
            address: found.ip(),
            scope: scope(found.ip()),
            vpn: looks_like_vpn(&found.name),
            name: found.name,
        })
        .collect();
    all.sort_by_key(|one| (one.scope == "loopback", one.scope == "link-local"));
    all
}

/// Warns if receive buffers are so small that packets of keyframes may be lost; `granted` is in bytes.
pub(super) fn small_buffer(granted: Option<usize>) -> Option<Problem> {
    let granted = granted?;
    let message = format!(
        "the socket receive buffer is only {} KB: it may overflow while a keyframe arrives",
        granted / 1000
    );
    let remedy = "run as root: sysctl -w net.core.rmem_max=4194304 (macOS: kern.ipc.maxsockbuf)";
    Some(Problem::error("small-receive-buffer", None, message, remedy).warning())
}

/// The scope of an address (RFC 6890).
pub(super) fn scope(ip: IpAddr) -> &'static str {
    match ip {
        ip if ip.is_loopback() => "loopback",
        IpAddr::V4(ip) if ip.is_link_local() => "link-local",
        IpAddr::V4(ip) if ip.is_private() => "private",
        IpAddr::V4(ip) if is_shared(ip) => "shared",
        IpAddr::V6(ip) if ip.is_unicast_link_local() => "link-local",
        IpAddr::V6(ip) if ip.is_unique_local() => "private",
        _ => "public",
    }
}

/// 100.64.0.0/10, between carriers' NATs and their customers (RFC 6598).
fn is_shared(ip: Ipv4Addr) -> bool {
    ip.octets()[0] == 100 && ip.octets()[1] & 0xC0 == 64
}

fn looks_like_vpn(name: &str) -> bool {
    VPN_NAMES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_buffer_results_in_a_warning() {
        assert_eq!(small_buffer(None), None);
        let problem = small_buffer(Some(163_840)).unwrap();
        assert!(problem.message.contains("163 KB") && problem.remedy.contains("rmem_max"));
    }

    #[test]
    fn addresses_have_a_scope() {
        for (ip, expected) in [
            ("127.0.0.9", "loopback"),
            ("::1", "loopback"),
            ("192.168.1.2", "private"),
            ("10.0.0.1", "private"),
            ("172.31.0.1", "private"),
            ("172.32.0.1", "public"),
            ("100.64.0.1", "shared"),
            ("100.127.255.255", "shared"),
            ("100.128.0.1", "public"),
            ("169.254.1.1", "link-local"),
            ("fe80::1", "link-local"),
            ("fd00::1", "private"),
            ("2001:db8::1", "public"),
            ("203.0.113.5", "public"),
        ] {
            assert_eq!(scope(ip.parse().unwrap()), expected, "{ip}");
        }
        assert!(looks_like_vpn("utun3") && looks_like_vpn("wg0") && !looks_like_vpn("wlan0"));
    }
}
