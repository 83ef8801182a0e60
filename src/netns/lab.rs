//! A running lab.

pub mod coturn;
pub mod server;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{BufRead, BufReader, Write as _},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use self::{
    coturn::{Coturn, CoturnOptions},
    server::{LabServer, ServerOptions},
};
use super::{
    error::NetnsError,
    holder::{Holder, not_started, require},
    plan::{LabPlan, Location},
    rules::{firewall6, rules},
    topology::{Attachment, GATEWAY, INTERNET, Namespace, Topology, Wire},
};
use crate::nat::{Layer, LinkSettings};

/// Waits for new interfaces: they drop packets until the kernel has detected the carrier, which it does in
/// the background.
const WAIT_FOR_LINKS: &str = r#"
for _ in $(seq 200); do
    waiting=
    for name in /run/netns/*; do
        waiting=$waiting$(ip -n "${name##*/}" -br link show | grep -v -e '^lo ' -e '^br0 ' -e ' UP ')
    done
    [ -n "$waiting" ] || exit 0
    sleep 0.02
done
echo "these interfaces stay down: $waiting" >&2
exit 1
"#;

/// First of the internet addresses given to machines later.
const LATER_ADDRESSES: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 20);

/// Two peers behind their NATs, and an internet with servers. It is torn down when this is dropped, and
/// when this process ends.
pub struct Lab {
    pub(super) holder: Holder,
    orion_peer: PathBuf,
    /// The processes that emulate the links, with the peer of each.
    wires: Vec<(usize, Child)>,
    /// The networks of A and B, the index of the current one, and their addresses in it.
    attachments: [Vec<Attachment>; 2],
    at: [usize; 2],
    peers: [Ipv4Addr; 2],
    /// Number of addresses given since the start.
    given: u32,
    /// IPv6 configuration that machines lose when they get another address.
    wan6: BTreeMap<String, String>,
    has_v6: bool,
}

impl Lab {
    /// Builds the lab; blocks the calling thread for a few tenths of a second.
    ///
    /// # Errors
    /// Not Linux, namespaces not permitted, a program or kernel feature missing, or a NAT that netfilter
    /// cannot implement.
    pub fn start(plan: &LabPlan) -> Result<Self, NetnsError> {
        let topology = Topology::new(plan)?;
        if !cfg!(target_os = "linux") {
            return Err(NetnsError::NotLinux);
        }
        for program in ["unshare", "nsenter", "ip", "nft"] {
            require(program)?;
        }
        let orion_peer = match &plan.orion_peer {
            Some(path) => path.clone(),
            None => std::env::current_exe().map_err(|error| not_started("orion-peer", &error))?,
        };
        let holder = Holder::start(plan.user_namespace)?;
        holder.run("ip", "all", &["ip", "-batch", "-"], &topology.create)?;
        configure(&holder, &topology.namespaces)?;
        holder.run("links", "all", &["sh", "-s"], WAIT_FOR_LINKS)?;
        holder.run("ip", INTERNET, &["ip", "-n", INTERNET, "-batch", "-"], &topology.bridge)?;
        let peers = [topology.attachments[0][0].address, topology.attachments[1][0].address];
        let (wires, attachments, at) = (Vec::new(), topology.attachments, [0, 0]);
        let (wan6, has_v6) = (topology.wan6, plan.has_v6());
        let mut lab =
            Self { holder, orion_peer, wires, attachments, at, peers, given: 0, wan6, has_v6 };
        for (index, wire) in topology.wires.iter().enumerate() {
            let child = lab.start_wire(wire, plan.seed.wrapping_add(index as u64))?;
            lab.wires.push((wire.peer, child));
        }
        Ok(lab)
    }

    /// A command for a program at a location in the lab. It runs as a child of this process, with its own
    /// exit code and this process's working directory and environment. It is killed when the lab ends.
    #[must_use]
    pub fn command(&self, location: Location, program: &str) -> Command {
        self.holder.command(namespace(location), program)
    }

    /// Like [`Self::command`], but as the user who started the lab instead of root inside, for programs that
    /// refuse to run as root, such as browsers.
    #[must_use]
    pub fn command_as_user(&self, location: Location, program: &str) -> Command {
        self.holder.command_as_user(namespace(location), program)
    }

    /// `orion-peer` itself at a location in the lab.
    #[must_use]
    pub fn orion_peer(&self, location: Location) -> Command {
        self.command(location, &self.orion_peer.to_string_lossy())
    }

    /// A program on the machine of layer `layer` (0 is next to the peer) of A's or B's profile.
    #[must_use]
    pub fn command_at_layer(&self, location: Location, layer: usize, program: &str) -> Command {
        self.holder.command(&self.router(location, layer), program)
    }

