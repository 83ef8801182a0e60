//! What can go wrong with a lab of network namespaces.

use super::rules::Unsupported;

/// Why the kernel lab could not be had, or not do something.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Another operating system.
    #[error("network namespaces are Linux only, and this is {}", std::env::consts::OS)]
    NotLinux,
    /// A program that the lab needs is not installed.
    #[error("the kernel lab needs the program `{program}`, which is not here")]
    Missing {
        /// Its name.
        program: String,
    },
    /// The system lets this user make no namespaces.
    #[error("this system does not let us make network namespaces: {cause}")]
    NotAllowed {
        /// What `unshare` said.
        cause: String,
        /// Settings that are known to forbid it, as `name=value` that would allow it.
        settings: Vec<String>,
    },
    /// A NAT that netfilter cannot be.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// Two peers behind one NAT, with two NATs given.
    #[error("two peers behind the same NAT cannot be behind `{a}` and `{b}`")]
    TwoProfiles {
        /// Of the first peer.
        a: String,
        /// Of the second one.
        b: String,
    },
    /// More networks to move to than there are addresses for.
    #[error("at most {} networks to move to fit into one lab", super::topology::MOST_ELSEWHERE)]
    TooManyNetworks,
    /// A step of building the lab failed.
    #[error("cannot build the kernel lab: {step} in `{namespace}`: {cause}")]
    Build {
        /// What was being done.
        step: &'static str,
        /// Where.
        namespace: String,
        /// What the program said.
        cause: String,
    },
    /// A program inside the lab did not start, or ended too early.
    #[error("`{program}` did not start in the kernel lab: {cause}")]
    Start {
        /// The program.
        program: String,
        /// What it said last.
        cause: String,
    },
    /// A link's own program failed.
    #[error("the link between `{inner}` and `{outer}`: {operation}: {cause}")]
    Wire {
        /// Interface towards the peer.
        inner: String,
        /// Interface towards the internet.
        outer: String,
        /// What was being done.
        operation: &'static str,
        /// Why it failed.
        cause: String,
    },
}

impl KernelError {
    /// What to try.
    #[must_use]
    pub fn remedy(&self) -> String {
        const SIMULATED: &str = ", or use the simulated lab, without --kernel: it needs nothing";
        self.remedy_or(SIMULATED)
    }

    /// What to try where nothing else can take its place.
    #[must_use]
    pub fn own_remedy(&self) -> String {
        self.remedy_or("")
    }

    fn remedy_or(&self, simulated: &str) -> String {
        match self {
            Self::NotLinux if simulated.is_empty() => "run it on Linux".to_owned(),
            Self::NotLinux => "use the simulated lab, without --kernel".to_owned(),
            Self::Missing { program } => match package(program) {
                Some(package) => format!("install the package `{package}`{simulated}"),
                None => "check the name, and the PATH".to_owned(),
            },
            Self::NotAllowed { settings, .. } if settings.is_empty() => {
                format!("run it as root (in a container: with CAP_SYS_ADMIN){simulated}")
            }
            Self::NotAllowed { settings, .. } => {
                format!("as root: sysctl -w {}{simulated}", settings.join(" "))
            }
            Self::Unsupported(_) if simulated.is_empty() => "choose another NAT".to_owned(),
            Self::Unsupported(_) => {
                "use the simulated lab, without --kernel: it has every NAT".to_owned()
            }
            Self::TwoProfiles { .. } => "give one profile for both".to_owned(),
            Self::TooManyNetworks => "leave some out".to_owned(),
            Self::Build { step, .. } => format!(
                "check that this kernel has what that step needs ({}){simulated}",
                needs(step)
            ),
            Self::Start { .. } => "run the program by itself to see why".to_owned(),
            Self::Wire { .. } => "check that this kernel has packet sockets (af_packet)".to_owned(),
        }
    }
}

/// The Debian package that has a program.
fn package(program: &str) -> Option<&'static str> {
    Some(match program {
        "nft" => "nftables",
        "ip" => "iproute2",
        "unshare" | "nsenter" => "util-linux",
        "turnserver" => "coturn",
        _ => return None,
    })
}

/// Kernel modules behind a step of building.
fn needs(step: &str) -> &'static str {
    match step {
        "nft" => "nf_tables, nft_nat, nft_masq, nft_numgen, nft_hash, nf_conntrack",
        "signaling" => "nft_reject_inet, and CONFIG_INET_DIAG_DESTROY for `ss --kill`",
        "sysctl" => "nf_conntrack, and /proc/sys that can be written",
        _ => "veth, bridge",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_says_what_to_try() {
        let missing = |program: &str| KernelError::Missing { program: program.into() }.remedy();
        assert!(missing("nft").contains("`nftables`"));
        assert!(missing("ip").contains("`iproute2`"));
        assert!(missing("turnserver").contains("`coturn`"));
        let settings = vec!["kernel.unprivileged_userns_clone=1".to_owned()];
        let refused = KernelError::NotAllowed { cause: "no".into(), settings };
        assert!(refused.remedy().contains("sysctl -w kernel.unprivileged_userns_clone=1"));
        assert!(refused.remedy().contains("simulated lab"));
        let refused = KernelError::NotAllowed { cause: "no".into(), settings: Vec::new() };
        assert!(refused.remedy().contains("as root"));
    }
}
