//! Signaling and the token API over TLS with a private CA: the library, and the binary with `--ca`.

use std::{net::SocketAddr, path::Path, sync::Arc};

use orion_peer::{
    server::{RunningServer, Server, ServerConfig},
    signaling::{
        client::token_client::TokenClient,
        client::{self, ClientConfig, ClientEvent},
    },
    tls::Trust,
    types::Stage,
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    certificates::Certificates,
    run::{Ended, HANG, run},
};

/// A dev server behind a TLS proxy.
struct Secured {
    server: RunningServer,
    address: SocketAddr,
    certificates: Certificates,
}

async fn secured() -> Secured {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let behind = listener.local_addr().unwrap();
    let server = Server::start(ServerConfig::dev().await.unwrap(), listener).await.unwrap();
    let certificates = Certificates::for_names(&["127.0.0.1"]);
    let acceptor = TlsAcceptor::from(Arc::clone(&certificates.config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut plain = TcpStream::connect(behind).await.unwrap();
                let _ = copy_bidirectional(&mut stream, &mut plain).await;
            });
        }
    });
    Secured { server, address, certificates }
}

impl Secured {
    fn tokens(&self, trust: &Trust) -> TokenClient {
        let url = format!("https://{}", self.address);
        TokenClient::new(&url, "dev", "phone".into(), None).unwrap().trusting(trust).unwrap()
    }

    /// The first event of a signaling client.
    async fn connect(&self, tokens: &Trust, socket: Trust) -> ClientEvent {
        let config = ClientConfig {
            trust: socket,
            ..ClientConfig::new(format!("wss://{}", self.address), Arc::new(self.tokens(tokens)))
        };
        let (_handle, mut events) = client::connect(config);
        timeout(HANG, events.recv())
            .await
            .expect("nothing happens")
            .expect("the client has stopped")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_ca_is_trusted_when_it_is_given() {
    let secured = secured().await;
    let trust = secured.certificates.trust();
    let event = secured.connect(&trust, trust.clone()).await;
    let ClientEvent::Connected { timings, .. } = event else { panic!("{event:?}") };
    assert!(timings.tls.is_some(), "the duration of the handshake is reported");

    let refused = secured.tokens(&Trust::web()).fetch().await.unwrap_err();
    assert_eq!((refused.stage(), refused.code().as_str()), (Stage::Tls, "tls-failed"), "{refused}");
    assert!(refused.remedy().contains("--ca"), "{}", refused.remedy());
    let event = secured.connect(&trust, Trust::web()).await;
    let ClientEvent::Closed { error: Some(error), .. } = event else { panic!("{event:?}") };
    assert_eq!((error.stage(), error.code().as_str()), (Stage::Tls, "tls-failed"), "{error}");
    assert!(error.remedy().contains("--ca"), "{}", error.remedy());
    secured.server.shutdown().await;
}

fn fetch(dir: &Path, url: &str, ca: &str) -> Ended {
    run(dir, &["token", "fetch", "--access-token", "dev", "--token-url", url, "--ca", ca])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_binary_takes_the_ca_from_a_file() {
    let secured = secured().await;
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("ca.pem", secured.certificates.ca.clone()),
        ("other.pem", Certificates::for_names(&["h"]).ca),
        ("key.pem", secured.certificates.key.clone()),
    ] {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let url = format!("https://{}", secured.address);
    for (ca, code, words) in [
        ("ca.pem", 0, "token for pair demo"),
        ("other.pem", 1, "tls"),
        ("key.pem", 2, "contains no certificate"),
        ("nothing.pem", 2, "cannot be read"),
    ] {
        let (dir, url) = (dir.path().to_owned(), url.clone());
        let ended = tokio::task::spawn_blocking(move || fetch(&dir, &url, ca)).await.unwrap();
        assert_eq!(ended.code, Some(code), "{ca}: {}", ended.stderr);
        assert!(ended.stderr.contains(words), "{ca}: {}", ended.stderr);
    }
    secured.server.shutdown().await;
}