    /// A file in memory that disappears with the lab; programs inside find it at the same path. `SQLite` and
    /// other programs that resolve symbolic links themselves would use a file of the host instead.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.holder.file(name)
    }

    /// The path of the same file for the lab's servers.
    pub(super) fn own_file(name: &str) -> PathBuf {
        Holder::own_file(name)
    }

    /// The peer's own address; a private one behind a NAT.
    #[must_use]
    pub fn address(&self, location: Location) -> Ipv4Addr {
        match location {
            Location::A => self.peers[0],
            Location::B => self.peers[1],
            Location::Internet => super::SERVER,
        }
    }

    /// Changes the links of a peer, in every network; requires a lab planned with `changing`.
    ///
    /// # Errors
    /// The program of a link has exited.
    pub fn set_link(&mut self, location: Location, link: &LinkSettings) -> Result<(), NetnsError> {
        let peer = location.peer();
        for (_, wire) in self.wires.iter_mut().filter(|(of, _)| *of == peer) {
            let Some(stdin) = &mut wire.stdin else { continue };
            writeln!(stdin, "{}", words(link)).map_err(|error| NetnsError::Start {
                program: "orion-peer lab wire".to_owned(),
                cause: format!("it has exited: {error}"),
            })?;
        }
        Ok(())
    }

    /// Disconnects a peer from its network: it has no address until it is connected again.
    ///
    /// # Errors
    /// The interface could not be configured.
    pub fn unplug(&self, location: Location) -> Result<(), NetnsError> {
        self.ip(namespace(location), &self.attachment(location).leave())
    }

    /// Reconnects a peer to the network it was disconnected from.
    ///
    /// # Errors
    /// The interface could not be configured.
    pub fn plug(&self, location: Location) -> Result<(), NetnsError> {
        self.ip(namespace(location), &self.attachment(location).arrive(self.address(location)))
    }

    /// Moves a peer to another network: 0 is home, the others are those of the plan.
    ///
    /// # Errors
    /// The interfaces could not be configured.
    pub fn move_to(&mut self, location: Location, network: usize) -> Result<(), NetnsError> {
        let from = self.attachment(location).leave();
        let peer = location.peer();
        self.at[peer] = network;
        self.peers[peer] = self.attachment(location).address;
        self.ip(namespace(location), &(from + &self.attachment(location).arrive(self.peers[peer])))
    }

    /// Gives a peer another address in its current network.
    ///
    /// # Errors
    /// The interface could not be configured.
    pub fn renumber(&mut self, location: Location) -> Result<(), NetnsError> {
        let peer = location.peer();
        let attachment = &mut self.attachments[peer][self.at[peer]];
        let address = attachment.another(self.given);
        let text =
            format!("addr flush dev {}\n{}", attachment.interface, attachment.arrive(address));
        self.given += 1;
        self.peers[peer] = address;
        self.ip(namespace(location), &text)
    }

    /// Replaces the machine next to a peer with a new one that has another internet address and no state.
    ///
    /// # Errors
    /// Netfilter cannot implement the NAT, or it could not be configured.
    pub fn replace_nat(&mut self, location: Location, layer: &Layer) -> Result<(), NetnsError> {
        let name = self.router(location, 0);
        let address = Ipv4Addr::from_bits(LATER_ADDRESSES.to_bits() + self.given % 200);
        let mac = format!("02:00:00:00:04:{:02x}", self.given % 200);
        self.given += 1;
        let rules = rules(layer, address)?;
        let leave = format!("addr flush dev wan\nlink set wan down\nlink set wan address {mac}\n");
        self.ip(&name, &leave)?;
        let wan6 = self.wan6.get(&name).map_or("", String::as_str);
        let v6 = if wan6.is_empty() { String::new() } else { firewall6(layer) };
        let nft = format!("flush ruleset\n{}{v6}", rules.loadable());
        self.holder.run("nft", &name, &["ip", "netns", "exec", &name, "nft", "-f", "-"], &nft)?;
        let arrive = format!(
            "link set wan up\naddr add {address}/24 dev wan\nroute replace default via {GATEWAY}\n{wan6}"
        );
        self.ip(&name, &arrive)
    }

    pub(super) fn attachment(&self, location: Location) -> &Attachment {
        let peer = location.peer();
        &self.attachments[peer][self.at[peer]]
    }

    /// Name of the machine of that layer in front of a peer, in its current network.
    fn router(&self, location: Location, layer: usize) -> String {
        format!("{}{}", self.attachment(location).letter, layer + 1)
    }

    fn ip(&self, name: &str, batch: &str) -> Result<(), NetnsError> {
        self.holder.run("ip", name, &["ip", "-n", name, "-batch", "-"], batch)
    }

    /// Whether any network of the lab has IPv6.
    #[must_use]
    pub fn has_v6(&self) -> bool {
        self.has_v6
    }

    /// Starts coturn on both server addresses, and waits until it is listening.
    ///
    /// # Errors
    /// It is not installed, or does not start.
    pub fn coturn(&self, options: &CoturnOptions) -> Result<Coturn, NetnsError> {
        require("turnserver")?;
        Coturn::start(self, options)
    }

    /// Starts `orion-peer serve` on the internet, and waits until it is listening.
    ///
    /// # Errors
    /// It does not start.
    pub fn serve(&self) -> Result<LabServer, NetnsError> {
        LabServer::start(self, ServerOptions::default())
    }

    /// Like [`Self::serve`], with shorter lifetimes of tokens or credentials.
    ///
    /// # Errors
    /// It does not start.
    pub fn serve_with(&self, options: ServerOptions) -> Result<LabServer, NetnsError> {
        LabServer::start(self, options)
    }

    /// `orion-peer` at a location in the lab, without the environment variables and settings of the user.
    #[must_use]
    pub fn isolated_orion_peer(&self, location: Location) -> Command {
        self.own(namespace(location))
    }

    /// Ends all processes in the lab, and waits until they have exited. Dropping it does the same.
    pub fn stop(self) {
        drop(self);
    }

    /// `orion-peer` on the internet, with access to the files of [`Self::own_file`].
    pub(super) fn server_command(&self) -> Command {
        let program = self.orion_peer.to_string_lossy();
        let command = self.holder.own_command(INTERNET, &program);
        without_settings(command, &Holder::own_file(""))
    }

    /// coturn on the internet, with access to the same files.
    pub(super) fn coturn_command(&self) -> Command {
        self.holder.own_command(INTERNET, "turnserver")
    }

    /// `orion-peer` as started by the lab itself, without the user's environment variables.
    pub(super) fn own(&self, namespace: &str) -> Command {
        let command = self.holder.command(namespace, &self.orion_peer.to_string_lossy());
        without_settings(command, &self.holder.file(""))
    }

    fn start_wire(&self, wire: &Wire, seed: u64) -> Result<Child, NetnsError> {
        let mut command = self.own(&wire.namespace);
        command.args(["lab", "wire", "inner", "outer", &seed.to_string()]);
        command.args(words(&wire.link).split(' '));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| not_started("nsenter", &error))?;
        match first_line(&mut child) {
            Some(line) if line == "ready" => Ok(child),
            _ => {
                let cause = last_words(child);
                Err(NetnsError::Start { program: "orion-peer lab wire".to_owned(), cause })
            }
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.holder.stop();
        for (_, wire) in &mut self.wires {
            // Usually the process has already exited.
            let _ = wire.kill();
            let _ = wire.wait();
        }
    }
}

