//! A lab that runs.

use std::{
    fmt::Write as _,
    io::{BufRead, BufReader},
    net::Ipv4Addr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
};

use super::{
    coturn::{Coturn, CoturnOptions},
    error::KernelError,
    holder::{Holder, not_started, require},
    plan::{LabPlan, Place},
    server::LabServer,
    topology::{INTERNET, Namespace, Topology, Wire},
};

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

/// Two peers behind their NATs, and an internet with servers. It is gone when this is dropped, and when
/// this process is gone.
pub struct Lab {
    holder: Holder,
    orion_peer: PathBuf,
    /// The programs that are the links.
    wires: Vec<Child>,
    peers: [Ipv4Addr; 2],
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
        let mut lab = Self { holder, orion_peer, wires: Vec::new(), peers: topology.peers };
        for (index, wire) in topology.wires.iter().enumerate() {
            let wire = lab.start_wire(wire, plan.seed.wrapping_add(index as u64))?;
            lab.wires.push(wire);
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
        let letter = if place == Place::B { 'b' } else { 'a' };
        self.holder.command(&format!("{letter}{}", layer + 1), program)
    }

    /// A file in memory that is gone with the lab; programs inside find it by this path, too.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.holder.file(name)
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
        LabServer::start(self)
    }

    pub(super) fn own_in(&self, place: Place) -> Command {
        self.own(namespace(place))
    }

    /// Ends everything in it, and waits until it is gone. Dropping it does the same.
    pub fn stop(self) {
        drop(self);
    }

    /// `orion-peer` as the lab itself starts it: variables are for what the user runs.
    fn own(&self, namespace: &str) -> Command {
        let mut command = self.holder.command(namespace, &self.orion_peer.to_string_lossy());
        // Neither are files with settings.
        command.args(["--config", "/dev/null"]).current_dir("/");
        let names = std::env::vars_os().map(|(name, _)| name);
        for name in names.filter(|name| name.to_string_lossy().starts_with("ORION_")) {
            command.env_remove(name);
        }
        command
    }

    fn start_wire(&self, wire: &Wire, seed: u64) -> Result<Child, KernelError> {
        let link = wire.link;
        let mut command = self.own(&wire.namespace);
        command.args(["lab", "wire", "inner", "outer"]).arg(link.loss.to_string());
        command.arg(link.loss_burst.to_string());
        command.args([link.delay.as_nanos().to_string(), link.jitter.as_nanos().to_string()]);
        command.arg(link.rate.unwrap_or(0).to_string()).arg(seed.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
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
        for wire in &mut self.wires {
            // The holder has killed it.
            let _ = wire.wait();
        }
    }
}

fn namespace(place: Place) -> &'static str {
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

/// The first line of a child's standard output.
pub(super) fn first_line(child: &mut Child) -> Option<String> {
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut()?).read_line(&mut line).ok()?;
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
