//! Starts, stops, freezes and kills the daemons. `PostgreSQL` refuses to run as root; in that case it runs as
//! the user of Debian's package.

use std::{
    fs,
    net::TcpListener,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Connection, Executor, PgConnection};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::{certificates::Certificates, raw_http::HANG};

/// Password of the role `owner`.
pub const PASSWORD: &str = "owner's pass:word@/?%";

/// A free TCP port.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The user for daemons that refuse to run as root; `None` if this process is not root.
fn other_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.starts_with("postgres:"));
    let line = line.expect("there is no user postgres: scripts/setup.sh installs PostgreSQL");
    let mut ids = line.split(':').skip(2).map(|id| id.parse().unwrap());
    Some((ids.next().unwrap(), ids.next().unwrap()))
}

/// A directory owned by that user.
fn directory() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    own(dir.path());
    dir
}

fn own(path: &Path) {
    if let Some((user, group)) = other_user() {
        chown(path, Some(user), Some(group)).unwrap();
    }
}

fn command(program: &Path, dir: &Path) -> Command {
    let log = fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
    let mut command = Command::new(program);
    command
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .env("LC_ALL", "C");
    if let Some((user, group)) = other_user() {
        command.uid(user).gid(group);
    }
    command
}

/// The newest `PostgreSQL` of Debian's packages.
fn program(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<_> = versions.map(|version| version.path().join("bin").join(name)).collect();
    found.retain(|path| path.exists());
    found.sort();
    found.pop().unwrap_or_else(|| panic!("there is no {name}: scripts/setup.sh installs it"))
}

pub struct Postgres {
    dir: TempDir,
    port: u16,
    child: Child,
}

impl Postgres {
    /// A new, empty database owned by the role `owner`.
    pub fn start() -> Self {
        let (dir, port) = (directory(), free_port());
        let file = dir.path().join("password");
        fs::write(&file, PASSWORD).unwrap();
        own(&file);
        let made = command(&program("initdb"), dir.path())
            .args(["-D", "data", "-U", "owner", "-A", "scram-sha-256", "--pwfile=password"])
            .args(["-E", "UTF8", "--no-locale", "--no-sync"])
            .status()
            .unwrap();
        assert!(made.success(), "{}", fs::read_to_string(dir.path().join("log")).unwrap());
        let child = spawn(&dir, port);
        let postgres = Self { dir, port, child };
        postgres.wait();
        postgres
    }

