//! Prints which path two peers get behind two NAT profiles: direct, over a TURN relay, or none.
//!
//!     cargo run --release --example nat_paths -- port sym

use std::error::Error;

use orion_peer::nat::{
    Profile,
    theory::{Relays, expected},
};

fn main() -> Result<(), Box<dyn Error>> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let [a, b] = names.as_slice() else { return Err("usage: nat_paths PROFILE PROFILE".into()) };
    let (a, b): (Profile, Profile) = (a.parse()?, b.parse()?);

    let udp_only = Relays { udp: true, ..Relays::NONE };
    for (name, relays) in
        [("no TURN", Relays::NONE), ("TURN over UDP", udp_only), ("TURN over TCP", Relays::ALL)]
    {
        println!("{a} to {b}, {name}: {}", expected(&a, &b, relays).as_str());
    }
    Ok(())
}
