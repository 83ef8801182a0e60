//! One peer's connection to the signaling server goes away while all else stays: its sockets to that port
//! are ended, with a reset to the server, and new ones are refused. The token API has the same port.

use super::{
    error::KernelError,
    lab::{Lab, namespace},
    plan::Place,
    server::PORT,
};

/// The rules first, or the peer is back before they are there. They let resets pass: the server has to
/// learn of the end, too.
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
    echo the kernel does not end a socket >&2
    exit 1
}}
"
    )
}

/// `delete` fails where there is none.
const NONE: &str = "add table inet signaling_off\ndelete table inet signaling_off";

impl Lab {
    /// Resets a peer's connection to the signaling server, and refuses new ones until
    /// [`Self::signaling_on`]. It holds in whatever network the peer is.
    ///
    /// # Errors
    /// `nft` or `ss` failed, or this kernel cannot end a socket.
    pub fn signaling_off(&self, place: Place) -> Result<(), KernelError> {
        self.signaling(place, &off())
    }

    /// Lets a peer connect to the signaling server again.
    ///
    /// # Errors
    /// `nft` failed.
    pub fn signaling_on(&self, place: Place) -> Result<(), KernelError> {
        self.signaling(place, &format!("nft -f - <<RULES\n{NONE}\nRULES\n"))
    }

    fn signaling(&self, place: Place, script: &str) -> Result<(), KernelError> {
        let name = namespace(place);
        self.holder.run("signaling", name, &["ip", "netns", "exec", name, "sh", "-s"], script)
    }
}
