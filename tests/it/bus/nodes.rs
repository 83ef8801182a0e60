//! A real Redis, real `serve` processes connected to it, and a load balancer in front of them.

use std::{
    net::{SocketAddr, TcpListener as StdListener},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

use crate::run::{HANG, Running, start};

/// Secret that signs the tokens for all nodes.
pub const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A port that is currently free.
fn free_port() -> u16 {
    StdListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A Redis process of one test, without persistence.
pub struct Redis {
    child: Child,
    /// Its port on loopback.
    pub port: u16,
    arguments: Vec<String>,
}

impl Redis {
    /// Starts it with additional arguments.
    pub fn start(arguments: &[&str]) -> Self {
        let port = free_port();
        Self::on(port, &[&["--port", &port.to_string()], arguments].concat())
    }

    /// Starts it with TLS only, and with additional arguments.
    pub fn with_tls(arguments: &[&str]) -> Self {
        let port = free_port();
        Self::on(port, &[&["--port", "0", "--tls-port", &port.to_string()], arguments].concat())
    }

    fn on(port: u16, arguments: &[&str]) -> Self {
        let arguments: Vec<String> = arguments.iter().map(|&word| word.to_owned()).collect();
        Self { child: Self::spawn(port, &arguments), port, arguments }
    }

    fn spawn(port: u16, arguments: &[String]) -> Child {
        let mut child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", "/"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is missing: scripts/setup.sh installs it");
        for _ in 0..1000 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return child;
            }
            assert!(child.try_wait().unwrap().is_none(), "redis-server ended");
            std::thread::sleep(HANG / 1000);
        }
        panic!("redis-server does not listen on port {port}");
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Kills the process; all leases are lost.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts the process again, without any data.
    pub fn again(&mut self) {
        self.child = Self::spawn(self.port, &self.arguments);
    }

    /// The reply to a command whose arguments contain no spaces.
    pub fn ask(&self, words: &str) -> String {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(format!("{words}\r\nQUIT\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // Fails only if the process has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One `serve` process.
pub struct Node {
    pub process: Running,
    pub address: SocketAddr,
}

impl Node {
    /// Starts a node with the pair `demo` and its pair store in `dir`.
    pub fn start(dir: &Path, bus: &str, arguments: &[&str]) -> Self {
        let words = ["serve", "--json", "--listen", "127.0.0.1:0", "--no-turn", "--bus", bus];
        let pairs = ["--jwt-secret", SECRET, "--db", "pairs.db", "--add-pair", "demo:phone:mac:u"];
        let process = start(dir, &[&words[..], &pairs, arguments].concat());
        let listening = process.event("listening", 1);
        let address = listening["address"].as_str().unwrap().parse().unwrap();
        Self { process, address }
    }
}

/// Forwards each connection to the first node of a list that accepts it, like a load balancer.
pub struct Balancer {
    pub address: SocketAddr,
    targets: Arc<Mutex<Vec<SocketAddr>>>,
    frozen: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Balancer {
    pub async fn to(targets: Vec<SocketAddr>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let targets = Arc::new(Mutex::new(targets));
        let frozen = watch::Sender::new(false);
        let task = tokio::spawn(accept(listener, Arc::clone(&targets), frozen.clone()));
        Self { address, targets, frozen, task }
    }

    /// Pauses or resumes forwarding.
    pub fn freeze(&self, frozen: bool) {
        self.frozen.send_replace(frozen);
    }

    /// Sets the targets of new connections.
    pub fn direct(&self, targets: Vec<SocketAddr>) {
        *self.targets.lock().unwrap() = targets;
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    targets: Arc<Mutex<Vec<SocketAddr>>>,
    frozen: watch::Sender<bool>,
) {
    loop {
        let Ok((client, _)) = listener.accept().await else { return };
        let (targets, frozen) = (targets.lock().unwrap().clone(), frozen.subscribe());
        tokio::spawn(async move {
            for target in targets {
                let connecting = TcpStream::connect(target);
                let connected = tokio::time::timeout(Duration::from_secs(2), connecting).await;
                if let Ok(Ok(node)) = connected {
                    let (from_client, to_client) = client.into_split();
                    let (from_node, to_node) = node.into_split();
                    tokio::select! {
                        () = copy(from_client, to_node, frozen.clone()) => {}
                        () = copy(from_node, to_client, frozen) => {}
                    }
                    return;
                }
            }
        });
    }
}

/// Copies until either connection ends.
async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut frozen: watch::Receiver<bool>) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(read) = from.read(&mut buffer).await else { return };
        if frozen.wait_for(|frozen| !frozen).await.is_err() || read == 0 {
            return;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
