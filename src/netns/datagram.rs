//! An attacker on the path of a lab: captures UDP datagrams over IPv4 as they pass a peer, and injects
//! datagrams with an arbitrary source address on its link, past every NAT and firewall, through a packet
//! socket (packet(7)). Both run as separate processes in the namespace of the machine next to the peer, as
//! the hidden commands `orion-peer lab capture` and `orion-peer lab inject`, and exchange lines `FROM TO
//! PAYLOAD`.

use std::{
    fmt::{self, Write as _},
    io::{BufRead, BufReader, Lines, Write as _},
    net::{Ipv4Addr, SocketAddrV4},
    process::{Child, ChildStdin, ChildStdout, Stdio},
    str::FromStr,
};

use super::{
    error::NetnsError,
    holder::not_started,
    lab::{Lab, first_line, last_words, namespace},
    plan::Location,
};

/// Header sizes of Ethernet, of IPv4 without options (RFC 791 §3.1) and of UDP (RFC 768), in bytes.
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const UDP: usize = 8;

/// Maximum payload of a datagram that fits into one packet at an MTU of 1500.
pub const MAX_PAYLOAD: usize = 1500 - IPV4 - UDP;

/// Protocol number of UDP in the IPv4 header.
const PROTOCOL: u8 = 17;

/// A UDP datagram over IPv4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// Source address.
    pub from: SocketAddrV4,
    /// Destination address.
    pub to: SocketAddrV4,
    /// At most [`MAX_PAYLOAD`] bytes.
    pub payload: Vec<u8>,
}

/// A line that is not a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a valid datagram: expected FROM TO PAYLOAD, with the payload in hexadecimal")]
pub struct DatagramError;

impl Datagram {
    /// Encodes it as an Ethernet frame to `mac`, from an unused MAC address.
    ///
    /// # Errors
    /// [`DatagramError`] if the payload is longer than [`MAX_PAYLOAD`].
    pub fn frame(&self, mac: [u8; 6]) -> Result<Vec<u8>, DatagramError> {
        if self.payload.len() > MAX_PAYLOAD {
            return Err(DatagramError);
        }
        let udp_length = ((UDP + self.payload.len()) as u16).to_be_bytes();
        let (from, to) = (self.from.ip().octets(), self.to.ip().octets());
        let mut udp = [self.from.port().to_be_bytes(), self.to.port().to_be_bytes()].concat();
        udp.extend(udp_length);
        udp.extend([0, 0]);
        udp.extend(&self.payload);
        let pseudo_header = [&from[..], &to, &[0, PROTOCOL], &udp_length].concat();
        // 0 would mean that there is no checksum.
        let sum = match checksum(&[&pseudo_header, &udp]) {
            0 => u16::MAX,
            sum => sum,
        };
        udp[6..8].copy_from_slice(&sum.to_be_bytes());
        let length = ((IPV4 + udp.len()) as u16).to_be_bytes();
        let mut ip = vec![0x45, 0, length[0], length[1], 0, 0, 0x40, 0, 64, PROTOCOL, 0, 0];
        ip.extend(from.into_iter().chain(to));
        let sum = checksum(&[&ip]).to_be_bytes();
        ip[10..12].copy_from_slice(&sum);
        Ok([&mac[..], &[2, 0, 0, 0, 0xff, 1], &[8, 0], &ip[..], &udp[..]].concat())
    }

    /// Decodes an Ethernet frame; `None` if it is not a complete UDP datagram over IPv4.
    #[must_use]
    pub fn from_frame(frame: &[u8]) -> Option<Self> {
        let ip = frame.get(ETHERNET..).filter(|_| frame[12..ETHERNET] == [8, 0])?;
        let whole = ip.get(6)?.trailing_zeros() >= 6 && *ip.get(7)? == 0;
        if ip[0] >> 4 != 4 || !whole || *ip.get(9)? != PROTOCOL {
            return None;
        }
        let udp = ip.get(usize::from(ip[0] & 0xf) * 4..)?;
        let two = |bytes: &[u8], at: usize| {
            Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
        };
        let address =
            |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?));
        let payload = udp.get(UDP..usize::from(two(udp, 4)?))?.to_vec();
        let from = SocketAddrV4::new(address(12)?, two(udp, 0)?);
        let to = SocketAddrV4::new(address(16)?, two(udp, 2)?);
        Some(Self { from, to, payload })
    }
}

/// Internet checksum (RFC 1071); each part except the last must have an even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let sum = words.fold(0u32, |sum, word| {
        sum + u32::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]))
    });
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

impl fmt::Display for Datagram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.from, self.to)?;
        self.payload.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Datagram {
    type Err = DatagramError;

    fn from_str(line: &str) -> Result<Self, DatagramError> {
        let words: Vec<&str> = line.split(' ').collect();
        let [from, to, hex] = words[..] else { return Err(DatagramError) };
        let address = |text: &str| text.parse::<SocketAddrV4>().map_err(|_| DatagramError);
        let digit = |digit: &u8| char::from(*digit).to_digit(16).ok_or(DatagramError);
        if hex.len() % 2 != 0 {
            return Err(DatagramError);
        }
        let bytes = hex.as_bytes().chunks(2);
        let payload = bytes.map(|two| Ok((digit(&two[0])? * 16 + digit(&two[1])?) as u8));
        let payload = payload.collect::<Result<Vec<u8>, DatagramError>>()?;
        Ok(Self { from: address(from)?, to: address(to)?, payload })
    }
}

/// Injects datagrams on the link of a peer until it is dropped or the lab ends.
#[derive(Debug)]
pub struct Injector {
    process: Child,
    stdin: ChildStdin,
}

