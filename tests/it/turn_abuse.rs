//! Abuse of the embedded TURN server, by strangers and by devices with a login: raw messages on real sockets.

mod client;
mod credentials;
mod flood;
mod paths;
mod streams;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use orion_peer::{
    auth::turn_rest::TurnSecrets,
    turn::{TurnConfig, TurnLimits, TurnServer},
};

use self::client::Client;

const SECRET: &str = "north";

fn secrets() -> TurnSecrets {
    TurnSecrets { current: SECRET.into(), previous: None }
}

fn config(limits: TurnLimits) -> TurnConfig {
    TurnConfig { limits, ..TurnConfig::loopback(0, Arc::new(secrets())) }
}

async fn server(limits: TurnLimits) -> TurnServer {
    TurnServer::start(config(limits)).await.unwrap()
}

/// A server that listens and relays on `::1`.
async fn ipv6_server() -> TurnServer {
    let here: SocketAddr = "[::1]:0".parse().unwrap();
    let config = TurnConfig {
        udp: Some(here),
        tcp: Some(here),
        relay_address: here.ip(),
        ..config(TurnLimits::default())
    };
    TurnServer::start(config).await.unwrap()
}

/// A client with an allocation that may send to `peer`.
async fn permitted(mut client: Client, peer: IpAddr) -> (Client, SocketAddr) {
    let relayed = client.allocate().await;
    assert_eq!(client.permit(SocketAddr::new(peer, 0)).await, 0);
    (client, relayed)
}
