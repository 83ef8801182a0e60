//! TLS of the embedded TURN server: certificate and key from files, and the name clients are told.

use std::{net::SocketAddr, path::Path, path::PathBuf, sync::Arc};

use clap::Args;
use rustls::{
    ServerConfig,
    client::verify_server_name,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::ParsedCertificate,
};

use crate::{
    cli::failure::Failure,
    stun::uri::{ServerUri, TLS_PORT, Transport},
    turn::TlsListener,
};

/// Flags of `serve` for TURN over TLS.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "STUN and TURN")]
// The fields are the flags' names.
#[allow(clippy::struct_field_names)]
pub struct TurnTlsArgs {
    /// Certificate for TURN over TLS, PEM, with those between it and its CA; without it there is no TLS
    #[arg(long, value_name = "FILE")]
    pub turn_tls_cert: Option<PathBuf>,
    /// Key of that certificate, PEM
    #[arg(long, value_name = "FILE")]
    pub turn_tls_key: Option<PathBuf>,
    /// Port for TURN over TLS, beside --turn-listen; default 5349
    #[arg(long, value_name = "PORT")]
    pub turn_tls_port: Option<u16>,
    /// Host name that clients are told for TURN over TLS; default: the address for TURN over UDP
    #[arg(long, value_name = "NAME")]
    pub turn_tls_name: Option<String>,
}

/// Where to listen for TLS, and the host that clients are told.
pub struct Tls {
    /// For the server.
    pub listener: TlsListener,
    host: String,
}

impl Tls {
    /// The `turns:` URL for token answers, for the port that was bound.
    #[must_use]
    pub fn url(&self, port: u16) -> String {
        ServerUri { turn: true, host: self.host.clone(), port, transport: Transport::Tls }
            .to_string()
    }
}

impl TurnTlsArgs {
    /// Reads the files; `listen` is where TURN over UDP listens, `host` what clients are told for it.
    ///
    /// # Errors
    /// Exit code 2: one flag without another, a file that cannot be used, a certificate for other names.
    pub fn read(&self, listen: SocketAddr, host: &str) -> Result<Option<Tls>, Failure> {
        let (cert, key) = match (&self.turn_tls_cert, &self.turn_tls_key) {
            (Some(cert), Some(key)) => (cert, key),
            (None, None) if self.turn_tls_port.is_none() && self.turn_tls_name.is_none() => {
                return Ok(None);
            }
            _ => {
                return Err(Failure::usage(
                    "TURN over TLS needs a certificate and its key",
                    "give both --turn-tls-cert FILE and --turn-tls-key FILE",
                ));
            }
        };
        let chain = CertificateDer::pem_slice_iter(&file("--turn-tls-cert", cert)?)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| unusable("--turn-tls-cert", cert, &error))?;
        let Some(first) = chain.first() else {
            return Err(unusable("--turn-tls-cert", cert, &"there is no certificate in it"));
        };
        let host = self.turn_tls_name.as_deref().unwrap_or(host).trim_matches(['[', ']']);
        check_name(first, host).map_err(|error| {
            Failure::usage(
                format!("the certificate of --turn-tls-cert is not for {host}: {error}"),
                "give --turn-tls-name with a name it is for, or a certificate for this one",
            )
        })?;
        let key_der = PrivateKeyDer::from_pem_slice(&file("--turn-tls-key", key)?)
            .map_err(|error| unusable("--turn-tls-key", key, &error))?;
        let server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key_der))
            .map_err(|error| unusable("--turn-tls-key", key, &error))?;
        let address = SocketAddr::new(listen.ip(), self.turn_tls_port.unwrap_or(TLS_PORT));
        let listener = TlsListener { address, server: Arc::new(server) };
        Ok(Some(Tls { listener, host: host.to_owned() }))
    }

    /// The first of these flags that is given.
    #[must_use]
    pub fn given(&self) -> Option<&'static str> {
        [
            ("--turn-tls-cert", self.turn_tls_cert.is_some()),
            ("--turn-tls-key", self.turn_tls_key.is_some()),
            ("--turn-tls-port", self.turn_tls_port.is_some()),
            ("--turn-tls-name", self.turn_tls_name.is_some()),
        ]
        .into_iter()
        .find_map(|(flag, given)| given.then_some(flag))
    }
}

