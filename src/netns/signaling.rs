//! Blocks one peer's connection to the signaling server and nothing else: its sockets to that port are
//! closed, with a reset to the server, and new ones are rejected. The token API uses the same port.

use super::{
    error::NetnsError,
    lab::{Lab, namespace, server::PORT},
    plan::Location,
};

/// The rules are installed first, otherwise the peer would reconnect before they apply. They let resets
/// pass, so that the server closes its socket, too.
fn off() -> String {
    format!(
        "set -e
nft -f - <<RULES
{NONE}
table inet signaling_off {{
    chain out {{
        type filter hook output priority filter
        tcp dport {PORT} tcp flags & rst == 0 reject with tcp reset
    }}
    chain back {{
        type filter hook input priority filter
        tcp sport {PORT} tcp flags & rst == 0 reject with tcp reset
    }}
}}
RULES
ss -Ktn dport = {PORT} >/dev/null
[ -z \"$(ss -Htn state established dport = {PORT})\" ] || {{
    echo the kernel did not close a socket >&2
    exit 1
}}
"
    )
}

/// Removes the table; it is added first, because `delete` fails if it does not exist.
const NONE: &str = "add table inet signaling_off\ndelete table inet signaling_off";

impl Lab {
    /// Resets a peer's connection to the signaling server, and rejects new ones until
    /// [`Self::signaling_on`], in whatever network the peer is.
    ///
    /// # Errors
    /// `nft` or `ss` failed, or this kernel cannot close sockets.
    pub fn signaling_off(&self, location: Location) -> Result<(), NetnsError> {
        self.signaling(location, &off())
    }

    /// Lets a peer connect to the signaling server again.
    ///
    /// # Errors
    /// `nft` failed.
    pub fn signaling_on(&self, location: Location) -> Result<(), NetnsError> {
        self.signaling(location, &format!("nft -f - <<RULES\n{NONE}\nRULES\n"))
    }

    fn signaling(&self, location: Location, script: &str) -> Result<(), NetnsError> {
        let name = namespace(location);
        self.holder.run("signaling", name, &["ip", "netns", "exec", name, "sh", "-s"], script)
    }
}
