//! Signing keys from files: several keys, rotation by SIGHUP, and rejection of unusable ones.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use orion_peer::{
    auth::{
        jws::{Jws, SigningKeys},
        jwt::{Policy, Verifier},
        key_source::{KeyOrigin, KeySourceError, read},
        secret::Secret,
        unix_now,
    },
    proto::token::TokenAnswer,
};
use serde_json::json;

use crate::raw_http::request;

const EC: &[u8] = include_bytes!("../keys/ec.pem");
const RSA: &[u8] = include_bytes!("../keys/rsa.pem");
const RSA_PUBLIC: &[u8] = include_bytes!("../keys/rsa.pub");
const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn path(path: &Path) -> KeyOrigin {
    KeyOrigin::Path { kid: None, path: path.to_owned() }
}

fn kid_of(token: &str) -> String {
    Jws::parse(token).unwrap().header.kid.unwrap()
}

fn signer(keys: &SigningKeys) -> String {
    kid_of(&keys.sign(b"{}").unwrap())
}

#[test]
fn the_last_private_key_of_a_directory_signs_and_all_verify() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("2026-11.pem"), EC).unwrap();
    fs::write(dir.path().join(".hidden"), "not a key").unwrap();
    // Sorts last by name, and is long enough for a secret.
    fs::write(dir.path().join("README"), "Ask operations before you touch these keys.").unwrap();
    let before = read(&[path(dir.path())]).unwrap();
    // The public half is added first, so that all nodes know it.
    fs::write(dir.path().join("2026-12.pem"), RSA_PUBLIC).unwrap();
    let announced = read(&[path(dir.path())]).unwrap();
    assert_eq!(announced.keys().len(), 2);
    assert_eq!(signer(&announced), signer(&before));
    fs::write(dir.path().join("2026-12.pem"), RSA).unwrap();
    let rotated = read(&[path(dir.path())]).unwrap();
    assert_ne!(signer(&rotated), signer(&before));
    assert_eq!(
        signer(&rotated),
        announced.keys()[0].kid(),
        "both halves of a key have the same id: nodes with the public half accept its tokens"
    );
    let old = before.sign(b"{}").unwrap();
    assert_eq!(rotated.verify(&Jws::parse(&old).unwrap()), Ok(()));
    let new = rotated.sign(b"{}").unwrap();
    assert_eq!(announced.verify(&Jws::parse(&new).unwrap()), Ok(()));
}

#[test]
fn texts_files_and_explicit_ids_can_be_combined() {
    let dir = tempfile::tempdir().unwrap();
    let (secret, pem) = (dir.path().join("secret"), dir.path().join("key.pem"));
    fs::write(&secret, format!("{SECRET}\r\n")).unwrap();
    fs::write(&pem, EC).unwrap();
    let named = KeyOrigin::Path { kid: Some("kid-7".into()), path: pem.clone() };
    let keys = read(&[named, path(&secret)]).unwrap();
    assert_eq!(signer(&keys), "kid-7");
    let text = read(&[KeyOrigin::Text(Secret::from(SECRET))]).unwrap();
    let same = text.sign(b"{}").unwrap();
    assert_eq!(
        keys.verify(&Jws::parse(&same).unwrap()),
        Ok(()),
        "line endings are not part of the secret"
    );
}

#[test]
fn unusable_files_are_named_but_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let ec = file("a.pem", EC);
    let cases = [
        (vec![path(&dir.path().join("missing"))], "missing"),
        (vec![path(&file("short", b"hush-hush"))], "too short"),
        (vec![path(&file("bad.pem", b"-----BEGIN PRIVATE KEY-----\nhush"))], "bad.pem"),
        (vec![path(&file("long", &vec![b'x'; 70_000]))], "too large"),
        (vec![path(&empty)], "no key file"),
        (vec![KeyOrigin::Path { kid: Some("k".into()), path: empty.clone() }], "cannot have an id"),
        (vec![path(&ec), path(&ec)], "two keys"),
        (vec![], "no signing key"),
    ];
    for (origins, words) in cases {
        let error: KeySourceError = read(&origins).unwrap_err();
        assert!(error.to_string().contains(words), "{words}: {error}");
        assert!(!format!("{error} {error:?}").contains("hush-hush"), "{error}");
    }
}

