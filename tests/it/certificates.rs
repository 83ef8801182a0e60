//! Certificates made for one test.

use std::sync::Arc;

use orion_peer::stun::stream::Trust;
use rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};

/// A server's certificate, signed by a CA of its own.
pub struct Certificates {
    /// The CA, PEM.
    pub ca: String,
    /// The server's certificate, PEM.
    pub server: String,
    /// The server's key, PEM.
    pub key: String,
    /// What a server makes of them.
    pub config: Arc<ServerConfig>,
}

impl Certificates {
    /// For these names and addresses.
    pub fn for_names(names: &[&str]) -> Self {
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let ca = rcgen::CertifiedIssuer::self_signed(parameters, key).unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = rcgen::KeyPair::generate().unwrap();
        let server = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &ca).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![server.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        Self {
            ca: ca.pem(),
            server: server.pem(),
            key: key.serialize_pem(),
            config: Arc::new(config),
        }
    }

    /// Trust in its CA.
    pub fn trust(&self) -> Trust {
        Trust::with(self.ca.as_bytes()).unwrap()
    }
}
