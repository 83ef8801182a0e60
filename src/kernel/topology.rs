//! Which network namespaces a lab has, and how each is configured. Text only; nothing is run here.
//!
//! ```text
//! a ─[link]─ a1 ─ a2 ─┐                              ┌─ b1 ─[link]─ b
//!                     └─ internet, 203.0.113.0/24 ───┘
//!                        servers .10 and .11
//! ```
//!
//! The layers of peer A are a1, a2, … from the peer outwards. LANs are 192.168.1.0/24 (A) and
//! 192.168.2.0/24 (B), networks between NATs lie in 100.64.0.0/10 (RFC 6598), what is behind a firewall
//! without translation has public addresses of 198.51.100.0/24 (A) and 192.0.2.0/24 (B) (RFC 5737).

use std::{fmt::Write, net::Ipv4Addr};

use super::{
    error::KernelError,
    plan::{LabPlan, Network},
    rules::rules,
};
use crate::nat::{Layer, Link};

/// First address of the servers.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

/// Second address of the servers, for RFC 5780.
pub const OTHER_SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 11);

/// Where our own server relays. It is another address than that of STUN, for a NAT with address-dependent
/// filtering lets in whatever comes from an address that was spoken to: a check by a relay there could
/// then be the first that arrives, and the pair would be relayed without need.
pub const RELAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 12);

/// Name of the namespace with the servers.
pub const INTERNET: &str = "internet";

/// The router between the outermost machines.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

/// Where packets to nowhere go. Without a default route a server's socket would fail when it sends to
/// the private address of a peer, and coturn would close the allocation.
const NOWHERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 254);

/// Numbers of interfaces begin here; those below are the kernel's own.
const FIRST_INTERFACE: usize = 100;

/// One namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// For `ip -n NAME -batch -`.
    pub ip: String,
    /// Files below /proc/sys, and what to write there.
    pub sysctls: Vec<(String, String)>,
    /// For `nft -f -`.
    pub nft: Option<String>,
}

/// A namespace that is the link of a peer; its interfaces are `inner` and `outer`.
#[derive(Debug, Clone, PartialEq)]
pub struct Wire {
    /// Its name.
    pub namespace: String,
    /// What it does.
    pub link: Link,
}

/// All of a lab.
#[derive(Debug, Clone, PartialEq)]
pub struct Topology {
    /// For `ip -batch -`: makes the namespaces and what connects them.
    pub create: String,
    /// For `ip -n internet -batch -`, once all cables carry packets: a bridge that comes up before its
    /// cables do would wait for up to a second.
    pub bridge: String,
    /// How each is configured.
    pub namespaces: Vec<Namespace>,
    /// The links that do something.
    pub wires: Vec<Wire>,
    /// Addresses of the peers, A and B.
    pub peers: [Ipv4Addr; 2],
}

/// A network between two machines: the one nearer to the internet has the first address, the other
/// one the second.
#[derive(Debug, Clone, Copy)]
struct Segment {
    base: Ipv4Addr,
    prefix: u8,
}

impl Segment {
    fn host(self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base.to_bits() + number)
    }

    /// `side` 0 is A, `depth` counts layers from the peer outwards.
    fn new(public: bool, side: u8, depth: u8) -> Self {
        match (public, side) {
            (true, 0) => Self { base: Ipv4Addr::new(198, 51, 100, depth * 16), prefix: 28 },
            (true, _) => Self { base: Ipv4Addr::new(192, 0, 2, depth * 16), prefix: 28 },
            (false, _) if depth == 0 => {
                Self { base: Ipv4Addr::new(192, 168, side + 1, 0), prefix: 24 }
            }
            (false, _) => Self { base: Ipv4Addr::new(100, 64, side * 16 + depth, 0), prefix: 24 },
        }
    }
}

/// One peer's side while it is laid out.
struct Side<'p> {
    number: u8,
    letter: char,
    layers: &'p [Layer],
    /// On the peer's side of each layer.
    segments: Vec<Segment>,
}

impl<'p> Side<'p> {
    fn new(number: u8, network: &'p Network) -> Self {
        let layers = &network.profile.layers[..];
        let public = |depth: usize| !layers[depth..].iter().any(|l| matches!(l, Layer::Nat(_)));
        let segments =
            (0..layers.len()).map(|k| Segment::new(public(k), number, k as u8)).collect();
        Self { number, letter: if number == 0 { 'a' } else { 'b' }, layers, segments }
    }

