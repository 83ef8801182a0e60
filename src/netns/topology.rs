//! The network namespaces of a lab and their configuration. Text only; nothing is executed here.
//!
//! ```text
//! a ─[link]─ a1 ─ a2 ─┐                              ┌─ b1 ─[link]─ b
//!                     └─ internet, 203.0.113.0/24 ───┘
//!                        servers .10 and .11
//! ```
//!
//! The layers of peer A are a1, a2, … from the peer outward. LANs are 192.168.1.0/24 (A) and
//! 192.168.2.0/24 (B), networks between NATs are in 100.64.0.0/10 (RFC 6598), and networks behind a
//! firewall without translation have public addresses of 198.51.100.0/24 (A) and 192.0.2.0/24 (B) (RFC
//! 5737).
//!
//! IPv6, where a network has it, uses public addresses throughout (RFC 3849): the internet is
//! `2001:db8:0:ff::/64` with the servers at `::10`, the networks of peer A are `2001:db8:1:0::/64` next to
//! it, `2001:db8:1:1::/64` one layer further out, and so on.

mod side;

use std::{
    collections::BTreeMap,
    fmt::Write,
    net::{Ipv4Addr, Ipv6Addr},
};

pub use self::side::Attachment;
use self::side::{Segment, Side};
use super::{
    error::NetnsError,
    plan::{LabPlan, MAX_OTHER_NETWORKS},
    rules::{firewall6, rules},
};
use crate::nat::{IpVersions, Layer, LinkSettings};

/// First address of the servers.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

/// Second address of the servers, for RFC 5780.
pub const OTHER_SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 11);

/// Relay address of our own server. It differs from the STUN address because a NAT with address-dependent
/// filtering admits anything from an address it has sent to: a check through a relay there could arrive
/// first, and the pair would be relayed needlessly.
pub const RELAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 12);

/// IPv6 address of the servers.
pub const SERVER6: Ipv6Addr = internet6(0x10);

/// IPv6 router between the outermost machines.
const GATEWAY6: Ipv6Addr = internet6(1);

const fn internet6(host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0xff, 0, 0, 0, host)
}

/// Name of the namespace with the servers.
pub const INTERNET: &str = "internet";

/// IPv4 router between the outermost machines.
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

/// Destination of undeliverable packets. Without a default route, a server's socket would fail when it sends
/// to the private address of a peer, and coturn would close the allocation.
const NOWHERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 254);

/// First host number for additional addresses of a peer.
const FIRST_HOST: u32 = 5;

/// First interface index; lower ones are the kernel's own.
const FIRST_INTERFACE: usize = 100;

/// One namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Name of the namespace.
    pub name: String,
    /// Input of `ip -n NAME -batch -`.
    pub ip: String,
    /// Files below /proc/sys, and the values to write.
    pub sysctls: Vec<(String, String)>,
    /// Input of `nft -f -`.
    pub nft: Option<String>,
}

/// The namespace that emulates the link of a peer; its interfaces are `inner` and `outer`.
#[derive(Debug, Clone, PartialEq)]
pub struct Wire {
    /// Name of the namespace.
    pub namespace: String,
    /// Index of the peer: 0 is A, 1 is B.
    pub peer: usize,
    /// Link to emulate.
    pub link: LinkSettings,
}

/// The complete layout of a lab.
#[derive(Debug, Clone, PartialEq)]
pub struct Topology {
    /// Input of `ip -batch -`: creates the namespaces and their connections.
    pub create: String,
    /// Input of `ip -n internet -batch -`, once all interfaces carry packets: a bridge that comes up before
    /// its ports do waits for up to a second.
    pub bridge: String,
    /// Configuration of each namespace.
    pub namespaces: Vec<Namespace>,
    /// The links that are not clear.
    pub wires: Vec<Wire>,
    /// The networks of A and B, with the home network first.
    pub attachments: [Vec<Attachment>; 2],
    /// IPv6 configuration that a machine loses when its interface `wan` goes down, as input of `ip -batch
    /// -`, by machine.
    pub wan6: BTreeMap<String, String>,
    /// Whether IPv6 is enabled.
    has_v6: bool,
}

