use std::sync::Arc;

use rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    stun::message::{Builder, Class, method},
    tls::TrustError,
};

fn binding() -> Vec<u8> {
    Builder::new(Class::Request, method::BINDING, [0; 12]).finish()
}

#[test]
fn frames_of_a_stream_are_found() {
    assert_eq!(frame(b"\x00\x01\x00"), Ok(None));
    let binding = binding();
    assert_eq!(frame(&binding[..19]), Ok(None));
    assert_eq!(frame(&binding), Ok(Some((20, 0))));
    assert!(frame(&[0; 8]).is_err(), "no magic cookie");
    assert_eq!(frame(b"\x40\x00\x00\x01x"), Ok(None), "the padding belongs to the frame");
    assert_eq!(frame(b"\x40\x00\x00\x01x\0\0\0"), Ok(Some((5, 3))));
    assert!(frame(b"\x00\x01\x00\x03").is_err());
    assert!(frame(b"GET / HTTP/1.1").is_ok(), "`G` is in the range of channel numbers");
    assert!(frame(b"\x80\x00\x00\x00").is_err());
    assert!(frame(b"\x16\x03\x01\x02\x00\x01").is_err(), "a TLS handshake");
}

/// The configuration of a server with a certificate for these names, and its own CA as PEM.
fn certificate(names: &[&str], not_after: Option<i32>) -> (Arc<ServerConfig>, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = rcgen::CertifiedIssuer::self_signed(parameters, key).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut parameters = rcgen::CertificateParams::new(names).unwrap();
    if let Some(year) = not_after {
        parameters.not_after = rcgen::date_time_ymd(year, 1, 1);
    }
    let certificate = parameters.signed_by(&key, &ca).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    (Arc::new(config), ca.pem())
}

/// A server that returns every message; with `None`, over plain TCP.
async fn echo(tls: Option<Arc<ServerConfig>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let stream = match &tls {
                None => Stream::from(tcp),
                Some(config) => match TlsAcceptor::from(Arc::clone(config)).accept(tcp).await {
                    Ok(tls) => Stream::from(TlsStream::from(tls)),
                    Err(_) => continue,
                },
            };
            let (mut reader, mut writer) = stream.into_split();
            while let Ok(Some(message)) = reader.next().await {
                writer.send(&message).await.unwrap();
            }
        }
    });
    address
}

async fn messages_come_back(stream: Stream) {
    let (mut reader, mut writer) = stream.into_split();
    let long = [&[0x40, 0, 0xff, 0xff][..], &vec![7; 65535]].concat();
    let sent = [&binding()[..], b"\x40\x00\x00\x01x", &long, b"\x40\x01\x00\x00"];
    for message in sent {
        writer.push(message);
    }
    writer.flush().await.unwrap();
    for message in sent {
        assert_eq!(reader.next().await.unwrap().unwrap(), message);
    }
}

#[tokio::test]
async fn messages_pass_over_tcp() {
    let address = echo(None).await;
    let stream = dial(address, "any", None, Some(address.ip())).await.unwrap();
    messages_come_back(stream).await;
}

#[tokio::test]
async fn messages_pass_over_tls_by_name_and_by_address() {
    let (config, ca) = certificate(&["relay.example", "127.0.0.1"], None);
    let address = echo(Some(config)).await;
    let trust = Trust::with(ca.as_bytes()).unwrap();
    for host in ["relay.example", "127.0.0.1"] {
        messages_come_back(dial(address, host, Some(&trust), None).await.unwrap()).await;
    }
}

#[tokio::test]
async fn errors_name_the_problem_with_a_certificate() {
    let (config, ca) = certificate(&["relay.example"], None);
    let address = echo(Some(config)).await;
    let trust = Trust::with(ca.as_bytes()).unwrap();
    let wrong = dial(address, "other.example", Some(&trust), None).await.unwrap_err();
    assert_eq!(wrong.code(), "tls-name");
    let text = wrong.to_string();
    assert!(text.contains("not for other.example, but for relay.example"), "{text}");
    let wrong = dial(address, "relay.example", Some(&Trust::web()), None).await.unwrap_err();
    let DialError::UnknownCa { host, presented } = &wrong else { panic!("{wrong:?}") };
    assert_eq!(host, "relay.example");
    assert!(presented.contains("relay.example, SHA-256 "), "{presented}");
    assert!(wrong.remedy().contains("--ca"));
    let wrong = dial(address, "under_score..", Some(&trust), None).await.unwrap_err();
    assert_eq!(wrong.code(), "tls-name");

    let (config, ca) = certificate(&["relay.example"], Some(2020));
    let address = echo(Some(config)).await;
    let trust = Trust::with(ca.as_bytes()).unwrap();
    let wrong = dial(address, "relay.example", Some(&trust), None).await.unwrap_err();
    assert_eq!(wrong, DialError::Expired("relay.example".into()));
}

#[tokio::test]
async fn closed_and_plain_text_ports_are_distinguished() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = listener.local_addr().unwrap();
    drop(listener);
    let trust = Trust::web();
    let error = dial(closed, "h", Some(&trust), None).await.unwrap_err();
    assert_eq!(error, DialError::Refused(closed));

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut first, _) = listener.accept().await.unwrap();
        first.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        let (mut second, _) = listener.accept().await.unwrap();
        second.read_exact(&mut [0; 8]).await.unwrap();
        drop(second);
        std::future::pending::<()>().await;
    });
    let error = dial(plain, "h", Some(&trust), None).await.unwrap_err();
    assert_eq!(error, DialError::PlainText(plain));
    let error = dial(plain, "h", Some(&trust), None).await.unwrap_err();
    assert_eq!(error, DialError::Closed(plain));
}

#[tokio::test]
async fn an_end_within_a_message_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(&binding()).await.unwrap();
        stream.write_all(&binding()[..9]).await.unwrap();
    };
    let (stream, ()) = tokio::join!(dial(address, "h", None, None), server);
    let (mut reader, _writer) = stream.unwrap().into_split();
    assert_eq!(reader.next().await.unwrap().unwrap(), binding());
    assert_eq!(reader.next().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn files_without_valid_certificates_are_rejected() {
    assert_eq!(Trust::with(b"").err(), Some(TrustError::Empty));
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    assert_eq!(Trust::with(key.as_bytes()).err(), Some(TrustError::Empty));
    let cut = b"-----BEGIN CERTIFICATE-----\nAAAA\n";
    assert!(matches!(Trust::with(cut), Err(TrustError::Pem(_))));
    let wrong = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(matches!(Trust::with(wrong), Err(TrustError::Certificate { number: 1, .. })));
}

proptest::proptest! {
    #[test]
    fn a_frame_lies_within_its_stream(data in proptest::collection::vec(0u8.., 0..200)) {
        if let Ok(Some((length, padding))) = frame(&data) {
            assert!(length >= 4 && padding < 4 && length + padding <= data.len());
        }
    }
}
