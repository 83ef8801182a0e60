//! An allocation ends when its credentials expire or when the pair of devices is revoked.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use orion_peer::{
    auth::{turn_rest, unix_now},
    proto::token::TokenAnswer,
    server::{Server, ServerConfig, TOKEN_PATH, TurnAdvert},
    stun::message::{Message, attr, method},
    turn::{TurnLimits, TurnServer},
    types::PairId,
};
use tokio::{
    net::{TcpListener, UdpSocket},
    time::{sleep, timeout},
};

use super::{
    SECRET,
    client::{Client, UDP},
    permitted, server,
};
use crate::{raw_http::request, run::HANG};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

async fn lifetime_of(client: &mut Client, asked: u32) -> Result<u32, u16> {
    client.challenge().await;
    let asked = asked.to_be_bytes();
    let answer = client.ask(method::ALLOCATE, &[UDP, (attr::LIFETIME, &asked)]).await;
    let answer = Message::parse(&answer).unwrap();
    answer.error_code().map_or_else(|| Ok(answer.number(attr::LIFETIME).unwrap()), Err)
}

#[tokio::test]
async fn the_expiry_in_user_names_is_parsed_strictly() {
    let server = server(TurnLimits::default()).await;
    let address = server.udp_address().unwrap();
    for (username, expected) in [
        (format!("{}:user:x", unix_now() + 1200), Ok(1200..=1260)),
        (format!("{}:far", u64::MAX), Ok(3600..=3600)),
        (format!("{}:far", u64::MAX - 1), Ok(3600..=3600)),
        ("18446744073709551616:over".to_owned(), Err(401)),
        ("99999999999999999999999999:over".to_owned(), Err(401)),
        ("-1:negative".to_owned(), Err(401)),
        (format!("+{}:sign", unix_now() + 1200), Err(401)),
        ("0:old".to_owned(), Err(401)),
        (format!("{}:old", unix_now() - 1), Err(401)),
        ("phone".to_owned(), Err(401)),
        (":".to_owned(), Err(401)),
    ] {
        let mut client = Client::udp(address).await;
        client.password = password(&username);
        client.username.clone_from(&username);
        let lifetime = lifetime_of(&mut client, 3600).await;
        match (&lifetime, &expected) {
            (Ok(seconds), Ok(range)) => assert!(range.contains(seconds), "{username}: {seconds}"),
            (Err(code), Err(expected)) => assert_eq!(code, expected, "{username}"),
            _ => panic!("{username}: {lifetime:?}"),
        }
    }
}

/// The HMAC of any name, as computed by a holder of the secret.
fn password(username: &str) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use hmac::{Hmac, KeyInit, Mac};
    let mut mac = Hmac::<sha1::Sha1>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(username.as_bytes());
    STANDARD.encode(mac.finalize().into_bytes())
}

