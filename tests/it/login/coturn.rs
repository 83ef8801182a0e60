//! coturn with two secrets, as during rotation: it accepts credentials created with either.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use orion_peer::{
    auth::{secret::Secret, unix_now},
    proto::token::TokenAnswer,
    server::{Server, ServerConfig, TOKEN_PATH, TurnAdvert},
};
use tokio::net::TcpListener;

use crate::{raw_http::request, run::reserved_port};

/// A coturn on loopback, stopped when dropped.
struct Coturn {
    child: Child,
    addr: SocketAddr,
}

impl Drop for Coturn {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Coturn {
    fn start(dir: &Path, secrets: &[&str]) -> Self {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, reserved_port()));
        let secrets: Vec<String> =
            secrets.iter().map(|secret| format!("static-auth-secret={secret}")).collect();
        let text = format!(
            "listening-ip=127.0.0.1\nrelay-ip=127.0.0.1\nlistening-port={}\nrealm=test\n\
             use-auth-secret\nallow-loopback-peers\nno-cli\nno-tls\nno-dtls\nlog-file=stdout\n\
             pidfile={2}/pid\nuserdb={2}/db\n{1}\ncli-port=0\n",
            addr.port(),
            secrets.join("\n"),
            dir.display()
        );
        let (file, log) = (dir.join("turnserver.conf"), dir.join("log"));
        fs::write(&file, text).unwrap();
        let child = Command::new("turnserver")
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(fs::File::create(&log).unwrap())
            .stderr(fs::File::create(dir.join("errors")).unwrap())
            .spawn()
            .expect("turnserver is installed (Debian package coturn)");
        let mut coturn = Self { child, addr };
        for _ in 0..600 {
            // If the port cannot be bound, coturn is listening.
            if UdpSocket::bind(addr).is_err() {
                return coturn;
            }
            assert!(coturn.child.try_wait().unwrap().is_none(), "coturn ended");
            thread::sleep(Duration::from_millis(50));
        }
        panic!("coturn does not listen: {}", fs::read_to_string(&log).unwrap());
    }

    /// Whether coturn's own client gets an allocation with the credentials of a token response.
    async fn accepts(&self, secret: &str) -> bool {
        let mut config = ServerConfig::dev().await.unwrap();
        let url = format!("turn:{}?transport=udp", self.addr);
        let (urls, ttl) = (vec![url], Duration::from_hours(1));
        config.turn = Some(TurnAdvert {
            urls,
            secret: Secret::from(secret),
            ttl,
            names_pair: false,
            follows_client: false,
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server::start(config, listener).await.unwrap();
        let line = format!("POST {TOKEN_PATH}");
        let login = ["Authorization: Bearer dev"];
        let answer =
            request(server.local_addr(), &line, &login, r#"{"deviceId":"phone"}"#).await.json();
        let answer: TokenAnswer = serde_json::from_value(answer).unwrap();
        let turn = &answer.ice_servers[0];
        let username = turn.username.clone().unwrap();
        let until: u64 = username.split(':').next().unwrap().parse().unwrap();
        assert!(until >= unix_now() + 3590, "valid for an hour");
        let output = tokio::process::Command::new("turnutils_uclient")
            .args(["-y", "-c", "-n", "5", "-m", "1", "-z", "5", "-u", &username])
            .args(["-w", turn.credential.as_deref().unwrap()])
            .args(["-p", &self.addr.port().to_string(), "127.0.0.1"])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        // A rejected client retries indefinitely.
        let Ok(output) = tokio::time::timeout(Duration::from_secs(20), output).await else {
            return false;
        };
        let output = output.expect("turnutils_uclient is installed (Debian package coturn)");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.contains("Total lost packets 0")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn coturn_accepts_credentials_created_with_either_secret() {
    let dir = tempfile::tempdir().unwrap();
    let coturn = Coturn::start(dir.path(), &["north", "south"]);
    assert!(coturn.accepts("north").await, "the current secret");
    assert!(coturn.accepts("south").await, "the previous secret");
    assert!(!coturn.accepts("west").await, "another secret");
}
