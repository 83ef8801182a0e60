//! Several nodes: a real Redis, three real `serve` processes, and two real clients, which must
//! reconnect after any failure.

mod contract;
mod nodes;
mod peers;

use std::{net::SocketAddr, time::Duration};

use orion_peer::proto::signaling::{Body, LeaveReason};
use rustix::process::Signal;

use self::{
    nodes::{Balancer, Node, Redis},
    peers::{Device, Known, connected},
};
use crate::{
    certificates::Certificates,
    raw_http::request,
    run::{HANG, run, sample, start},
};

struct Rig {
    dir: tempfile::TempDir,
    redis: Redis,
    nodes: Vec<Node>,
}

impl Rig {
    fn new() -> Self {
        let (dir, redis) = (tempfile::tempdir().unwrap(), Redis::start(&[]));
        let nodes = (0..3).map(|_| Node::start(dir.path(), &redis.url(), &[])).collect();
        let rig = Self { dir, redis, nodes };
        rig.wait_up();
        rig
    }

    fn addresses(&self, order: [usize; 3]) -> Vec<SocketAddr> {
        order.iter().map(|&node| self.nodes[node].address).collect()
    }

    /// Waits until every node accepts sockets.
    fn wait_up(&self) {
        for node in &self.nodes {
            health(node.address, "ok");
        }
    }

    /// Kills a node to simulate a crash, and starts another one in its place.
    fn replace(&mut self, at: usize) {
        let new = Node::start(self.dir.path(), &self.redis.url(), &[]);
        std::mem::replace(&mut self.nodes[at], new).process.kill();
    }
}

fn get(address: SocketAddr, path: &str) -> (u16, String) {
    // Uses a separate runtime on a separate thread, because the test already runs on a runtime.
    let response = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(request(address, path, &[], ""))
        });
        thread.join().unwrap()
    });
    (response.status, response.body)
}

/// Waits until a node's health is `status`.
fn health(address: SocketAddr, status: &str) -> u16 {
    for _ in 0..400 {
        let (code, body) = get(address, "GET /readyz");
        if body.contains(&format!("\"{status}\"")) {
            return code;
        }
        std::thread::sleep(HANG / 400);
    }
    panic!("timeout waiting for `{status}` from {address}");
}

fn metric(address: SocketAddr, name: &str) -> u64 {
    let (_, text) = get(address, "GET /metrics");
    let line = text.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.rsplit(' ').next());
    value.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
}