/// A call can outlive its first credentials only by renewing them.
#[tokio::test]
async fn an_allocation_lasts_as_long_as_its_credentials_are_renewed() {
    let server = server(TurnLimits::default()).await;
    let address = server.udp_address().unwrap();
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let to = peer.local_addr().unwrap();
    let mut client = Client::udp(address).await;
    let expires_at = unix_now() + 3;
    client.login("phone", expires_at);
    let (mut client, relayed) = permitted(client, HERE).await;
    assert!(client.refresh(3600).await.unwrap() <= 63, "three seconds and a minute to renew");
    while unix_now() <= expires_at {
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(client.refresh(3600).await, Err(401));
    client.indicate(to, b"still").await;
    let mut buffer = [0; 16];
    let came = timeout(HANG, peer.recv_from(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(came, (5, relayed));
    client.login("mac", unix_now() + 7200);
    assert_eq!(client.refresh(3600).await, Err(441), "credentials of another device");
    client.login("phone", unix_now() + 7200);
    assert_eq!(client.refresh(3600).await, Ok(3600));
    assert_eq!(client.permit(to).await, 0, "all requests work with the new name");
    client.indicate(to, b"on").await;
    let came = timeout(HANG, peer.recv_from(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(came, (2, relayed), "from the same address");
    assert_eq!(client.refresh(0).await, Ok(0));
    assert_eq!(server.stats().allocations_active, 0);
}

/// With expired credentials, a client can still release its allocation.
#[tokio::test]
async fn an_expired_allocation_can_be_ended() {
    let server = server(TurnLimits::default()).await;
    let mut client = Client::udp(server.udp_address().unwrap()).await;
    let expires_at = unix_now() + 2;
    client.login("phone", expires_at);
    client.allocate().await;
    while unix_now() <= expires_at {
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(client.refresh(0).await, Ok(0));
    assert_eq!(server.stats().allocations_active, 0);
}

/// A server with its relay, as in `serve`.
async fn with_relay(turn: &TurnServer) -> orion_peer::server::RunningServer {
    let mut config = ServerConfig::dev().await.unwrap();
    let port = turn.udp_address().unwrap().port();
    let advert = TurnAdvert::at("127.0.0.1", port, SECRET.into());
    config.turn = Some(TurnAdvert { names_pair: true, ..advert });
    config.in_use = Some(turn.in_use(Duration::from_hours(2)));
    config.signaling.timings.revocation_poll = Duration::from_millis(100);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    Server::start(config, listener).await.unwrap()
}

async fn login_of(server: SocketAddr, device: &str) -> (String, String) {
    let headers = ["Authorization: Bearer dev", "Content-Type: application/json"];
    let body = format!(r#"{{"deviceId":"{device}"}}"#);
    let answer = request(server, &format!("POST {TOKEN_PATH}"), &headers, &body).await;
    let answer: TokenAnswer = serde_json::from_str(&answer.body).unwrap();
    let server = answer.ice_servers.into_iter().find(|server| server.username.is_some()).unwrap();
    (server.username.unwrap(), server.credential.unwrap())
}

#[tokio::test]
async fn the_allocations_of_a_revoked_pair_end() {
    let turn = server(TurnLimits::default()).await;
    let server = with_relay(&turn).await;
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let to = peer.local_addr().unwrap();
    let mut clients = Vec::new();
    for (device, tcp) in [("phone", false), ("mac", true)] {
        let (username, password) = login_of(server.local_addr(), device).await;
        assert!(
            username.ends_with(&format!(":{}", turn_rest::id_of(device, "demo"))),
            "{username}"
        );
        let mut client = if tcp {
            Client::tcp(turn.tcp_address().unwrap()).await
        } else {
            Client::udp(turn.udp_address().unwrap()).await
        };
        (client.username, client.password) = (username, password);
        clients.push(permitted(client, HERE).await);
    }
    server.store().add(&other_pair()).await.unwrap();
    // Allocations without a pair in their user name, and those of another pair, are not affected.
    for id in ["tablet", "tablet;pair=other"] {
        let mut other = Client::udp(turn.udp_address().unwrap()).await;
        other.login(id, unix_now() + 600);
        other.allocate().await;
    }
    sleep(Duration::from_millis(500)).await;
    assert_eq!(turn.stats().allocations_active, 4, "active pairs keep theirs");

    assert!(server.store().revoke(&PairId::from("demo"), unix_now()).await.unwrap());
    let ended = async {
        while turn.stats().allocations_active != 2 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(HANG, ended).await.expect("the allocations did not end");
    for (mut client, relayed) in clients {
        peer.send_to(b"into the void", relayed).await.unwrap();
        client.indicate(to, b"nowhere").await;
        client.hears_nothing().await;
        assert_eq!(client.refresh(600).await, Err(401), "its credentials are no longer valid");
        assert_eq!(client.code(method::ALLOCATE, &[UDP]).await, 401);
    }
    assert_eq!(turn.stats().packets_to_peers, 0);
    server.shutdown().await;
    turn.close().await;
}

fn other_pair() -> orion_peer::pairs::Pair {
    orion_peer::pairs::Pair::active("other", "dev", "tablet", "other-mac", unix_now())
}