impl Topology {
    /// Lays out a lab.
    ///
    /// # Errors
    /// A NAT that netfilter cannot implement, or two profiles for one NAT.
    pub fn new(plan: &LabPlan) -> Result<Self, NetnsError> {
        if plan.shared && (plan.a.profile != plan.b.profile || plan.a.profile.layers.is_empty()) {
            let (a, b) = (plan.a.profile.to_string(), plan.b.profile.to_string());
            return Err(NetnsError::TwoProfiles { a, b });
        }
        let sides = [Side::new(0, &plan.a), Side::new(1, &plan.b)];
        let mut lab = Self {
            create: format!("netns add {INTERNET}\n"),
            bridge: format!(
                "link set br0 up\nneigh add {NOWHERE} lladdr 02:00:00:00:00:fe dev br0\n\
                 route add default via {NOWHERE}\n"
            ),
            namespaces: vec![internet(plan.has_v6())],
            wires: Vec::new(),
            attachments: [vec![sides[0].attachment(0)], vec![sides[1].attachment(1)]],
            wan6: BTreeMap::new(),
            has_v6: plan.has_v6(),
        };
        lab.routers(&sides[0])?;
        if plan.shared {
            lab.attachments[1][0].next = ("a1".to_owned(), "lan1".to_owned());
        } else {
            lab.routers(&sides[1])?;
        }
        for (peer, (side, network)) in sides.iter().zip([&plan.a, &plan.b]).enumerate() {
            let home = &lab.attachments[peer][0];
            let ip = home.arrive(home.address);
            let name = side.letter.to_string();
            lab.add(Namespace { name, ip, ..Namespace::default() });
            let link = (plan.changing || !network.link.is_clear()).then_some(network.link);
            lab.peer(peer, side, link, plan.shared && peer == 1);
        }
        let other_networks = plan.other_networks.iter().enumerate();
        let other_networks =
            other_networks.flat_map(|(peer, all)| all.iter().map(move |one| (peer, one)));
        for (number, (peer, network)) in (2..).zip(other_networks) {
            if usize::from(number) >= 2 + MAX_OTHER_NETWORKS {
                return Err(NetnsError::TooManyNetworks);
            }
            let side = Side::new(number, network);
            lab.routers(&side)?;
            let attachment = side.attachment(peer);
            let up = format!("link set {} up\n", attachment.interface);
            lab.namespace(["a", "b"][peer]).ip += &up;
            lab.attachments[peer].push(attachment);
            let link = (plan.changing || !network.link.is_clear()).then_some(network.link);
            lab.peer(peer, &side, link, false);
        }
        Ok(lab)
    }

    fn add(&mut self, mut namespace: Namespace) {
        let _ = writeln!(self.create, "netns add {}", namespace.name);
        namespace.ip.insert_str(0, "link set lo up\n");
        namespace.sysctls.extend(ipv6(self.has_v6));
        self.namespaces.push(namespace);
    }

