//! Errors of a lab in network namespaces.

use super::rules::Unsupported;

/// Why a kernel lab cannot be created or used.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// Another operating system.
    #[error("network namespaces require Linux, this is {}", std::env::consts::OS)]
    NotLinux,
    /// A required program is not installed.
    #[error("the kernel lab requires the program `{program}`, which is not installed")]
    Missing {
        /// Name of the program.
        program: String,
    },
    /// The system does not permit this user to create namespaces.
    #[error("cannot create network namespaces: {cause}")]
    NotAllowed {
        /// Error output of `unshare`.
        cause: String,
        /// Settings that forbid it, as `name=value` with the value that would permit it.
        settings: Vec<String>,
    },
    /// A NAT that netfilter cannot implement.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// Two peers share a NAT, but two NATs are given.
    #[error("two peers that share a NAT cannot be behind `{a}` and `{b}`")]
    TwoProfiles {
        /// NAT of the first peer.
        a: String,
        /// NAT of the second peer.
        b: String,
    },
    /// More networks to move to than a lab has addresses for.
    #[error("a lab supports at most {} networks to move to", super::plan::MAX_OTHER_NETWORKS)]
    TooManyNetworks,
    /// A step of building the lab failed.
    #[error("cannot build the kernel lab: {step} in `{namespace}`: {cause}")]
    Build {
        /// Step that failed.
        step: &'static str,
        /// Namespace in which it failed.
        namespace: String,
        /// Error output of the program.
        cause: String,
    },
    /// A program inside the lab did not start, or exited early.
    #[error("`{program}` did not start in the kernel lab: {cause}")]
    Start {
        /// Name of the program.
        program: String,
        /// Its last output.
        cause: String,
    },
    /// The program that emulates a link failed.
    #[error("link between `{inner}` and `{outer}`: cannot {operation}: {cause}")]
    Wire {
        /// Interface toward the peer.
        inner: String,
        /// Interface toward the internet.
        outer: String,
        /// Operation that failed.
        operation: &'static str,
        /// Cause of the failure.
        cause: String,
    },
}

impl NetnsError {
    /// How to fix it.
    #[must_use]
    pub fn remedy(&self) -> String {
        const SIMULATED: &str =
            ", or use the simulated lab (without --kernel), which has no requirements";
        self.remedy_or(SIMULATED)
    }

    /// How to fix it where the simulated lab is not an alternative.
    #[must_use]
    pub fn kernel_only_remedy(&self) -> String {
        self.remedy_or("")
    }

    fn remedy_or(&self, simulated: &str) -> String {
        match self {
            Self::NotLinux if simulated.is_empty() => "run it on Linux".to_owned(),
            Self::NotLinux => "use the simulated lab (without --kernel)".to_owned(),
            Self::Missing { program } => match package(program) {
                Some(package) => format!("install the package `{package}`{simulated}"),
                None => "check the program name and PATH".to_owned(),
            },
            Self::NotAllowed { settings, .. } if settings.is_empty() => {
                format!("run it as root (in a container: with CAP_SYS_ADMIN){simulated}")
            }
            Self::NotAllowed { settings, .. } => {
                format!("as root: sysctl -w {}{simulated}", settings.join(" "))
            }
            Self::Unsupported(_) if simulated.is_empty() => "choose another NAT".to_owned(),
            Self::Unsupported(_) => {
                "use the simulated lab (without --kernel), which supports every NAT".to_owned()
            }
            Self::TwoProfiles { .. } => "use one profile for both".to_owned(),
            Self::TooManyNetworks => "use fewer networks".to_owned(),
            Self::Build { step, .. } => {
                format!("check that this kernel supports {}{simulated}", needs(step))
            }
            Self::Start { .. } => "run the program outside the lab to see its error".to_owned(),
            Self::Wire { .. } => {
                "check that this kernel supports packet sockets (af_packet)".to_owned()
            }
        }
    }
}

/// Debian package of a program.
fn package(program: &str) -> Option<&'static str> {
    Some(match program {
        "nft" => "nftables",
        "ip" => "iproute2",
        "unshare" | "nsenter" => "util-linux",
        "turnserver" => "coturn",
        _ => return None,
    })
}

/// Kernel features required by a build step.
fn needs(step: &str) -> &'static str {
    match step {
        "nft" => "nf_tables, nft_nat, nft_masq, nft_numgen, nft_hash, nf_conntrack",
        "signaling" => "nft_reject_inet and CONFIG_INET_DIAG_DESTROY for `ss --kill`",
        "sysctl" => "nf_conntrack and a writable /proc/sys",
        _ => "veth, bridge",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_a_remedy() {
        let missing = |program: &str| NetnsError::Missing { program: program.into() }.remedy();
        assert!(missing("nft").contains("`nftables`"));
        assert!(missing("ip").contains("`iproute2`"));
        assert!(missing("turnserver").contains("`coturn`"));
        let settings = vec!["kernel.unprivileged_userns_clone=1".to_owned()];
        let refused = NetnsError::NotAllowed { cause: "no".into(), settings };
        assert!(refused.remedy().contains("sysctl -w kernel.unprivileged_userns_clone=1"));
        assert!(refused.remedy().contains("simulated lab"));
        let refused = NetnsError::NotAllowed { cause: "no".into(), settings: Vec::new() };
        assert!(refused.remedy().contains("as root"));
    }
}