/// `orion-peer serve` with the keys of a directory, stopped when dropped.
struct Serving {
    child: Child,
    addr: std::net::SocketAddr,
    log: std::path::PathBuf,
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Serving {
    fn start(dir: &Path, keys: &Path) -> Self {
        let log = dir.join("log");
        let login = dir.join("login");
        fs::write(&login, SECRET).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_orion-peer"))
            .current_dir(dir)
            .env_clear()
            .args(["--json", "-v", "serve", "--listen", "127.0.0.1:0", "--no-turn"])
            .args(["--db", "pairs.db", "--add-pair", "demo:phone:mac:user-1"])
            .args(["--ice-server", "stun:stun.example:3478"])
            .arg("--jwt-keys")
            .arg(keys)
            .arg(format!("--login-secret=@{}", login.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let event: serde_json::Value = serde_json::from_str(&line)
            .unwrap_or_else(|e| panic!("{e}: {line} {}", fs::read_to_string(&log).unwrap()));
        let addr = event["address"].as_str().unwrap().parse().unwrap();
        Self { child, addr, log }
    }

    async fn token(&self) -> TokenAnswer {
        let now = unix_now();
        let login = read(&[KeyOrigin::Text(Secret::from(SECRET))]).unwrap();
        let claims = json!({
            "sub": "user-1", "aud": "authenticated", "iat": now, "exp": now + 60,
        });
        let login = login.sign(claims.to_string().as_bytes()).unwrap();
        let header = format!("Authorization: Bearer {login}");
        let line = "POST /api/auth/webrtc-token";
        let answer = request(self.addr, line, &[&header], r#"{"deviceId":"phone"}"#).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        serde_json::from_value(answer.json()).unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Makes the server reload its keys, and waits for the log line.
    async fn hang_up(&self, says: &str) {
        let before = self.log().matches(says).count();
        let sent = Command::new("kill").args(["-HUP", &self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
        for _ in 0..1200 {
            if self.log().matches(says).count() > before {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no `{says}` in the log: {}", self.log());
    }
}

#[tokio::test]
async fn sighup_rotates_keys_and_an_unusable_file_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys");
    fs::create_dir(&keys).unwrap();
    fs::write(keys.join("1.pem"), EC).unwrap();
    let serving = Serving::start(dir.path(), &keys);
    let first = serving.token().await;
    assert_eq!(first.ice_servers[0].urls, ["stun:stun.example:3478"]);

    fs::write(keys.join("2.pem"), RSA).unwrap();
    serving.hang_up("signing keys reloaded").await;
    let second = serving.token().await;
    assert_ne!(kid_of(&first.token), kid_of(&second.token));

    fs::write(keys.join("3.pem"), "-----BEGIN PRIVATE KEY-----\nhush-hush").unwrap();
    serving.hang_up("cannot reload the signing keys").await;
    assert!(serving.log().contains("3.pem"), "{}", serving.log());
    assert!(!serving.log().contains("hush-hush"));
    assert_eq!(kid_of(&serving.token().await.token), kid_of(&second.token));

    let published = request(serving.addr, "GET /.well-known/jwks.json", &[], "").await.json();
    assert_eq!(published["keys"].as_array().unwrap().len(), 2);
    let both = read(&[path(&keys.join("1.pem")), path(&keys.join("2.pem"))]).unwrap();
    let verifier = Verifier::new(both, Policy::default());
    for token in [&first.token, &second.token] {
        assert!(verifier.verify(token, unix_now()).is_ok());
        assert!(!serving.log().contains(token.as_str()), "tokens are not logged");
    }
}

/// A server with the same file accepts the tokens of `token mint --secret @FILE`, as does `token inspect`.
#[test]
fn the_token_command_accepts_the_same_keys() {
    let dir = tempfile::tempdir().unwrap();
    let run = |words: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_orion-peer"))
            .env_clear()
            .current_dir(dir.path())
            .args(words)
            .output()
            .unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    for (name, text) in [("ec", EC), ("rsa", RSA), ("secret", SECRET.as_bytes())] {
        let file = dir.path().join(name);
        fs::write(&file, text).unwrap();
        let secret = format!("--secret=@{}", file.display());
        let token = run(&["token", "mint", "--device", "phone", "--pair", "demo", &secret]);
        let server = Verifier::new(read(&[path(&file)]).unwrap(), Policy::default());
        assert!(server.verify(token.trim(), unix_now()).is_ok(), "{name}");
        assert!(run(&["token", "inspect", &secret, token.trim()]).contains("accepted"), "{name}");
    }
}