impl Injector {
    /// Sends a datagram to the peer, from the machine next to it. The destination is the peer's own
    /// address, behind its NATs; the source is arbitrary, and the checksum is computed.
    ///
    /// # Errors
    /// The process has exited.
    pub fn send(&mut self, datagram: &Datagram) -> Result<(), NetnsError> {
        let mut line = String::new();
        let _ = writeln!(line, "{datagram}");
        self.stdin.write_all(line.as_bytes()).map_err(|error| NetnsError::Start {
            program: INJECT.to_owned(),
            cause: format!("it has exited: {error}"),
        })
    }
}

/// The datagrams that pass a peer, in both directions and in order: an iterator that ends with the lab.
/// Datagrams are skipped if they are consumed too slowly.
#[derive(Debug)]
pub struct Capture {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Iterator for Capture {
    type Item = Datagram;

    fn next(&mut self) -> Option<Datagram> {
        self.lines.next()?.ok()?.parse().ok()
    }
}

impl Drop for Injector {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

fn end(process: &mut Child) {
    // It has exited already: nothing to do.
    let _ = process.kill();
    let _ = process.wait();
}

const INJECT: &str = "orion-peer lab inject";
const CAPTURE: &str = "orion-peer lab capture";

impl Lab {
    /// An attacker on the path to a peer, in its current network.
    ///
    /// # Errors
    /// It does not start.
    pub fn injector(&self, location: Location) -> Result<Injector, NetnsError> {
        let mac = self.mac(location)?;
        let mut process = self.next_to(location, INJECT, &["inject"], &[&mac])?;
        match process.stdin.take() {
            Some(stdin) => Ok(Injector { process, stdin }),
            None => Err(failed(INJECT, "no standard input")),
        }
    }

    /// Captures on the path to a peer, in its current network: the packets of a flow reveal its addresses
    /// and ports as the peer sees them.
    ///
    /// # Errors
    /// It does not start.
    pub fn capture(&self, location: Location) -> Result<Capture, NetnsError> {
        let mut process = self.next_to(location, CAPTURE, &["capture"], &[])?;
        match process.stdout.take() {
            Some(stdout) => Ok(Capture { process, lines: BufReader::new(stdout).lines() }),
            None => Err(failed(CAPTURE, "no standard output")),
        }
    }

    /// Starts the injector or the capture on the machine next to a peer, and waits until it is ready.
    fn next_to(
        &self,
        location: Location,
        program: &str,
        command: &[&str],
        more: &[&str],
    ) -> Result<Child, NetnsError> {
        let (machine, interface) = &self.attachment(location).next;
        let mut process = self
            .own(machine)
            .arg("lab")
            .args(command)
            .arg(interface)
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| not_started("nsenter", &error))?;
        match first_line(&mut process) {
            Some(line) if line == "ready" => Ok(process),
            _ => Err(failed(program, &last_words(process))),
        }
    }

    /// The MAC address of the peer on its link.
    fn mac(&self, location: Location) -> Result<String, NetnsError> {
        let mut command = self.holder.command(namespace(location), "ip");
        command.args(["-br", "link", "show", "dev", &self.attachment(location).interface]);
        let output = command.stdin(Stdio::null()).output();
        let output = output.map_err(|error| not_started("nsenter", &error))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let found = text.split_whitespace().nth(2).map(str::to_owned);
        found.ok_or_else(|| failed("ip link", &String::from_utf8_lossy(&output.stderr)))
    }
}

fn failed(program: &str, cause: &str) -> NetnsError {
    NetnsError::Start { program: program.to_owned(), cause: cause.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(payload: &[u8]) -> Datagram {
        let (from, to) = ("192.0.2.1:4242".parse().unwrap(), "198.51.100.2:53".parse().unwrap());
        Datagram { from, to, payload: payload.to_vec() }
    }

    #[test]
    fn frames_round_trip() {
        for payload in [&b""[..], b"a", b"ab", b"\xff\xff\xff", &[7; MAX_PAYLOAD]] {
            let frame = datagram(payload).frame([2, 0, 0, 0, 0, 9]).unwrap();
            assert_eq!(Datagram::from_frame(&frame), Some(datagram(payload)));
            let (ip, udp) = frame[ETHERNET..].split_at(IPV4);
            assert_eq!(checksum(&[ip]), 0);
            let length = (udp.len() as u16).to_be_bytes();
            assert_eq!(checksum(&[&ip[12..], &[0, PROTOCOL], &length, udp]), 0);
        }
        assert_eq!(datagram(&[0; MAX_PAYLOAD + 1]).frame([0; 6]), Err(DatagramError));
    }

    #[test]
    fn the_checksum_matches_the_rfc_example() {
        // RFC 1071 §3: the sum of these words is ddf2.
        assert_eq!(checksum(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
    }

    #[test]
    fn truncated_frames_and_fragments_are_rejected() {
        let frame = datagram(b"abc").frame([0; 6]).unwrap();
        for length in 0..frame.len() {
            assert_eq!(Datagram::from_frame(&frame[..length]), None, "{length}");
        }
        let mut fragment = frame;
        fragment[ETHERNET + 6] = 0x20;
        assert_eq!(Datagram::from_frame(&fragment), None);
    }

    #[test]
    fn lines_round_trip() {
        for payload in [&b""[..], &[0x00, 0x7f, 0xff]] {
            assert_eq!(datagram(payload).to_string().parse(), Ok(datagram(payload)));
        }
        for line in ["", "a b", "192.0.2.1:1 192.0.2.2:2 0", "192.0.2.1:1 192.0.2.2:2 é", "1 2 3 4"]
        {
            assert_eq!(line.parse::<Datagram>(), Err(DatagramError), "{line}");
        }
    }
}
