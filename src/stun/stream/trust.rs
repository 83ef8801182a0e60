//! Which certificates are believed: those of the web (Mozilla's list), and more of a PEM file
//! (RFC 7468).

use std::{
    fmt,
    sync::{Arc, LazyLock},
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};

/// The certificates a client believes. Cheap to clone.
#[derive(Clone)]
pub struct Trust {
    client: Arc<ClientConfig>,
    added: Arc<[CertificateDer<'static>]>,
}

/// What is wrong with a PEM file of certificates.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// Its text.
    #[error("it is no PEM text: {0}")]
    Pem(String),
    /// Nothing in it, or only keys.
    #[error("there is no certificate in it")]
    Empty,
    /// One of its certificates.
    #[error("certificate {number} in it cannot be used: {reason}")]
    Certificate {
        /// Which, from 1.
        number: usize,
        /// Why.
        reason: String,
    },
}

impl TrustError {
    /// What to try.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        "give a file with -----BEGIN CERTIFICATE----- blocks: the CA's certificate, not its key"
    }
}

impl Trust {
    /// Mozilla's list, as browsers have it.
    #[must_use]
    pub fn web() -> Self {
        static WEB: LazyLock<Trust> = LazyLock::new(|| Trust::of(web_roots(), Vec::new()));
        WEB.clone()
    }

    /// Mozilla's list and the certificates of a PEM text.
    ///
    /// # Errors
    /// [`TrustError`] when there is none, or one that cannot be used.
    pub fn with(pem: &[u8]) -> Result<Self, TrustError> {
        let added = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| TrustError::Pem(error.to_string()))?;
        if added.is_empty() {
            return Err(TrustError::Empty);
        }
        let mut roots = web_roots();
        for (index, certificate) in added.iter().enumerate() {
            roots.add(certificate.clone()).map_err(|error| TrustError::Certificate {
                number: index + 1,
                reason: error.to_string(),
            })?;
        }
        Ok(Self::of(roots, added))
    }

    fn of(roots: RootCertStore, added: Vec<CertificateDer<'static>>) -> Self {
        let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring speaks the default versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { client: Arc::new(client), added: added.into() }
    }

    /// For TLS connections.
    #[must_use]
    pub fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.client)
    }

    /// The certificates beyond Mozilla's list, DER.
    #[must_use]
    pub fn added(&self) -> &[CertificateDer<'static>] {
        &self.added
    }
}

impl Default for Trust {
    fn default() -> Self {
        Self::web()
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trust(web + {})", self.added.len())
    }
}

/// Two are equal when they believe the same certificates.
impl PartialEq for Trust {
    fn eq(&self, other: &Self) -> bool {
        self.added == other.added
    }
}

impl Eq for Trust {}

fn web_roots() -> RootCertStore {
    RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }
}
