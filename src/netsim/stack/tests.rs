use super::*;
use crate::nat::Behaviour;

const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const START: Duration = Duration::ZERO;

fn stack(profile: &str) -> Stack {
    Stack::new(&profile.parse().unwrap(), OUTSIDE, 1)
}

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Records the requested ports.
#[derive(Default)]
struct RecordedPorts(Vec<SocketAddr>);

impl PortSpace for RecordedPorts {
    fn acquire(&mut self, external: SocketAddr) -> bool {
        self.0.push(external);
        true
    }

    fn release(&mut self, external: SocketAddr) {
        self.0.retain(|taken| *taken != external);
    }
}

#[test]
fn an_empty_stack_changes_nothing() {
    let mut none = stack("none");
    let (host, server) = (socket("192.0.2.1:5000"), socket("198.51.100.1:3478"));
    assert_eq!(none.outbound(START, host, server, &mut EveryPort), Ok(Routed::Out(host)));
    assert_eq!(none.inbound(START, host, server), Ok(host));
    assert_eq!((none.external(), none.mappings()), (None, 0));
}

#[test]
fn only_the_outermost_nat_acquires_real_ports() {
    for profile in ["port", "port+sym", "sym+port+port", "firewall+port", "port+firewall"] {
        let mut stack = stack(profile);
        let mut asked = RecordedPorts::default();
        let (host, server) = (socket("192.168.1.2:5000"), socket("198.51.100.1:3478"));
        let Ok(Routed::Out(source)) = stack.outbound(START, host, server, &mut asked) else {
            panic!("{profile}")
        };
        assert_eq!(source.ip(), IpAddr::V4(OUTSIDE), "{profile}");
        assert_eq!(asked.0, [source], "{profile}");
        assert_eq!(stack.inbound(START, source, server), Ok(host), "{profile}");
        assert_eq!(stack.mappings(), 1);
        // The host's state at every layer is removed with it.
        assert_eq!(stack.forget(host, &mut asked), [source], "{profile}");
        assert!(asked.0.is_empty(), "{profile}");
        assert!(stack.inbound(START, source, server).is_err());
    }
}

#[test]
fn the_strictest_layer_decides() {
    let (host, server) = (socket("192.168.1.2:5000"), socket("198.51.100.1:3478"));
    for (profile, admits_strangers) in [
        ("fullcone+fullcone", true),
        ("fullcone+port", false),
        ("port+fullcone", false),
        ("fullcone+firewall", false),
    ] {
        let mut stack = stack(profile);
        let Ok(Routed::Out(at)) = stack.outbound(START, host, server, &mut EveryPort) else {
            panic!("{profile}")
        };
        let stranger = stack.inbound(START, at, socket("198.51.100.9:9"));
        assert_eq!(stranger.is_ok(), admits_strangers, "{profile}");
    }
}

#[test]
fn an_expired_layer_releases_its_port() {
    let mut stack = stack("port:timeout=30s+port:timeout=1m");
    let mut asked = RecordedPorts::default();
    let (host, server) = (socket("192.168.1.2:5000"), socket("198.51.100.1:3478"));
    let Ok(Routed::Out(at)) = stack.outbound(START, host, server, &mut asked) else { panic!() };
    let half = Duration::from_secs(30);
    // The home router's mapping has expired, the carrier's has not.
    assert_eq!(stack.inbound(half, at, server), Err(Refused::NoMapping));
    stack.expire(half, &mut asked);
    assert_eq!(asked.0, [at]);
    stack.expire(2 * half, &mut asked);
    assert!(asked.0.is_empty());
}

/// REQ-9: two hosts behind one NAT, through their external addresses.
#[test]
fn req_9_hairpinned_packets_show_the_external_source() {
    let (a, b) = (socket("192.168.1.2:5000"), socket("192.168.1.3:5000"));
    let server = socket("198.51.100.1:3478");
    for mapping in Behaviour::ALL {
        for filtering in Behaviour::ALL {
            let name = format!("{}m-{}f", mapping.initials(), filtering.initials());
            let mut plain = stack(&name);
            let mut turning = stack(&format!("{name}:hairpin"));
            for (stack, hairpins) in [(&mut plain, false), (&mut turning, true)] {
                let external = |stack: &mut Stack, from, to| match stack.outbound(
                    START,
                    from,
                    to,
                    &mut EveryPort,
                ) {
                    Ok(Routed::Out(at)) => at,
                    other => panic!("{other:?}"),
                };
                let at_a = external(stack, a, server);
                let at_b = external(stack, b, server);
                let first = stack.outbound(START, a, at_b, &mut EveryPort);
                if !hairpins {
                    assert_eq!(first, Err(Refused::NoHairpinning), "{name}");
                    continue;
                }
                if filtering != Behaviour::EndpointIndependent {
                    assert_eq!(first, Err(Refused::Filtered), "{name}");
                    // b sends to a's address, which opens its own filter for that address.
                    let _ = stack.outbound(START, b, at_a, &mut EveryPort);
                }
                let second = stack.outbound(START, a, at_b, &mut EveryPort);
                if let Ok(Routed::Hairpin { inside, from }) = second {
                    assert_eq!((inside, from.ip()), (b, IpAddr::V4(OUTSIDE)), "{name}");
                    if mapping == Behaviour::EndpointIndependent {
                        assert_eq!(from, at_a, "{name}");
                    }
                } else {
                    // With mapping and filtering per remote endpoint, each packet has a new port, so there
                    // is no path.
                    let strict = Behaviour::EndpointIndependent;
                    assert!(mapping > strict && filtering > strict, "{name}: {second:?}");
                }
            }
        }
    }
}

#[test]
fn the_same_seed_routes_the_same() {
    for profile in ["sym", "sym-sequential", "port+sym", "adm-apdf:ports=random"] {
        let run = |seed| {
            let mut stack = Stack::new(&profile.parse().unwrap(), OUTSIDE, seed);
            let to = |n: u16| SocketAddr::from(([198, 51, 100, (n % 7) as u8], 1000 + n));
            let host = socket("192.168.1.2:5000");
            (0..100)
                .map(|n| stack.outbound(START, host, to(n), &mut EveryPort).unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(run(11), run(11), "{profile}");
        assert_ne!(run(11), run(12), "{profile}");
    }
}
