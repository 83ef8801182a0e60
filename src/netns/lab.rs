//! A lab that runs.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{BufRead, BufReader, Write as _},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use super::{
    coturn::{Coturn, CoturnOptions},
    error::KernelError,
    holder::{Holder, not_started, require},
    plan::{LabPlan, Place},
    rules::{firewall6, rules},
    server::{LabServer, ServerOptions},
    topology::{GATEWAY, INTERNET, Namespace, Spot, Topology, Wire},
};
use crate::nat::{Layer, Link};

/// A new interface drops what is sent until the kernel has seen its cable, which it looks for in the
/// background.
const WAIT_FOR_LINKS: &str = r#"
for _ in $(seq 200); do
    waiting=
    for name in /run/netns/*; do
        waiting=$waiting$(ip -n "${name##*/}" -br link show | grep -v -e '^lo ' -e '^br0 ' -e ' UP ')
    done
    [ -n "$waiting" ] || exit 0
    sleep 0.02
done
echo "these stay down: $waiting" >&2
exit 1
"#;

/// Addresses on the internet that are given to machines later, from this one on.
const LATER_ADDRESSES: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 20);

/// Two peers behind their NATs, and an internet with servers. It is gone when this is dropped, and when
/// this process is gone.
pub struct Lab {
    pub(super) holder: Holder,
    orion_peer: PathBuf,
    /// The programs that are the links, with the peer each is of.
    wires: Vec<(usize, Child)>,
    /// Where A and B can be, where they are, and their addresses there.
    spots: [Vec<Spot>; 2],
    at: [usize; 2],
    peers: [Ipv4Addr; 2],
    /// Addresses given since the start.
    given: u32,
    /// What machines lose of IPv6 when they get another address.
    wan6: BTreeMap<String, String>,
    has_v6: bool,
}

impl Lab {
    /// Builds it; takes a few tenths of a second, in which the calling thread waits.
    ///
    /// # Errors
    /// Not Linux, no namespaces allowed, a program or part of the kernel missing, or a NAT that
    /// netfilter cannot be.
    pub fn start(plan: &LabPlan) -> Result<Self, KernelError> {
        let topology = Topology::new(plan)?;
        if !cfg!(target_os = "linux") {
            return Err(KernelError::NotLinux);
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
        let peers = [topology.spots[0][0].address, topology.spots[1][0].address];
        let (wires, spots, at) = (Vec::new(), topology.spots, [0, 0]);
        let (wan6, has_v6) = (topology.wan6, plan.has_v6());
        let mut lab = Self { holder, orion_peer, wires, spots, at, peers, given: 0, wan6, has_v6 };
        for (index, wire) in topology.wires.iter().enumerate() {
            let child = lab.start_wire(wire, plan.seed.wrapping_add(index as u64))?;
            lab.wires.push((wire.peer, child));
        }
        Ok(lab)
    }

    /// A program in a place of the lab, to be started; as its child, with its own exit code, its
    /// working directory and environment as here. It is killed when the lab ends.
    #[must_use]
    pub fn command(&self, place: Place, program: &str) -> Command {
        self.holder.command(namespace(place), program)
    }

    /// The same as the user who started the lab, who is root inside otherwise: for programs that refuse
    /// to run as root, such as browsers.
    #[must_use]
    pub fn command_as_user(&self, place: Place, program: &str) -> Command {
        self.holder.command_as_user(namespace(place), program)
    }

    /// `orion-peer` itself in a place of the lab.
    #[must_use]
    pub fn orion_peer(&self, place: Place) -> Command {
        self.command(place, &self.orion_peer.to_string_lossy())
    }

    /// The machine of layer `layer` (0 is next to the peer) of peer A's or B's profile.
    #[must_use]
    pub fn command_at_layer(&self, place: Place, layer: usize, program: &str) -> Command {
        self.holder.command(&self.router(place, layer), program)
    }

    /// A file in memory that is gone with the lab; programs inside find it by this path, too. `SQLite`
    /// and others that resolve symbolic links themselves take it for a file of the host.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.holder.file(name)
    }

    /// The same file as the lab's servers find it.
    pub(super) fn own_file(name: &str) -> PathBuf {
        Holder::own_file(name)
    }