fn check_name(certificate: &CertificateDer<'_>, host: &str) -> Result<(), String> {
    let parsed = ParsedCertificate::try_from(certificate).map_err(|error| error.to_string())?;
    let name = ServerName::try_from(host).map_err(|error| error.to_string())?;
    verify_server_name(&parsed, &name).map_err(|error| error.to_string())
}

fn file(flag: &str, path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| {
        Failure::usage(
            format!("cannot read the file of {flag}, {}: {error}", path.display()),
            "check the path and its permissions",
        )
    })
}

fn unusable(flag: &str, path: &Path, error: &impl std::fmt::Display) -> Failure {
    Failure::usage(
        format!("{flag} {} cannot be used: {error}", path.display()),
        "give PEM files of a certificate for servers and of the key that belongs to it",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Files {
        dir: tempfile::TempDir,
        args: TurnTlsArgs,
    }

    fn files(name: &str) -> Files {
        let dir = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let made = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        let (cert_path, key_path) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        std::fs::write(&cert_path, made.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(&key_path, key.serialize_pem()).unwrap();
        let args = TurnTlsArgs {
            turn_tls_cert: Some(cert_path),
            turn_tls_key: Some(key_path),
            ..TurnTlsArgs::default()
        };
        Files { dir, args }
    }

    fn listen() -> SocketAddr {
        "192.0.2.7:3478".parse().unwrap()
    }

    #[test]
    fn clients_are_told_a_name_that_the_certificate_is_for() {
        assert!(TurnTlsArgs::default().read(listen(), "h").unwrap().is_none());
        let tls = files("192.0.2.7").args.read(listen(), "192.0.2.7").unwrap().unwrap();
        assert_eq!(tls.listener.address.to_string(), "192.0.2.7:5349");
        assert_eq!(tls.url(5349), "turns:192.0.2.7:5349?transport=tcp");
        let named = files("relay.example");
        let failure = named.args.read(listen(), "192.0.2.7").err().unwrap();
        assert!(failure.remedy.contains("--turn-tls-name"), "{failure}");
        let args = TurnTlsArgs {
            turn_tls_name: Some("relay.example".into()),
            turn_tls_port: Some(443),
            ..named.args
        };
        let tls = args.read(listen(), "192.0.2.7").unwrap().unwrap();
        assert_eq!(tls.listener.address.port(), 443);
        assert_eq!(tls.url(443), "turns:relay.example:443?transport=tcp");
    }

    #[test]
    fn files_that_cannot_be_used_are_usage_errors() {
        let wrong = |args: &TurnTlsArgs, words: &str| {
            let failure = args.read(listen(), "192.0.2.7").err().unwrap();
            assert_eq!(failure.exit, 2);
            assert!(failure.message.contains(words), "{failure}");
        };
        let (good, other) = (files("192.0.2.7"), files("192.0.2.7"));
        wrong(&TurnTlsArgs { turn_tls_key: None, ..good.args.clone() }, "and its key");
        wrong(&TurnTlsArgs { turn_tls_port: Some(443), ..TurnTlsArgs::default() }, "certificate");
        let swapped = TurnTlsArgs {
            turn_tls_cert: good.args.turn_tls_key.clone(),
            turn_tls_key: good.args.turn_tls_cert.clone(),
            ..TurnTlsArgs::default()
        };
        wrong(&swapped, "no certificate");
        let foreign = other.args.turn_tls_key.clone();
        wrong(&TurnTlsArgs { turn_tls_key: foreign, ..good.args.clone() }, "cannot be used");
        let missing = Some(good.dir.path().join("nothing.pem"));
        wrong(&TurnTlsArgs { turn_tls_cert: missing, ..good.args.clone() }, "cannot read");
    }
}
