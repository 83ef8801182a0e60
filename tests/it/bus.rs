//! Several nodes: a real Redis, three real `serve` processes, and the real client on both sides,
//! which must be connected again whatever is lost.

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

    /// Waits until every node takes sockets.
    fn wait_up(&self) {
        for node in &self.nodes {
            health(node.address, "ok");
        }
    }

    /// Kills a node as a crash would, and starts another one in its place.
    fn replace(&mut self, at: usize) {
        let new = Node::start(self.dir.path(), &self.redis.url(), &[]);
        std::mem::replace(&mut self.nodes[at], new).process.kill();
    }
}

fn get(address: SocketAddr, path: &str) -> (u16, String) {
    // A runtime of its own, on a thread of its own: the tests have one already.
    let asking = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(request(address, path, &[], ""))
        });
        thread.join().unwrap()
    });
    (asking.status, asking.body)
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
    panic!("{address} is never `{status}`");
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
async fn a_room_spans_nodes_and_behaves_as_on_one() {
    let rig = Rig::new();
    // The offer is held on node 0 until the Mac comes to node 1.
    let mut phone = Device::start("phone", rig.addresses([0, 2, 1])).await;
    phone.wait("hello", |known| known.offer == 1).await;
    assert!(!phone.now().present);
    let mut mac = Device::start("mac", rig.addresses([1, 2, 0])).await;
    let told = mac.wait("the held offer", |known| known.offer > 0).await;
    assert!(told.present, "hello says that the phone is there");
    connected(&mut phone, &mut mac, "at the start").await;
    assert_eq!(phone.now().peer, mac.now().conn);
    assert!(metric(rig.nodes[0].address, "orion_bus_messages_total{direction=\"sent\"}") >= 2);
    assert_eq!(metric(rig.nodes[0].address, "orion_bus_up"), 1);

    // The Mac comes again, on node 2: it takes over, and the old socket gets 4502.
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

    // It says bye, and leaves.
    newer.handle.send(Body::Bye { reason: None }).unwrap();
    phone.wait("bye", |known| known.bye).await;
    newer.handle.close().await;
    let left = phone.wait("peer-left", |known| known.left.len() == 2).await;
    assert_eq!(left.left[1], LeaveReason::Closed);
    assert!(!rig.redis.ask("KEYS *").contains(":mac"), "the lease is given up");
    for node in &rig.nodes {
        assert_eq!(metric(node.address, "orion_bus_sockets_closed_total{reason=\"gap\"}"), 0);
    }
}

/// Where in a negotiation something is lost.
#[derive(Debug, Clone, Copy)]
enum Step {
    Join,
    Offer,
    Answer,
    Ice,
    Bye,
}

/// What is lost.
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
    // What was connected before the loss must not count: the loss is seen first.
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
async fn a_lost_node_or_redis_at_any_step_ends_in_a_connection() {
    let mut rig = Rig::new();
    for loss in [Loss::PhonesNode, Loss::MacsNode, Loss::Redis] {
        for step in [Step::Join, Step::Offer, Step::Answer, Step::Ice, Step::Bye] {
            lose(&mut rig, step, loss).await;
            rig.wait_up();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_redis_closes_sockets_and_refuses_new_ones_until_it_is_back() {
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
async fn a_node_that_loses_its_subscription_alone_is_not_left_behind() {
    let rig = Rig::new();
    let (mut phone, mut mac) = pair(&rig).await;
    // All subscriptions break, and all other connections stay.
    assert!(rig.redis.ask("CLIENT KILL TYPE pubsub").starts_with(":3"));
    // The node that is back first closes its socket; the other one may hear of that before it has
    // looked, and then its device knows that the room is a new one.
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
    // Nothing is closed: packets just go nowhere.
    wire.freeze(true);
    let lost = mac.wait("the end of the socket", |known| !known.codes.is_empty()).await;
    assert_eq!(lost.codes, [Some(1013)]);
    // As its health check tells a load balancer.
    mac.balancer.direct(rig.addresses([2, 0, 1]));
    connected(&mut phone, &mut mac, "while it is cut off").await;
    assert_eq!(phone.now().codes, [], "the other nodes go on");
    assert_eq!(phone.now().left, [LeaveReason::Replaced]);
    assert_eq!(health(rig.nodes[1].address, "bus-down"), 503);
    let before = (phone.now().conn, mac.now().conn);
    // What was held up comes through after all, and is of no interest to anybody.
    wire.freeze(false);
    assert_eq!(health(rig.nodes[1].address, "ok"), 200);
    connected(&mut phone, &mut mac, "when it is back").await;
    assert_eq!((phone.now().conn, mac.now().conn), before, "nobody was disturbed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_node_gives_its_leases_up() {
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
fn keyframes_go_from_one_node_to_another() {
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
fn a_bus_that_is_not_there_or_refuses_the_password_is_refused_at_the_start() {
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
    let nobody = serve("redis://127.0.0.1:1", &[]);
    assert!(nobody.failed(1, "server")["message"].as_str().unwrap().contains("127.0.0.1:1"));
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
fn a_bus_with_tls_is_believed_by_its_certificate_only() {
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

/// A node that is stopped for longer than a lease must close its sockets before all else when it
/// goes on: by then they are another node's. Takes as long.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes longer than a lease; the step `bus` of scripts/test.sh runs it"]
async fn a_node_that_was_stopped_gives_up_its_sockets() {
    let rig = Rig::new();
    let (mut phone, mut mac) = pair(&rig).await;
    rig.nodes[1].process.signal(Signal::STOP);
    // The balancer's health check takes it out, and its clients notice by their pings.
    mac.balancer.direct(vec![rig.nodes[2].address]);
    mac.wait("the end of the socket", |known| !known.codes.is_empty()).await;
    connected(&mut phone, &mut mac, "while it is stopped").await;
    let before = (phone.now().conn, mac.now().conn);
    tokio::time::sleep(Duration::from_secs(35)).await;
    rig.nodes[1].process.signal(Signal::CONT);
    rig.wait_up();
    connected(&mut phone, &mut mac, "when it is back").await;
    assert_eq!((phone.now().conn, mac.now().conn), before, "nobody was disturbed");
    assert_eq!(phone.now().left, [LeaveReason::Replaced]);
}

/// The other device never comes back: the lease runs out, and the phone is told.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes longer than a lease; the step `bus` of scripts/test.sh runs it"]
async fn a_stopped_node_whose_client_stays_away_is_told_of_within_a_lease() {
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
