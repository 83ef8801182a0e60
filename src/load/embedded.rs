//! An embedded server: `orion-peer serve` as another process on a free port of this machine, with pairs in a file and
//! limits too high to matter.

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use super::plan;
use crate::{
    auth::secret::Secret,
    pairs::{StoreError, sqlite::SqlitePairs},
};

/// Timeout of its start.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Timeout of its stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedServerError {
    /// Its files cannot be created.
    #[error("cannot create `{path}`: {source}")]
    Files {
        /// Path of the file.
        path: PathBuf,
        /// The I/O error.
        source: io::Error,
    },
    /// Its pairs cannot be created.
    #[error(transparent)]
    Pairs(#[from] StoreError),
    /// The program cannot be started.
    #[error("cannot start another instance of this program: {0}")]
    Run(#[source] io::Error),
    /// It did not start to listen.
    #[error("the server did not start: {0}")]
    Start(String),
}

/// The server; dropping it kills it and removes its files.
#[derive(Debug)]
pub struct EmbeddedServer {
    child: Child,
    /// WebSocket URL.
    pub signal: String,
    /// SHA-256 of its certificate, with TLS.
    pub tls_pin: Option<String>,
    _dir: ServerDir,
}

/// The line in which `serve --json` reports that it listens.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listening {
    signal_url: String,
    tls_sha256: Option<String>,
}

impl EmbeddedServer {
    /// Starts a server with the pairs of `rooms` rooms and the key `secret`.
    ///
    /// # Errors
    /// [`EmbeddedServerError`]
    pub async fn start(
        rooms: u32,
        secret: &Secret,
        tls: bool,
    ) -> Result<Self, EmbeddedServerError> {
        let dir = ServerDir::make()?;
        let db = dir.0.join("pairs.db");
        let pairs: Vec<_> = (0..rooms).map(plan::pair).collect();
        let store = SqlitePairs::open(&db).await?;
        store.add_all(&pairs).await?;
        store.close().await;
        let config = dir.write("serve.toml", b"")?;
        let key = dir.write("jwt.key", secret.expose())?;
        let mut child =
            command(rooms, &config, &key, &db, tls).spawn().map_err(EmbeddedServerError::Run)?;
        let listening = timeout(START_TIMEOUT, listening(&mut child));
        let listening = listening.await.unwrap_or_else(|_| {
            let message = format!("it did not listen within {} s", START_TIMEOUT.as_secs());
            Err(EmbeddedServerError::Start(message))
        })?;
        let Listening { signal_url, tls_sha256 } = listening;
        Ok(Self { child, signal: signal_url, tls_pin: tls_sha256, _dir: dir })
    }

    /// Process ID of the server; `None` when it has ended.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Stops the server.
    pub async fn stop(mut self) {
        // It may already have ended.
        let _ = self.child.start_kill();
        let _ = timeout(STOP_TIMEOUT, self.child.wait()).await;
    }
}

fn command(rooms: u32, config: &Path, key: &Path, db: &Path, tls: bool) -> Command {
    let program = std::env::current_exe().unwrap_or_else(|_| "orion-peer".into());
    let mut command = Command::new(program);
    // The settings of this command must not affect the server.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ORION_") {
            command.env_remove(name);
        }
    }
    let sockets = (rooms * 2 + 16).to_string();
    command.args(["--json", "--config"]).arg(config).args(["serve", "--listen", "127.0.0.1:0"]);
    command.arg("--jwt-secret").arg(at(key)).arg("--db").arg(db).arg("--no-turn");
    for (flag, value) in [
        ("--max-sockets", sockets.as_str()),
        ("--max-connections", "2048"),
        ("--max-sockets-per-ip", "0"),
        ("--max-connections-per-ip", "0"),
        ("--ip-rate", "off"),
        ("--pair-rate", "off"),
        ("--user-rate", "off"),
        ("--socket-rate", "1000000:100000/s"),
    ] {
        command.args([flag, value]);
    }
    if tls {
        command.arg("--tls-self-signed");
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

fn at(path: &Path) -> std::ffi::OsString {
    let mut text = std::ffi::OsString::from("@");
    text.push(path);
    text
}

async fn listening(child: &mut Child) -> Result<Listening, EmbeddedServerError> {
    let cannot = |error: io::Error| EmbeddedServerError::Start(error.to_string());
    let (stdout, mut stderr) = child
        .stdout
        .take()
        .zip(child.stderr.take())
        .ok_or_else(|| EmbeddedServerError::Start("its output cannot be read".into()))?;
    let mut lines = BufReader::new(stdout).lines();
    while let Some(line) = lines.next_line().await.map_err(cannot)? {
        let Ok(found) = serde_json::from_str(&line) else { continue };
        // The remaining output is discarded: a full pipe would block the server.
        tokio::spawn(async move { tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await });
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        return Ok(found);
    }
    let mut output = String::new();
    stderr.read_to_string(&mut output).await.map_err(cannot)?;
    Err(EmbeddedServerError::Start(output.trim().to_owned()))
}

/// A temporary directory of this run.
#[derive(Debug)]
struct ServerDir(PathBuf);

impl ServerDir {
    fn make() -> Result<Self, EmbeddedServerError> {
        let path = std::env::temp_dir().join(format!("orion-load-{}", uuid::Uuid::new_v4()));
        let mut builder = std::fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        let made = builder.create(&path);
        made.map_err(|source| EmbeddedServerError::Files { path: path.clone(), source })?;
        Ok(Self(path))
    }

    fn write(&self, name: &str, text: &[u8]) -> Result<PathBuf, EmbeddedServerError> {
        let path = self.0.join(name);
        let written = std::fs::write(&path, text);
        written.map_err(|source| EmbeddedServerError::Files { path: path.clone(), source })?;
        Ok(path)
    }
}

impl Drop for ServerDir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::debug!(%error, "files of the server could not be removed");
        }
    }
}
