//! An attacker on the path of a kernel lab, and a peer that loses only its connection to the signaling
//! server. Linux with `ip`, `nft` and python3 only.

use std::{
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddrV4},
    process::{Child, ChildStdin, ChildStdout, Stdio},
    time::Duration,
};

use orion_peer::{
    nat::LinkSettings,
    netns::{Datagram, Lab, LabPlan, Location, NetworkPlan, datagram::MAX_PAYLOAD},
};

/// Sends a datagram from its first address to its second one, then prints the source and the contents of
/// each received datagram.
const PEER: &str = "
import socket, sys
def address(text):
    host, port = text.split(':')
    return host, int(port)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(address(sys.argv[1]))
s.sendto(b'hello', address(sys.argv[2]))
while True:
    data, (host, port) = s.recvfrom(65536)
    print(f'{host}:{port} {data.hex()}', flush=True)
";

/// Connects to the signaling server's port, and executes a command per line: `tcp` and `udp` send and wait
/// for the answer, `wait` waits for data, `connect` makes a new connection. Prints the result of each.
const CLIENT: &str = "
import socket, sys
def connect():
    t = socket.create_connection(('203.0.113.10', 8787), timeout=10)
    t.settimeout(10)
    return t
t, u = connect(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.settimeout(10)
print('ready', flush=True)
for line in sys.stdin:
    try:
        if line == 'connect\\n':
            t = connect()
        elif line == 'wait\\n':
            t.recv(1)
        elif line == 'tcp\\n':
            t.sendall(b'x')
            assert t.recv(1) == b'x'
        else:
            u.sendto(b'x', ('203.0.113.10', 8787))
            assert u.recv(1) == b'x'
        print('well', flush=True)
    except OSError as error:
        print(type(error).__name__, flush=True)
";

/// Echoes over TCP and UDP, and prints how connections end.
const ECHO: &str = "
import socket, threading
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.bind(('203.0.113.10', 8787))
def datagrams():
    while True:
        u.sendto(*u.recvfrom(2048))
threading.Thread(target=datagrams, daemon=True).start()
def serve(c):
    try:
        while data := c.recv(2048):
            c.sendall(data)
        print('closed', flush=True)
    except OSError as error:
        print(type(error).__name__, flush=True)
listener = socket.create_server(('203.0.113.10', 8787))
print('ready', flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
";

/// A Python program at a location in the lab, and its output; it is killed when this is dropped.
struct Python {
    process: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Python {
    fn new(lab: &Lab, location: Location, script: &str, words: &[String]) -> Self {
        let mut command = lab.command(location, "python3");
        command.args(["-c", script]).args(words);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdin = process.stdin.take().unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        Self { process, stdin, stdout }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn ask(&mut self, what: &str) -> String {
        writeln!(self.stdin, "{what}").unwrap();
        self.line()
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn network(nat: &str, delay: u64) -> NetworkPlan {
    let link = LinkSettings { delay: Duration::from_millis(delay), ..LinkSettings::default() };
    NetworkPlan { profile: nat.parse().unwrap(), link, ..NetworkPlan::default() }
}

fn start(a: NetworkPlan, b: NetworkPlan) -> Lab {
    let orion_peer = Some(env!("CARGO_BIN_EXE_orion-peer").into());
    let plan = LabPlan { a, b, orion_peer, ..LabPlan::default() };
    Lab::start(&plan).unwrap_or_else(|error| panic!("{error}\n  try: {}", error.remedy()))
}

fn address(text: &str) -> SocketAddrV4 {
    text.parse().unwrap()
}

/// Once behind a strict NAT and a link, and once directly on the internet.
#[test]
fn a_forged_datagram_is_received_as_if_the_peer_had_sent_it() {
    let lab = start(network("port", 3), network("none", 0));
    let (at_a, at_b) = (address("192.168.1.2:5000"), address("203.0.113.3:6000"));
    let (mut seen_at_a, mut seen_at_b) =
        (lab.capture(Location::A).unwrap(), lab.capture(Location::B).unwrap());
    let mut b = Python::new(&lab, Location::B, PEER, &[at_b.to_string(), "203.0.113.10:9".into()]);
    // After its first datagram, the socket is bound.
    assert_eq!(seen_at_b.next().unwrap().from, at_b);
    let mut a = Python::new(&lab, Location::A, PEER, &[at_a.to_string(), at_b.to_string()]);
    let hello = seen_at_a.next().unwrap();
    assert_eq!(hello, Datagram { from: at_a, to: at_b, payload: b"hello".to_vec() });
    let translated = seen_at_b.next().unwrap();
    assert_eq!((*translated.from.ip(), translated.to), (Ipv4Addr::new(203, 0, 113, 2), at_b));
    assert_eq!(b.line(), format!("{} 68656c6c6f", translated.from));

    let mut to_a = lab.injector(Location::A).unwrap();
    let mut to_b = lab.injector(Location::B).unwrap();
    let longest = vec![0xab; MAX_PAYLOAD];
    // From the remote peer; from a stranger that the NAT would filter; with payloads of odd length.
    for (from, payload) in [
        (at_b, &[0x14, 0xfe, 0xfd][..]),
        (address("198.51.100.77:1"), &b"\0"[..]),
        (at_b, &longest[..]),
    ] {
        to_a.send(&Datagram { from, to: at_a, payload: payload.to_vec() }).unwrap();
        let hex = payload.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        assert_eq!(a.line(), format!("{from} {hex}"));
    }
    let from = translated.from;
    to_b.send(&Datagram { from, to: at_b, payload: b"hello".to_vec() }).unwrap();
    assert_eq!(b.line(), format!("{from} 68656c6c6f"));
}

#[test]
fn only_the_connection_to_the_signaling_server_is_lost() {
    let lab = start(network("port", 0), network("port", 0));
    let mut server = Python::new(&lab, Location::Internet, ECHO, &[]);
    assert_eq!(server.line(), "ready");
    let mut clients =
        [Location::A, Location::B].map(|location| Python::new(&lab, location, CLIENT, &[]));
    for client in &mut clients {
        assert_eq!([client.line(), client.ask("tcp")], ["ready", "well"]);
    }
    let [a, b] = &mut clients;
    lab.signaling_off(Location::A).unwrap();
    // An idle connection ends immediately at both ends; all others stay.
    assert_eq!(a.ask("wait"), "ConnectionAbortedError");
    assert_eq!(server.line(), "ConnectionResetError");
    assert_eq!(a.ask("connect"), "ConnectionRefusedError");
    assert_eq!([a.ask("udp"), b.ask("tcp"), b.ask("udp")], ["well"; 3]);
    lab.signaling_on(Location::A).unwrap();
    assert_eq!([a.ask("connect"), a.ask("tcp"), b.ask("tcp")], ["well"; 3]);
    // Repeated calls do not nest: one `signaling_on` is sufficient.
    lab.signaling_off(Location::A).unwrap();
    lab.signaling_off(Location::A).unwrap();
    lab.signaling_on(Location::A).unwrap();
    lab.signaling_on(Location::A).unwrap();
    assert_eq!([a.ask("connect"), a.ask("tcp")], ["well"; 2]);
}
