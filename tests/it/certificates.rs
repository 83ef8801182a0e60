//! Certificates generated for a test.

use std::sync::Arc;

use orion_peer::tls::Trust;
use rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};

/// A server's certificate, signed by a CA that is generated with it.
pub struct Certificates {
    /// The CA certificate in PEM.
    pub ca: String,
    /// The server's certificate in PEM.
    pub server: String,
    /// The server's key in PEM.
    pub key: String,
    /// The TLS configuration of a server with this certificate.
    pub config: Arc<ServerConfig>,
}

impl Certificates {
    /// Generates a certificate for these names and addresses.
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

    /// Trust in the CA.
    pub fn trust(&self) -> Trust {
        Trust::with(self.ca.as_bytes()).unwrap()
    }
}