/// Without the environment variables and settings of the user; temporary files disappear with the lab.
fn without_settings(mut command: Command, temporary: &Path) -> Command {
    command.args(["--config", "/dev/null"]).current_dir("/").env("TMPDIR", temporary);
    let names = std::env::vars_os().map(|(name, _)| name);
    for name in names.filter(|name| name.to_string_lossy().starts_with("ORION_")) {
        command.env_remove(name);
    }
    command
}

/// Link properties as arguments of `lab wire`, and as a line of its standard input.
fn words(link: &LinkSettings) -> String {
    let LinkSettings { loss, loss_burst, .. } = link;
    let (delay, jitter) = (link.delay.as_nanos(), link.jitter.as_nanos());
    let rate = link.rate.unwrap_or(0);
    let queue = link.queue.map_or(0, |queue| queue.bytes(rate));
    format!("{loss} {loss_burst} {delay} {jitter} {rate} {queue}")
}

pub(super) fn namespace(location: Location) -> &'static str {
    match location {
        Location::A => "a",
        Location::B => "b",
        Location::Internet => INTERNET,
    }
}

/// Configures all namespaces concurrently, because each needs three programs.
fn configure(holder: &Holder, namespaces: &[Namespace]) -> Result<(), NetnsError> {
    thread::scope(|scope| {
        let all: Vec<_> = namespaces
            .iter()
            .map(|namespace| scope.spawn(move || configure_one(holder, namespace)))
            .collect();
        all.into_iter()
            .try_for_each(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn configure_one(holder: &Holder, namespace: &Namespace) -> Result<(), NetnsError> {
    let name = namespace.name.as_str();
    if let Some(nft) = &namespace.nft {
        holder.run("nft", name, &["ip", "netns", "exec", name, "nft", "-f", "-"], nft)?;
    }
    let mut script = String::from("set -e\n");
    for (file, value) in &namespace.sysctls {
        let path = format!("/proc/sys/{file}");
        // A kernel without IPv6 has nothing to disable.
        let guard = if file.starts_with("net/ipv6") {
            format!("[ ! -e {path} ] || ")
        } else {
            String::new()
        };
        let _ = writeln!(script, "{guard}echo {value} >{path}");
    }
    holder.run("sysctl", name, &["ip", "netns", "exec", name, "sh", "-s"], &script)?;
    holder.run("ip", name, &["ip", "-n", name, "-batch", "-"], &namespace.ip)
}

/// Reads only the first line of a child's standard output, because another reader reads the rest.
pub(super) fn first_line(child: &mut Child) -> Option<String> {
    let mut line = String::new();
    BufReader::with_capacity(1, child.stdout.as_mut()?).read_line(&mut line).ok()?;
    Some(line.trim().to_owned())
}

/// Ends a child that failed, and returns its last output.
pub(super) fn last_words(mut child: Child) -> String {
    let _ = child.kill();
    match child.wait_with_output() {
        Ok(output) => {
            let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            if stderr.is_empty() { output.status.to_string() } else { stderr }
        }
        Err(error) => error.to_string(),
    }
}
