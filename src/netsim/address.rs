//! Which outside address a gateway gets.
//!
//! Filters look at addresses, so two NATs must not share one, not even when two processes run them, and
//! servers on 127.0.0.1 must have another. Loopback is 127.0.0.0/8 on Linux and Windows; 127.64.0.0/10
//! of it is for NATs. macOS has only 127.0.0.1 until others are made.
//!
//! Each gateway holds one UDP port of its address for as long as it lives: whoever finds that port
//! taken goes on to the next address.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicU32, Ordering},
};

use super::LabError;

/// The port that marks an address as taken.
const MARK: u16 = 4787;

/// 127.64.0.0/10.
const FIRST: u32 = 0x7f40_0000;

/// How many addresses the /10 has.
const COUNT: u32 = 1 << 22;

/// Addresses tried beginning at the one for this process and gateway.
const TRIES: u32 = 16;

/// Then the first of the /10, which can be made by hand where there are none.
const BY_HAND: u32 = 16;

/// Binds a UDP socket; in tests one that fails as another system would.
pub(super) type Bind = fn(SocketAddr) -> io::Result<UdpSocket>;

/// An address and the socket that holds it.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) address: IpAddr,
    pub(super) _mark: UdpSocket,
}

/// A loopback address that no other gateway has.
pub(super) fn own_loopback(bind: Bind) -> Result<Held, LabError> {
    static MADE: AtomicU32 = AtomicU32::new(0);
    // An odd factor: no two process ids begin at the same address.
    let begin = std::process::id()
        .wrapping_mul(0x9e37_79b1)
        .wrapping_add(MADE.fetch_add(1, Ordering::Relaxed).wrapping_mul(TRIES));
    let own = (0..TRIES).map(|step| begin.wrapping_add(step) % COUNT);
    let mut failed = None;
    for offset in own.chain(1..=BY_HAND) {
        let address = IpAddr::V4(Ipv4Addr::from_bits(FIRST + offset));
        match bind(SocketAddr::new(address, MARK)) {
            Ok(mark) => return Ok(Held { address, _mark: mark }),
            Err(source) => failed = Some(LabError::Loopback { last: address, source }),
        }
    }
    Err(failed.expect("at least one address was tried"))
}

/// Whether sockets can be bound on that address of this machine.
pub(super) fn check(address: IpAddr, bind: Bind) -> Result<(), LabError> {
    bind(SocketAddr::new(address, 0)).map_err(|source| LabError::Outside { address, source })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_gateway_has_its_own() {
        let held: Vec<_> = (0..40).map(|_| own_loopback(UdpSocket::bind).unwrap()).collect();
        let mut addresses: Vec<_> = held.iter().map(|held| held.address).collect();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), 40);
        assert!(addresses.iter().all(IpAddr::is_loopback));
        assert!(!addresses.contains(&Ipv4Addr::LOCALHOST.into()));
    }

    #[test]
    fn one_that_is_taken_is_passed_over() {
        // As where only addresses made by hand exist, and another process has the first of them.
        let few = |address: SocketAddr| match address.ip().to_string().as_str() {
            "127.64.0.1" => Err(io::ErrorKind::AddrInUse.into()),
            "127.64.0.2" => UdpSocket::bind("127.0.0.1:0"),
            _ => Err(io::ErrorKind::AddrNotAvailable.into()),
        };
        let held = own_loopback(few).unwrap();
        assert_eq!(held.address.to_string(), "127.64.0.2");
    }

    #[test]
    fn without_any_the_remedy_is_told() {
        let none = |_| Err(io::ErrorKind::AddrNotAvailable.into());
        let error = own_loopback(none).unwrap_err();
        assert!(error.to_string().contains("no loopback address of its own"), "{error}");
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