    /// Address on the internet's network.
    fn outermost(&self) -> Ipv4Addr {
        Ipv4Addr::new(203, 0, 113, 2 + self.number)
    }

    /// Address, prefix and gateway on the internet's side of layer `k`.
    fn wan(&self, k: usize) -> (Ipv4Addr, u8, Ipv4Addr) {
        match self.segments.get(k + 1) {
            Some(segment) => (segment.host(2), segment.prefix, segment.host(1)),
            None => (self.outermost(), 24, GATEWAY),
        }
    }

    fn router(&self, k: usize) -> String {
        format!("{}{}", self.letter, k + 1)
    }

    /// The namespace on the internet's side of layer `k`, and its interface.
    fn above(&self, k: usize) -> (String, String) {
        if k + 1 < self.layers.len() {
            (self.router(k + 1), "lan0".to_owned())
        } else {
            (INTERNET.to_owned(), self.letter.to_string())
        }
    }
}

impl Topology {
    /// Lays out a lab.
    ///
    /// # Errors
    /// A NAT that netfilter cannot be, or two profiles for one NAT.
    pub fn new(plan: &LabPlan) -> Result<Self, KernelError> {
        if plan.shared && (plan.a.profile != plan.b.profile || plan.a.profile.layers.is_empty()) {
            let (a, b) = (plan.a.profile.to_string(), plan.b.profile.to_string());
            return Err(KernelError::TwoProfiles { a, b });
        }
        let sides = [Side::new(0, &plan.a), Side::new(1, &plan.b)];
        let mut lab = Self {
            create: format!("netns add {INTERNET}\n"),
            bridge: format!(
                "link set br0 up\nneigh add {NOWHERE} lladdr 02:00:00:00:00:fe dev br0\n\
                 route add default via {NOWHERE}\n"
            ),
            namespaces: vec![internet()],
            wires: Vec::new(),
            peers: [sides[0].outermost(), sides[1].outermost()],
        };
        lab.routers(&sides[0])?;
        if !plan.shared {
            lab.routers(&sides[1])?;
        }
        for (side, network) in sides.iter().zip([&plan.a, &plan.b]) {
            lab.peer(side, network, plan.shared && side.number == 1);
        }
        Ok(lab)
    }

    fn add(&mut self, mut namespace: Namespace) {
        let _ = writeln!(self.create, "netns add {}", namespace.name);
        namespace.ip.insert_str(0, "link set lo up\n");
        namespace.sysctls.extend(no_ipv6());
        self.namespaces.push(namespace);
    }

    /// Connects two namespaces. Each end has a number of its own: the kernel takes a cable whose ends
    /// have the same one for no cable, and lets it wait for up to a second.
    fn cable(&mut self, one: (&str, &str), other: (&str, &str)) {
        let number = FIRST_INTERFACE + 2 * self.create.lines().count();
        let _ = writeln!(
            self.create,
            "link add name {} netns {} index {number} type veth peer name {} netns {} index {}",
            one.1,
            one.0,
            other.1,
            other.0,
            number + 1
        );
    }

    fn namespace(&mut self, name: &str) -> &mut Namespace {
        let found = self.namespaces.iter_mut().find(|namespace| namespace.name == name);
        found.expect("it was added before it is asked for")
    }

    /// The machines between a peer and the internet, from the outside.
    fn routers(&mut self, side: &Side) -> Result<(), KernelError> {
        for (k, layer) in side.layers.iter().enumerate().rev() {
            let (address, prefix, gateway) = side.wan(k);
            let rules = rules(layer, address)?;
            let lan = side.segments[k];
            let nft = Some(rules.loadable());
            let mut sysctls = forwarding();
            sysctls.extend(rules.sysctls);
            let name = side.router(k);
            self.add(Namespace {
                name: name.clone(),
                ip: format!(
                    "addr add {address}/{prefix} dev wan\nlink set wan up\n\
                     addr add {}/{} dev lan0\nlink set lan0 up\nroute add default via {gateway}\n",
                    lan.host(1),
                    lan.prefix
                ),
                sysctls,
                nft,
            });
            let (above, interface) = side.above(k);
            self.cable((&name, "wan"), (&above, &interface));
            if above == INTERNET {
                self.plug_in(&interface);
            }
            self.routes_to(side, k, lan);
        }
        Ok(())
    }

