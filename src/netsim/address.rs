//! Picks the external address of a gateway.
//!
//! Filters distinguish addresses, so two NATs must not share one, not even across processes, and servers on
//! 127.0.0.1 need another. Loopback is 127.0.0.0/8 on Linux and Windows; 127.64.0.0/10 of it is reserved
//! for NATs. macOS has only 127.0.0.1 until others are added.
//!
//! Each gateway holds one UDP port of its address for its whole lifetime: a gateway that finds the port
//! taken tries the next address.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicU32, Ordering},
};

use super::NetsimError;

/// The UDP port whose use marks an address as taken.
const MARK: u16 = 4787;

/// First address, of 127.64.0.0/10.
const FIRST: u32 = 0x7f40_0000;

/// Number of addresses in the /10.
const COUNT: u32 = 1 << 22;

/// Number of addresses tried, starting at one derived from the process ID and the gateway.
const TRIES: u32 = 16;

/// Number of addresses at the start of the /10 tried after these: they can be added manually on systems
/// without the whole range.
const BY_HAND: u32 = 16;

/// Binds a UDP socket; replaced in tests to simulate other systems.
pub(super) type Bind = fn(SocketAddr) -> io::Result<UdpSocket>;

/// An address and the socket that marks it as taken.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) address: IpAddr,
    pub(super) _mark: UdpSocket,
}

/// Picks a loopback address that no other gateway uses.
pub(super) fn own_loopback(bind: Bind) -> Result<Held, NetsimError> {
    static MADE: AtomicU32 = AtomicU32::new(0);
    // An odd factor, so that no two process IDs start at the same address.
    let begin = std::process::id()
        .wrapping_mul(0x9e37_79b1)
        .wrapping_add(MADE.fetch_add(1, Ordering::Relaxed).wrapping_mul(TRIES));
    let own = (0..TRIES).map(|step| begin.wrapping_add(step) % COUNT);
    let mut failed = None;
    for offset in own.chain(1..=BY_HAND) {
        let address = IpAddr::V4(Ipv4Addr::from_bits(FIRST + offset));
        match bind(SocketAddr::new(address, MARK)) {
            Ok(mark) => return Ok(Held { address, _mark: mark }),
            Err(source) => failed = Some(NetsimError::Loopback { last: address, source }),
        }
    }
    Err(failed.expect("at least one address was tried"))
}

/// Checks that sockets can be bound to an address of this machine.
pub(super) fn check(address: IpAddr, bind: Bind) -> Result<(), NetsimError> {
    bind(SocketAddr::new(address, 0)).map_err(|source| NetsimError::Outside { address, source })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_gateway_has_its_own_address() {
        let held: Vec<_> = (0..40).map(|_| own_loopback(UdpSocket::bind).unwrap()).collect();
        let mut addresses: Vec<_> = held.iter().map(|held| held.address).collect();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), 40);
        assert!(addresses.iter().all(IpAddr::is_loopback));
        assert!(!addresses.contains(&Ipv4Addr::LOCALHOST.into()));
    }

    #[test]
    fn a_taken_address_is_skipped() {
        // A system with only addresses added by hand, the first of which another process has taken.
        let few = |address: SocketAddr| match address.ip().to_string().as_str() {
            "127.64.0.1" => Err(io::ErrorKind::AddrInUse.into()),
            "127.64.0.2" => UdpSocket::bind("127.0.0.1:0"),
            _ => Err(io::ErrorKind::AddrNotAvailable.into()),
        };
        let held = own_loopback(few).unwrap();
        assert_eq!(held.address.to_string(), "127.64.0.2");
    }

    #[test]
    fn without_addresses_the_error_has_a_remedy() {
        let none = |_| Err(io::ErrorKind::AddrNotAvailable.into());
        let error = own_loopback(none).unwrap_err();
        assert!(error.to_string().contains("no free loopback address"), "{error}");
        assert!(error.remedy().contains("sudo ifconfig lo0 alias 127.64.0.$i"), "{error}");
        let error = check("127.70.0.1".parse().unwrap(), none).unwrap_err();
        assert!(error.remedy().contains("sudo ifconfig lo0 alias 127.70.0.1"), "{error}");
        let error = check("198.51.100.7".parse().unwrap(), UdpSocket::bind).unwrap_err();
        assert!(error.to_string().contains("198.51.100.7"), "{error}");
        assert!(error.remedy().contains("address of this machine"), "{error}");
        let taken = |_| Err(io::ErrorKind::AddrInUse.into());
        assert!(own_loopback(taken).unwrap_err().remedy().contains("end other runs"));
    }
}
