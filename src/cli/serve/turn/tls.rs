//! TLS of the embedded TURN server: certificate, key and the host name announced to clients.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;

use crate::{
    cli::{failure::Failure, serve::tls::unusable},
    server::tls::Tls as Certificate,
    stun::uri::{ServerUri, TLS_PORT, Transport},
    turn::TlsListener,
};

/// Flags of `serve` for TURN over TLS.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "STUN and TURN")]
// The fields are the flags' names.
#[allow(clippy::struct_field_names)]
pub struct TurnTlsArgs {
    /// PEM certificate chain (leaf first) for TURN over TLS; default: --tls-cert, if --turn-tls-port or --turn-tls-name
    /// is given
    #[arg(long, value_name = "FILE")]
    pub turn_tls_cert: Option<PathBuf>,
    /// PEM private key of the certificate
    #[arg(long, value_name = "FILE")]
    pub turn_tls_key: Option<PathBuf>,
    /// Port for TURN over TLS, on the IP address of --turn-listen; default: 5349
    #[arg(long, value_name = "PORT")]
    pub turn_tls_port: Option<u16>,
    /// Host name announced to clients for TURN over TLS; default: the address for TURN over UDP
    #[arg(long, value_name = "NAME")]
    pub turn_tls_name: Option<String>,
}

/// The TLS listener and the host announced to clients.
pub struct Tls {
    /// The listener of the TURN server.
    pub listener: TlsListener,
    host: String,
}

impl Tls {
    /// The `turns:` URL for token responses, with the bound port.
    #[must_use]
    pub fn url(&self, port: u16) -> String {
        ServerUri { turn: true, host: self.host.clone(), port, transport: Transport::Tls }
            .to_string()
    }
}

impl TurnTlsArgs {
    /// Reads the files. `listen` is the address of TURN over UDP, `host` the name announced for it, `shared` the
    /// certificate of the signaling server. A separate certificate is watched for changes while the runtime lives.
    ///
    /// # Errors
    /// Exit code 2: a missing flag, an unusable file, or a certificate for other names.
    pub fn read(
        &self,
        listen: SocketAddr,
        host: &str,
        shared: Option<&Certificate>,
    ) -> Result<Option<Tls>, Failure> {
        let wanted = self.turn_tls_port.is_some() || self.turn_tls_name.is_some();
        let certificate = match (&self.turn_tls_cert, &self.turn_tls_key, shared) {
            (Some(cert), Some(key), _) => {
                let own = Certificate::from_files(cert, key)
                    .map_err(|error| unusable(("--turn-tls-cert", "--turn-tls-key"), &error))?;
                if tokio::runtime::Handle::try_current().is_ok() {
                    tokio::spawn(own.clone().watch());
                }
                own
            }
            (None, None, _) if !wanted => return Ok(None),
            (None, None, Some(shared)) => shared.clone(),
            _ => {
                return Err(Failure::usage(
                    "TURN over TLS requires a certificate and its key",
                    "specify both --turn-tls-cert FILE and --turn-tls-key FILE, or --tls-cert and \
                     --tls-key for both signaling and TURN",
                ));
            }
        };
        let host = self.turn_tls_name.as_deref().unwrap_or(host).trim_matches(['[', ']']);
        if !certificate.is_for(host) {
            let names = certificate.names().join(", ");
            return Err(Failure::usage(
                format!("the certificate for TURN over TLS is valid for {names}, not for {host}"),
                "specify one of its names with --turn-tls-name, or use another certificate",
            ));
        }
        let address = SocketAddr::new(listen.ip(), self.turn_tls_port.unwrap_or(TLS_PORT));
        let listener = TlsListener { address, server: certificate.turn() };
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
    fn the_announced_name_matches_the_certificate() {
        assert!(TurnTlsArgs::default().read(listen(), "h", None).unwrap().is_none());
        let tls = files("192.0.2.7").args.read(listen(), "192.0.2.7", None).unwrap().unwrap();
        assert_eq!(tls.listener.address.to_string(), "192.0.2.7:5349");
        assert_eq!(tls.url(5349), "turns:192.0.2.7:5349?transport=tcp");
        let named = files("relay.example");
        let failure = named.args.read(listen(), "192.0.2.7", None).err().unwrap();
        assert!(failure.remedy.contains("--turn-tls-name"), "{failure}");
        let args = TurnTlsArgs {
            turn_tls_name: Some("relay.example".into()),
            turn_tls_port: Some(443),
            ..named.args
        };
        let tls = args.read(listen(), "192.0.2.7", None).unwrap().unwrap();
        assert_eq!(tls.listener.address.port(), 443);
        assert_eq!(tls.url(443), "turns:relay.example:443?transport=tcp");
    }

    #[test]
    fn the_signaling_certificate_can_be_shared() {
        let shared = Certificate::self_signed(&["relay.example".to_owned()]).unwrap();
        let off = TurnTlsArgs::default().read(listen(), "192.0.2.7", Some(&shared)).unwrap();
        assert!(off.is_none(), "TURN over TLS is opt-in");
        let named =
            TurnTlsArgs { turn_tls_name: Some("relay.example".into()), ..TurnTlsArgs::default() };
        let tls = named.read(listen(), "192.0.2.7", Some(&shared)).unwrap().unwrap();
        assert_eq!(tls.url(5349), "turns:relay.example:5349?transport=tcp");
        let port = TurnTlsArgs { turn_tls_port: Some(443), ..TurnTlsArgs::default() };
        let failure = port.read(listen(), "192.0.2.7", Some(&shared)).err().unwrap();
        assert!(failure.message.contains("relay.example"), "{failure}");
    }

    #[test]
    fn unusable_files_are_usage_errors() {
        let wrong = |args: &TurnTlsArgs, words: &str| {
            let failure = args.read(listen(), "192.0.2.7", None).err().unwrap();
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
        wrong(&TurnTlsArgs { turn_tls_cert: missing, ..good.args.clone() }, "cannot be read");
    }
}