    /// Puts an interface of the internet on its bridge.
    fn plug_in(&mut self, interface: &str) {
        let line = format!("link set dev {interface} master br0\nlink set dev {interface} up\n");
        self.namespace(INTERNET).ip += &line;
    }

    /// Routes to the network below layer `k`, on every machine that sees it untranslated.
    fn routes_to(&mut self, side: &Side, k: usize, lan: Segment) {
        for (j, layer) in side.layers.iter().enumerate().skip(k) {
            if matches!(layer, Layer::Nat(_)) {
                break;
            }
            let via = side.wan(j).0;
            let (above, _) = side.above(j);
            let line = format!("route add {}/{} via {via}\n", lan.base, lan.prefix);
            if above == INTERNET {
                self.bridge += &line;
            } else {
                self.namespace(&above).ip += &line;
            }
        }
    }

    /// A peer, with its link when that does something. `second` is one on another LAN of A's NAT.
    fn peer(&mut self, side: &Side, network: &Network, second: bool) {
        let name = side.letter.to_string();
        let (address, prefix, gateway) = match side.segments.first() {
            Some(lan) => (lan.host(2), lan.prefix, lan.host(1)),
            None => (side.outermost(), 24, GATEWAY),
        };
        self.peers[usize::from(side.number)] = address;
        let (above, interface) = match (second, side.layers.is_empty()) {
            (true, _) => ("a1".to_owned(), "lan1".to_owned()),
            (false, true) => (INTERNET.to_owned(), name.clone()),
            (false, false) => (side.router(0), "lan0".to_owned()),
        };
        let mut ip = format!("addr add {address}/{prefix} dev eth0\nlink set eth0 up\n");
        let _ = writeln!(ip, "route add default via {gateway}");
        self.add(Namespace { name: name.clone(), ip, ..Namespace::default() });
        if network.link.is_clear() {
            self.cable((&name, "eth0"), (&above, &interface));
        } else {
            self.wire(&name, (&above, &interface), network.link);
        }
        if above == INTERNET {
            self.plug_in(&interface);
        }
        if second {
            let line = format!("addr add {gateway}/{prefix} dev lan1\nlink set lan1 up\n");
            self.namespace("a1").ip += &line;
            let lan = side.segments[0];
            let segments = side.segments.clone();
            let shared = Side { letter: 'a', number: 0, layers: side.layers, segments };
            self.routes_to(&shared, 0, lan);
        }
    }

    /// The link of a peer: two cables, and packets one by one, for a large one would be lost whole.
    fn wire(&mut self, peer: &str, above: (&str, &str), link: Link) {
        let name = format!("{peer}link");
        let single = "gso_max_segs 1";
        self.add(Namespace {
            name: name.clone(),
            ip: "link set inner up\nlink set outer up\n".to_owned(),
            ..Namespace::default()
        });
        self.cable((peer, "eth0"), (&name, "inner"));
        self.cable((&name, "outer"), above);
        for (name, interface) in [(peer, "eth0"), above] {
            let _ = writeln!(self.namespace(name).ip, "link set dev {interface} {single}");
        }
        self.wires.push(Wire { namespace: name, link });
    }
}

fn internet() -> Namespace {
    let mut sysctls = forwarding();
    sysctls.extend(no_ipv6());
    Namespace {
        name: INTERNET.to_owned(),
        ip: format!(
            "link set lo up\nlink add br0 type bridge\naddr add {GATEWAY}/24 dev br0\n\
             addr add {SERVER}/24 dev br0\naddr add {OTHER_SERVER}/24 dev br0\n\
             addr add {RELAY}/24 dev br0\n"
        ),
        sysctls,
        nft: None,
    }
}

fn forwarding() -> Vec<(String, String)> {
    let all = [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv4/conf/all/send_redirects", "0"),
        ("net/ipv4/conf/default/send_redirects", "0"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", "0"),
    ];
    all.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
}

/// The lab is IPv4: link-local addresses would go round the NATs.
fn no_ipv6() -> Vec<(String, String)> {
    ["all", "default"]
        .map(|which| (format!("net/ipv6/conf/{which}/disable_ipv6"), "1".to_owned()))
        .to_vec()
}