    /// The peer's own address; a private one behind a NAT.
    #[must_use]
    pub fn address(&self, place: Place) -> Ipv4Addr {
        match place {
            Place::A => self.peers[0],
            Place::B => self.peers[1],
            Place::Internet => super::SERVER,
        }
    }

    /// Changes what the links of a peer do, in whatever network it is; the lab was planned as one that
    /// changes.
    ///
    /// # Errors
    /// The program of a link is gone.
    pub fn set_link(&mut self, place: Place, link: &Link) -> Result<(), KernelError> {
        let peer = place.peer();
        for (_, wire) in self.wires.iter_mut().filter(|(of, _)| *of == peer) {
            let Some(stdin) = &mut wire.stdin else { continue };
            writeln!(stdin, "{}", words(link)).map_err(|error| KernelError::Start {
                program: "orion-peer lab wire".to_owned(),
                cause: format!("it is gone: {error}"),
            })?;
        }
        Ok(())
    }

    /// Takes a peer out of its network: it has no address until it is somewhere again.
    ///
    /// # Errors
    /// The interface could not be configured.
    pub fn unplug(&self, place: Place) -> Result<(), KernelError> {
        self.ip(namespace(place), &self.spot(place).leave())
    }

    /// Puts a peer back into the network that it was taken out of.
    ///
    /// # Errors
    /// The interface could not be configured.
    pub fn plug(&self, place: Place) -> Result<(), KernelError> {
        self.ip(namespace(place), &self.spot(place).arrive(self.address(place)))
    }

    /// Moves a peer to another network: 0 is home, others are those it was planned with.
    ///
    /// # Errors
    /// The interfaces could not be configured.
    pub fn move_to(&mut self, place: Place, network: usize) -> Result<(), KernelError> {
        let from = self.spot(place).leave();
        let peer = place.peer();
        self.at[peer] = network;
        self.peers[peer] = self.spot(place).address;
        self.ip(namespace(place), &(from + &self.spot(place).arrive(self.peers[peer])))
    }

    /// Gives a peer another address in the network where it is.
    ///
    /// # Errors
    /// The interface could not be configured.
    pub fn renumber(&mut self, place: Place) -> Result<(), KernelError> {
        let peer = place.peer();
        let spot = &mut self.spots[peer][self.at[peer]];
        let address = spot.another(self.given);
        let text = format!("addr flush dev {}\n{}", spot.interface, spot.arrive(address));
        self.given += 1;
        self.peers[peer] = address;
        self.ip(namespace(place), &text)
    }