    fn wait(&self) {
        let ready = || {
            let port = self.port.to_string();
            let mut asked = Command::new(program("pg_isready"));
            asked.args(["-q", "-h", "127.0.0.1", "-p", &port]).status().unwrap().success()
        };
        for _ in 0..600 {
            if ready() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("{}", fs::read_to_string(self.dir.path().join("log")).unwrap());
    }

    /// Accepts only TLS connections from now on.
    pub async fn only_tls(&self, certificates: &Certificates) {
        use std::os::unix::fs::PermissionsExt;
        let data = self.dir.path().join("data");
        let hba = "hostssl all all 127.0.0.1/32 scram-sha-256\n";
        let files = [
            ("server.crt", certificates.server.as_str()),
            ("server.key", &certificates.key),
            ("pg_hba.conf", hba),
        ];
        for (name, text) in files {
            let path = data.join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            own(&path);
        }
        self.sql("owner", "ALTER SYSTEM SET ssl = on").await.unwrap();
        self.sql("owner", "SELECT pg_reload_conf()").await.unwrap();
    }

    /// URL of the database for a role, without a password.
    pub fn url(&self, role: &str) -> String {
        format!("postgres://{role}@127.0.0.1:{}/postgres", self.port)
    }

    /// Runs statements as a role; returns the number of rows, or the server's error.
    pub async fn sql(&self, role: &str, sql: &str) -> Result<usize, String> {
        self.sql_after(role, "SELECT 1", sql).await
    }

    /// Like [`Self::sql`], after another statement in the same session.
    pub async fn sql_after(&self, role: &str, before: &str, sql: &str) -> Result<usize, String> {
        let password = if role == "owner" { PASSWORD } else { "pw" };
        let options = self.url(role).parse::<sqlx::postgres::PgConnectOptions>().unwrap();
        let options = options.password(password);
        let connect = PgConnection::connect_with(&options);
        let mut connection = timeout(HANG, connect).await.unwrap().unwrap();
        let safe = |sql: &str| sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()));
        connection.execute(safe(before)).await.unwrap();
        let rows = connection.fetch_all(safe(sql)).await;
        rows.map(|rows| rows.len()).map_err(|error| error.to_string())
    }

    /// Waits until `count` connections listen.
    pub async fn until_listening(&self, count: usize) {
        let sql = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%'";
        let see = async {
            while self.sql("owner", sql).await.unwrap() < count {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(HANG, see).await.expect("too few connections listen");
    }

    /// Kills the server immediately, like a crash.
    pub fn kill(&mut self) {
        signal(self.child.id(), Signal::QUIT);
        self.child.wait().unwrap();
    }

    /// Restarts the server after [`Self::kill`].
    pub fn restart(&mut self) {
        self.child = spawn(&self.dir, self.port);
        self.wait();
    }

    /// Stops all its processes: connections stay open, but nothing is answered.
    pub fn freeze(&self) {
        self.signal_all(Signal::STOP);
    }

    /// Ends a [`Self::freeze`].
    pub fn thaw(&self) {
        self.signal_all(Signal::CONT);
    }

    fn signal_all(&self, what: Signal) {
        signal(self.child.id(), what);
        let path = format!("/proc/{0}/task/{0}/children", self.child.id());
        for child in fs::read_to_string(path).unwrap_or_default().split_whitespace() {
            signal(child.parse().unwrap(), what);
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.thaw();
        signal(self.child.id(), Signal::QUIT);
        let _ = self.child.wait();
    }
}

fn spawn(dir: &TempDir, port: u16) -> Child {
    command(&program("postgres"), dir.path())
        .args(["-D", "data", "-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"])
        .args(["-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "shared_buffers=8MB"])
        .spawn()
        .unwrap()
}

/// Signals a process; one that has already ended is ignored.
fn signal(pid: u32, what: Signal) {
    let _ = kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), what);
}

pub struct PgBouncer {
    dir: TempDir,
    port: u16,
    child: Child,
}

impl PgBouncer {
    /// A pooler in transaction mode with few server connections.
    pub fn start(postgres: &Postgres) -> Self {
        let (dir, port) = (directory(), free_port());
        let password = PASSWORD.replace('\'', "''");
        let config = format!(
            "[databases]\n\
             postgres = host=127.0.0.1 port={} dbname=postgres user=owner password='{password}'\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = plain\nauth_file = users\n\
             pool_mode = transaction\ndefault_pool_size = 3\nserver_round_robin = 1\n",
            postgres.port
        );
        fs::write(dir.path().join("pgbouncer.ini"), config).unwrap();
        fs::write(dir.path().join("users"), format!("\"owner\" \"{PASSWORD}\"\n")).unwrap();
        let path = Path::new("/usr/sbin/pgbouncer");
        assert!(path.exists(), "there is no pgbouncer: scripts/setup.sh installs it");
        let child = command(path, dir.path()).arg("pgbouncer.ini").spawn().unwrap();
        let pooler = Self { dir, port, child };
        pooler.wait();
        pooler
    }

    fn wait(&self) {
        for _ in 0..300 {
            if std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("{}", fs::read_to_string(self.dir.path().join("log")).unwrap());
    }

    pub fn url(&self, role: &str) -> String {
        format!("postgres://{role}@127.0.0.1:{}/postgres", self.port)
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        signal(self.child.id(), Signal::QUIT);
        let _ = self.child.wait();
    }
}