    /// Connects two namespaces by a veth pair. Both ends need different indices: the kernel treats a pair
    /// with equal indices as unconnected, and delays it by up to a second.
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
        found.expect("namespaces are added before they are used")
    }

    /// The machines between a peer and the internet, from the outside in.
    fn routers(&mut self, side: &Side) -> Result<(), NetnsError> {
        for (k, layer) in side.layers.iter().enumerate().rev() {
            let (address, prefix, gateway) = side.wan(k);
            let rules = rules(layer, address)?;
            let lan = side.segments[k];
            let mut nft = rules.loadable();
            let mut sysctls = forwarding(self.has_v6);
            sysctls.extend(rules.sysctls);
            let name = side.router(k);
            let mut ip = format!(
                "addr add {address}/{prefix} dev wan\nlink set wan up\n\
                 addr add {}/{} dev lan0\nlink set lan0 up\nroute add default via {gateway}\n",
                lan.host(1),
                lan.prefix
            );
            if side.ip.has_v6() {
                nft += &firewall6(layer);
                let (address6, gateway6) = side.wan6(k);
                let wan6 = format!(
                    "addr add {address6}/64 dev wan nodad\n\
                     route replace default via {gateway6} dev wan\n"
                );
                ip += &wan6;
                let _ = writeln!(ip, "addr add {}/64 dev lan0 nodad", side.host6(k, 1));
                self.wan6.insert(name.clone(), wan6);
            }
            self.add(Namespace { name: name.clone(), ip, sysctls, nft: Some(nft) });
            let (above, interface) = side.above(k);
            self.cable((&name, "wan"), (&above, &interface));
            if above == INTERNET {
                self.narrow(side.mtu, (&name, "wan"), &interface);
            }
            if side.ip.has_v6() {
                self.routes6_to(side, k);
            }
            if above == INTERNET {
                self.plug_in(&interface);
            }
            self.routes_to(side, k, lan);
        }
        Ok(())
    }

    /// Limits the MTU of the connection between the internet and a machine.
    fn narrow(&mut self, mtu: Option<u16>, machine: (&str, &str), interface: &str) {
        let Some(mtu) = mtu else { return };
        for (name, interface) in [machine, (INTERNET, interface)] {
            let _ = writeln!(self.namespace(name).ip, "link set dev {interface} mtu {mtu}");
        }
    }

    /// Routes to the IPv6 network below layer `k`, on every machine above it.
    fn routes6_to(&mut self, side: &Side, k: usize) {
        for j in k..side.layers.len() {
            let line = format!("route add {}/64 via {}\n", side.host6(k, 0), side.wan6(j).0);
            let (above, _) = side.above(j);
            if above == INTERNET {
                self.bridge += &line;
            } else {
                self.namespace(&above).ip += &line;
            }
        }
    }

    /// Attaches an interface of the internet to its bridge.
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

    /// Connects a peer to a network, over a link if there is one. `second` is a peer on another LAN of A's
    /// NAT.
    fn peer(&mut self, peer: usize, side: &Side, link: Option<LinkSettings>, second: bool) {
        let name = ["a", "b"][peer];
        let attachment =
            if second { self.attachments[peer][0].clone() } else { side.attachment(peer) };
        let (above, interface) = attachment.next.clone();
        let own = (name, attachment.interface.as_str());
        match link {
            None => self.cable(own, (&above, &interface)),
            Some(link) => {
                self.wire(own, (&above, &interface), &format!("{}link", side.letter));
                self.wires.push(Wire { namespace: format!("{}link", side.letter), peer, link });
            }
        }
        if above == INTERNET {
            self.plug_in(&interface);
            self.narrow(side.mtu, own, &interface);
        }
        if second {
            let Attachment { gateway, prefix, .. } = attachment;
            let line = format!("addr add {gateway}/{prefix} dev lan1\nlink set lan1 up\n");
            self.namespace("a1").ip += &line;
            let lan = side.segments[0];
            let segments = side.segments.clone();
            let (ip, mtu) = (IpVersions::V4, None);
            let shared = Side { letter: 'a', number: 0, layers: side.layers, segments, ip, mtu };
            self.routes_to(&shared, 0, lan);
        }
    }

    /// The link of a peer: two veth pairs without segmentation offload, because a large packet would be lost
    /// as a whole.
    fn wire(&mut self, peer: (&str, &str), above: (&str, &str), name: &str) {
        let single = "gso_max_segs 1";
        self.add(Namespace {
            name: name.to_owned(),
            ip: "link set inner up\nlink set outer up\n".to_owned(),
            ..Namespace::default()
        });
        self.cable(peer, (name, "inner"));
        self.cable((name, "outer"), above);
        for (name, interface) in [peer, above] {
            let _ = writeln!(self.namespace(name).ip, "link set dev {interface} {single}");
        }
    }
}

fn internet(has_v6: bool) -> Namespace {
    let mut sysctls = forwarding(has_v6);
    sysctls.extend(ipv6(has_v6));
    let mut ip = format!(
        "link set lo up\nlink add br0 type bridge\naddr add {GATEWAY}/24 dev br0\n\
         addr add {SERVER}/24 dev br0\naddr add {OTHER_SERVER}/24 dev br0\n\
         addr add {RELAY}/24 dev br0\n"
    );
    if has_v6 {
        for address in [GATEWAY6, SERVER6] {
            let _ = writeln!(ip, "addr add {address}/64 dev br0 nodad");
        }
    }
    // Otherwise its MTU would be the minimum of its ports, which would also apply to the servers.
    ip += "link set dev br0 mtu 1500\n";
    Namespace { name: INTERNET.to_owned(), ip, sysctls, nft: None }
}

fn forwarding(has_v6: bool) -> Vec<(String, String)> {
    let all = [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv4/conf/all/send_redirects", "0"),
        ("net/ipv4/conf/default/send_redirects", "0"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", "0"),
    ];
    let v6 = has_v6.then_some(("net/ipv6/conf/all/forwarding", "1"));
    all.into_iter().chain(v6).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Disables IPv6 in a lab without it. A lab with IPv6 has only the configured addresses: no router
/// advertisements, and no delay for duplicate address detection.
fn ipv6(on: bool) -> Vec<(String, String)> {
    let settings: &[(&str, &str)] = if on {
        &[("disable_ipv6", "0"), ("accept_dad", "0"), ("accept_ra", "0")]
    } else {
        &[("disable_ipv6", "1")]
    };
    let both = ["all", "default"].into_iter();
    both.flat_map(|which| {
        settings.iter().map(move |(name, value)| {
            (format!("net/ipv6/conf/{which}/{name}"), (*value).to_owned())
        })
    })
    .collect()
}