    /// Makes the outermost machine in front of a peer another one, with another address on the internet,
    /// that knows nothing of what the old one knew.
    ///
    /// # Errors
    /// A NAT that netfilter cannot be, or it could not be configured.
    pub fn replace_nat(&mut self, place: Place, layer: &Layer) -> Result<(), KernelError> {
        let name = self.router(place, 0);
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

    pub(super) fn spot(&self, place: Place) -> &Spot {
        let peer = place.peer();
        &self.spots[peer][self.at[peer]]
    }

    /// Name of the machine of that layer in front of a peer, where it is now.
    fn router(&self, place: Place, layer: usize) -> String {
        format!("{}{}", self.spot(place).letter, layer + 1)
    }

    fn ip(&self, name: &str, batch: &str) -> Result<(), KernelError> {
        self.holder.run("ip", name, &["ip", "-n", name, "-batch", "-"], batch)
    }

    /// Whether any of its networks has IPv6.
    #[must_use]
    pub fn has_v6(&self) -> bool {
        self.has_v6
    }

    /// Starts coturn on both server addresses, and waits until it listens.
    ///
    /// # Errors
    /// It is not installed, or does not start.
    pub fn coturn(&self, options: &CoturnOptions) -> Result<Coturn, KernelError> {
        require("turnserver")?;
        Coturn::start(self, options)
    }

    /// Starts `orion-peer serve` among the servers, and waits until it listens.
    ///
    /// # Errors
    /// It does not start.
    pub fn serve(&self) -> Result<LabServer, KernelError> {
        LabServer::start(self, ServerOptions::default())
    }

    /// The same with tokens or credentials that live shorter.
    ///
    /// # Errors
    /// It does not start.
    pub fn serve_with(&self, options: ServerOptions) -> Result<LabServer, KernelError> {
        LabServer::start(self, options)
    }

    /// `orion-peer` in a place of the lab without the variables and settings of who started the lab.
    #[must_use]
    pub fn own_in(&self, place: Place) -> Command {
        self.own(namespace(place))
    }

    /// Ends everything in it, and waits until it is gone. Dropping it does the same.
    pub fn stop(self) {
        drop(self);
    }

    /// `orion-peer` among the servers, with the files of [`Self::own_file`].
    pub(super) fn server_command(&self) -> Command {
        let program = self.orion_peer.to_string_lossy();
        let command = self.holder.own_command(INTERNET, &program);
        without_settings(command, &Holder::own_file(""))
    }

    /// coturn among the servers, with the same files.
    pub(super) fn coturn_command(&self) -> Command {
        self.holder.own_command(INTERNET, "turnserver")
    }

    /// `orion-peer` as the lab itself starts it: variables are for what the user runs.
    pub(super) fn own(&self, namespace: &str) -> Command {
        let command = self.holder.command(namespace, &self.orion_peer.to_string_lossy());
        without_settings(command, &self.holder.file(""))
    }

    fn start_wire(&self, wire: &Wire, seed: u64) -> Result<Child, KernelError> {
        let mut command = self.own(&wire.namespace);
        command.args(["lab", "wire", "inner", "outer", &seed.to_string()]);
        command.args(words(&wire.link).split(' '));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| not_started("nsenter", &error))?;
        match first_line(&mut child) {
            Some(line) if line == "ready" => Ok(child),
            _ => {
                let cause = last_words(child);
                Err(KernelError::Start { program: "orion-peer lab wire".to_owned(), cause })
            }
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.holder.stop();
        for (_, wire) in &mut self.wires {
            // It has ended already, as a rule.
            let _ = wire.kill();
            let _ = wire.wait();
        }
    }
}

/// Without the variables and settings of who started the lab; temporary files are gone with it.
fn without_settings(mut command: Command, temporary: &Path) -> Command {
    command.args(["--config", "/dev/null"]).current_dir("/").env("TMPDIR", temporary);
    let names = std::env::vars_os().map(|(name, _)| name);
    for name in names.filter(|name| name.to_string_lossy().starts_with("ORION_")) {
        command.env_remove(name);
    }
    command
}

/// What a link does, as words of `lab wire`, and as a line of its standard input.
fn words(link: &Link) -> String {
    let Link { loss, loss_burst, .. } = link;
    let (delay, jitter) = (link.delay.as_nanos(), link.jitter.as_nanos());
    let rate = link.rate.unwrap_or(0);
    let queue = link.queue.map_or(0, |queue| queue.bytes(rate));
    format!("{loss} {loss_burst} {delay} {jitter} {rate} {queue}")
}

pub(super) fn namespace(place: Place) -> &'static str {
    match place {
        Place::A => "a",
        Place::B => "b",
        Place::Internet => INTERNET,
    }
}

/// All at once: each takes three programs.
fn configure(holder: &Holder, namespaces: &[Namespace]) -> Result<(), KernelError> {
    thread::scope(|scope| {
        let all: Vec<_> = namespaces
            .iter()
            .map(|namespace| scope.spawn(move || configure_one(holder, namespace)))
            .collect();
        all.into_iter()
            .try_for_each(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn configure_one(holder: &Holder, namespace: &Namespace) -> Result<(), KernelError> {
    let name = namespace.name.as_str();
    if let Some(nft) = &namespace.nft {
        holder.run("nft", name, &["ip", "netns", "exec", name, "nft", "-f", "-"], nft)?;
    }
    let mut script = String::from("set -e\n");
    for (file, value) in &namespace.sysctls {
        let path = format!("/proc/sys/{file}");
        // A kernel without IPv6 has nothing to switch off.
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

/// The first line of a child's standard output, and nothing of the next one: others read on.
pub(super) fn first_line(child: &mut Child) -> Option<String> {
    let mut line = String::new();
    BufReader::with_capacity(1, child.stdout.as_mut()?).read_line(&mut line).ok()?;
    Some(line.trim().to_owned())
}

/// Ends a child that did not do what it should, and tells what it said.
pub(super) fn last_words(mut child: Child) -> String {
    let _ = child.kill();
    match child.wait_with_output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            if said.is_empty() { output.status.to_string() } else { said }
        }
        Err(error) => error.to_string(),
    }
}
