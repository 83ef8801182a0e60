//! The addresses of this machine, and their scope.

use super::{DoctorConfig, problem::Problem, report::Interface, scope::scope};

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
    fn vpns_are_recognized_by_name() {
        assert!(looks_like_vpn("utun3") && looks_like_vpn("wg0") && !looks_like_vpn("wlan0"));
    }
}