/// The phone on node 0, the Mac on node 1, connected.
async fn pair(rig: &Rig) -> (Device, Device) {
    let mut phone = Device::start("phone", rig.addresses([0, 2, 1])).await;
    let mut mac = Device::start("mac", rig.addresses([1, 2, 0])).await;
    connected(&mut phone, &mut mac, "at the start").await;
    (phone, mac)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_across_nodes_behaves_as_on_one_node() {
    let rig = Rig::new();
    // The offer is held on node 0 until the Mac joins on node 1.
    let mut phone = Device::start("phone", rig.addresses([0, 2, 1])).await;
    phone.wait("hello", |known| known.offer == 1).await;
    assert!(!phone.now().present);
    let mut mac = Device::start("mac", rig.addresses([1, 2, 0])).await;
    let known = mac.wait("the held offer", |known| known.offer > 0).await;
    assert!(known.present, "hello reports that the phone is present");
    connected(&mut phone, &mut mac, "at the start").await;
    assert_eq!(phone.now().peer, mac.now().conn);
    assert!(metric(rig.nodes[0].address, "orion_bus_messages_total{direction=\"sent\"}") >= 2);
    assert_eq!(metric(rig.nodes[0].address, "orion_bus_up"), 1);

    // The Mac connects again, on node 2: the new socket takes over, and the old one gets 4502.
    let mut newer = Device::start("mac", rig.addresses([2, 1, 0])).await;
    connected(&mut phone, &mut newer, "after the takeover").await;
    let old = mac.wait("the end", |known| known.closed.is_some()).await;
    assert_eq!(old.codes, [Some(4502)]);
    assert_eq!(phone.now().left, [LeaveReason::Replaced]);
    assert_eq!(phone.now().codes, [], "the phone's socket is still the first one");
    assert_eq!(
        metric(rig.nodes[1].address, "orion_bus_sockets_closed_total{reason=\"takeover\"}"),
        1
    );

    // The Mac sends bye and leaves.
    newer.handle.send(Body::Bye { reason: None }).unwrap();
    phone.wait("bye", |known| known.bye).await;
    newer.handle.close().await;
    let left = phone.wait("peer-left", |known| known.left.len() == 2).await;
    assert_eq!(left.left[1], LeaveReason::Closed);
    assert!(!rig.redis.ask("KEYS *").contains(":mac"), "the lease is released");
    for node in &rig.nodes {
        assert_eq!(metric(node.address, "orion_bus_sockets_closed_total{reason=\"gap\"}"), 0);
    }
}

/// The step of a negotiation at which a failure occurs.
#[derive(Debug, Clone, Copy)]
enum Step {
    Join,
    Offer,
    Answer,
    Ice,
    Bye,
}

/// The process that fails.
#[derive(Debug, Clone, Copy)]
enum Loss {
    PhonesNode,
    MacsNode,
    Redis,
}

async fn lose(rig: &mut Rig, step: Step, loss: Loss) {
    let mut phone = Device::start("phone", rig.addresses([0, 2, 1])).await;
    phone.wait("hello", |known| known.conn.is_some()).await;
    let mut mac = Device::start("mac", rig.addresses([1, 2, 0])).await;
    match step {
        Step::Join => {}
        Step::Offer => drop(mac.wait("the offer", |known| known.offer > 0).await),
        Step::Answer => drop(phone.wait("the answer", |known| known.answer > 0).await),
        Step::Ice => connected(&mut phone, &mut mac, "before").await,
        Step::Bye => {
            connected(&mut phone, &mut mac, "before").await;
            phone.handle.send(Body::Bye { reason: None }).unwrap();
        }
    }
    match loss {
        Loss::PhonesNode => rig.replace(0),
        Loss::MacsNode => rig.replace(1),
        Loss::Redis => {
            rig.redis.kill();
            rig.redis.again();
        }
    }
    let when = format!("{loss:?} lost at {step:?}");
    // The loss is awaited first, so that the connection before it does not count.
    match loss {
        Loss::PhonesNode => drop(phone.wait(&when, |known| !known.codes.is_empty()).await),
        Loss::MacsNode => {
            let lost = |known: &peers::Known| !known.codes.is_empty();
            drop(mac.wait(&when, lost).await);
        }
        Loss::Redis => rig.wait_up(),
    }
    connected(&mut phone, &mut mac, &when).await;
    assert!(phone.now().closed.is_none() && mac.now().closed.is_none(), "{when}");
    tokio::join!(phone.handle.close(), mac.handle.close());
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_connect_after_a_node_or_redis_is_lost_at_any_step() {
    let mut rig = Rig::new();
    for loss in [Loss::PhonesNode, Loss::MacsNode, Loss::Redis] {
        for step in [Step::Join, Step::Offer, Step::Answer, Step::Ice, Step::Bye] {
            lose(&mut rig, step, loss).await;
            rig.wait_up();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_hangs_sockets_are_closed_and_new_ones_rejected() {
    let rig = Rig::new();
    let (mut phone, mut mac) = pair(&rig).await;
    rig.redis.signal(Signal::STOP);
    let lost = phone.wait("the end of the socket", |known| !known.codes.is_empty()).await;
    assert_eq!(lost.codes[0], Some(1013));
    mac.wait("the end of the socket", |known| known.codes.first() == Some(&Some(1013))).await;
    assert_eq!(health(rig.nodes[0].address, "bus-down"), 503);
    let bearer = format!("Authorization: Bearer {}", peers::token("phone"));
    let upgrade = [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        &bearer,
    ];
    let refused = request(rig.nodes[0].address, "GET /api/signal", &upgrade, "").await;
    assert_eq!((refused.status, refused.json()["code"].as_str()), (503, Some("bus-down")));
    rig.redis.signal(Signal::CONT);
    connected(&mut phone, &mut mac, "after Redis hung").await;
    rig.wait_up();
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_reconnect_after_the_subscriptions_are_lost() {
    let rig = Rig::new();
    let (mut phone, mut mac) = pair(&rig).await;
    // All subscriptions break, but all other connections stay open.
    assert!(rig.redis.ask("CLIENT KILL TYPE pubsub").starts_with(":3"));
    // The first node to reconnect closes its socket. If the second node is notified of that before
    // it has reconnected, its device gets peer-left instead of a close.
    let ended = |known: &Known| known.codes == [Some(1012)] || !known.left.is_empty();
    phone.wait("the end of the socket, or of the peer's", ended).await;
    mac.wait("the end of the socket, or of the peer's", ended).await;
    connected(&mut phone, &mut mac, "after the break").await;
    let codes = [phone.now().codes, mac.now().codes].concat();
    assert!(!codes.is_empty() && codes.iter().all(|code| *code == Some(1012)), "{codes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_cut_off_from_redis_closes_its_sockets() {
    let mut rig = Rig::new();
    let redis = SocketAddr::from(([127, 0, 0, 1], rig.redis.port));
    let wire = Balancer::to(vec![redis]).await;
    let cut_off = Node::start(rig.dir.path(), &format!("redis://{}", wire.address), &[]);
    rig.nodes[1] = cut_off;
    let (mut phone, mut mac) = pair(&rig).await;
    // The connections stay open, but no data passes.
    wire.freeze(true);
    let lost = mac.wait("the end of the socket", |known| !known.codes.is_empty()).await;
    assert_eq!(lost.codes, [Some(1013)]);
    // A load balancer would do the same after a failed health check.
    mac.balancer.direct(rig.addresses([2, 0, 1]));
    connected(&mut phone, &mut mac, "while it is cut off").await;
    assert_eq!(phone.now().codes, [], "the other nodes are not affected");
    assert_eq!(phone.now().left, [LeaveReason::Replaced]);
    assert_eq!(health(rig.nodes[1].address, "bus-down"), 503);
    let before = (phone.now().conn, mac.now().conn);
    // The delayed messages arrive now, and must have no effect.
    wire.freeze(false);
    assert_eq!(health(rig.nodes[1].address, "ok"), 200);
    connected(&mut phone, &mut mac, "when it is back").await;
    assert_eq!((phone.now().conn, mac.now().conn), before, "no socket was replaced");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_node_releases_its_leases() {
    let mut rig = Rig::new();
    let (mut phone, mut mac) = pair(&rig).await;
    rig.nodes[1].process.signal(Signal::TERM);
    phone.wait("peer-left", |known| !known.left.is_empty()).await;
    connected(&mut phone, &mut mac, "after the drain").await;
    assert_eq!(mac.now().codes, [Some(1012)]);
    assert_eq!(phone.now().codes, []);
    assert_eq!(phone.now().left, [LeaveReason::Closed]);
    let ended = rig.nodes.remove(1).process.end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

#[test]
fn keyframes_are_delivered_between_devices_on_different_nodes() {
    let (dir, redis) = (tempfile::tempdir().unwrap(), Redis::start(&[]));
    let words = ["serve", "--json", "--listen", "127.0.0.1:0", "--no-turn", "--bus"];
    let serve = || {
        let server = start(dir.path(), &[&words[..], &[&redis.url()]].concat());
        let address = server.event("listening", 1)["address"].as_str().unwrap().to_owned();
        health(address.parse().unwrap(), "ok");
        (server, address)
    };
    let ((_one, one), (_two, two)) = (serve(), serve());
    let (one, two) = (format!("ws://{one}"), format!("ws://{two}"));
    let recv = ["recv", "--json", "--signal", &one, "--out", "frames", "--count", "3"];
    let recv = start(dir.path(), &recv);
    let picture = sample("fig.jpg");
    let send = ["send", "--json", "--signal", &two, "--source", &picture, "--interval", "0.2s"];
    let sent = run(dir.path(), &[&send[..], &["--count", "3"]].concat());
    sent.well();
    let received = recv.end();
    received.well();
    assert_eq!(received.summary()["keyframes"]["verified"], 3);
}

#[test]
fn serve_fails_at_start_if_the_bus_is_unreachable_or_rejects_the_password() {
    let dir = tempfile::tempdir().unwrap();
    let redis = Redis::start(&["--requirepass", "hush"]);
    let serve = |bus: &str, more: &[&str]| {
        let words = ["serve", "--json", "--listen", "127.0.0.1:0", "--no-turn", "--bus", bus];
        run(dir.path(), &[&words[..], more].concat())
    };
    let wrong = serve(&redis.url(), &["--bus-password", "wrong"]);
    let error = wrong.failed(1, "server");
    assert!(error["remedy"].as_str().unwrap().contains("ORION_BUS_PASSWORD"), "{error}");
    assert!(!wrong.stderr.contains("wrong\""), "{}", wrong.stderr);
    serve(&redis.url(), &[]).failed(1, "server");
    let unreachable = serve("redis://127.0.0.1:1", &[]);
    assert!(unreachable.failed(1, "server")["message"].as_str().unwrap().contains("127.0.0.1:1"));
    serve("http://127.0.0.1:1", &[]).failed(2, "config");

    std::fs::write(dir.path().join("password"), "hush\n").unwrap();
    let words = ["serve", "--json", "--listen", "127.0.0.1:0", "--no-turn"];
    let url = redis.url();
    let right = ["--bus", &url, "--bus-password", "@password", "--bus-prefix", "mine:"];
    let server = start(dir.path(), &[&words[..], &right].concat());
    let address = server.event("listening", 1)["address"].as_str().unwrap().parse().unwrap();
    health(address, "ok");
}

#[test]
fn a_bus_with_tls_is_trusted_only_by_its_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let certificates = Certificates::for_names(&["127.0.0.1"]);
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let ca = file("ca.pem", &certificates.ca);
    let (cert, key) = (file("cert.pem", &certificates.server), file("key.pem", &certificates.key));
    let redis = Redis::with_tls(&[
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-auth-clients",
        "no",
    ]);
    let url = format!("rediss://127.0.0.1:{}", redis.port);
    let words = ["serve", "--json", "--listen", "127.0.0.1:0", "--no-turn", "--bus", &url];
    run(dir.path(), &words).failed(1, "server");
    let server = start(dir.path(), &[&words[..], &["--bus-ca", &ca]].concat());
    let address = server.event("listening", 1)["address"].as_str().unwrap().parse().unwrap();
    health(address, "ok");
}

/// A node that was stopped for longer than a lease must first close its sockets when it continues,
/// because another node has their leases by then.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes longer than a lease; the step `bus` of scripts/test.sh runs it"]
async fn a_node_that_was_stopped_closes_its_sockets() {
    let rig = Rig::new();
    let (mut phone, mut mac) = pair(&rig).await;
    rig.nodes[1].process.signal(Signal::STOP);
    // The balancer removes the node after a failed health check; the clients notice by their pings.
    mac.balancer.direct(vec![rig.nodes[2].address]);
    mac.wait("the end of the socket", |known| !known.codes.is_empty()).await;
    connected(&mut phone, &mut mac, "while it is stopped").await;
    let before = (phone.now().conn, mac.now().conn);
    tokio::time::sleep(Duration::from_secs(35)).await;
    rig.nodes[1].process.signal(Signal::CONT);
    rig.wait_up();
    connected(&mut phone, &mut mac, "when it is back").await;
    assert_eq!((phone.now().conn, mac.now().conn), before, "no socket was replaced");
    assert_eq!(phone.now().left, [LeaveReason::Replaced]);
}

/// The Mac does not return: its lease expires, and the phone is notified.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes longer than a lease; the step `bus` of scripts/test.sh runs it"]
async fn the_peer_of_a_device_on_a_stopped_node_is_notified_when_the_lease_expires() {
    let rig = Rig::new();
    let (mut phone, mut mac) = pair(&rig).await;
    rig.nodes[1].process.signal(Signal::STOP);
    mac.balancer.direct(Vec::new());
    let left = phone.wait("peer-left", |known| !known.left.is_empty()).await;
    assert_eq!(left.left, [LeaveReason::Timeout]);
    rig.nodes[1].process.signal(Signal::CONT);
    mac.balancer.direct(rig.addresses([2, 0, 1]));
    connected(&mut phone, &mut mac, "when it is back").await;
}
