//! The trusted certificates: Mozilla's list and those of a PEM file (RFC 7468), or only those with
//! a given fingerprint.

use std::{
    fmt,
    sync::{Arc, LazyLock},
};

use rustls::{
    ClientConfig, RootCertStore,
    client::WebPkiServerVerifier,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};

use super::certificate::{Fingerprint, Judge};

/// The certificates a client trusts. Cheap to clone.
#[derive(Clone)]
pub struct Trust {
    client: Arc<ClientConfig>,
    added: Arc<[CertificateDer<'static>]>,
    pins: Arc<[Fingerprint]>,
}

/// Why a PEM file of certificates is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// The text is not PEM.
    #[error("not valid PEM: {0}")]
    Pem(String),
    /// The file is empty or contains only keys.
    #[error("it contains no certificate")]
    Empty,
    /// One of the certificates is not valid.
    #[error("certificate {number} in it is not valid: {reason}")]
    Certificate {
        /// Position of the certificate, from 1.
        number: usize,
        /// Why it is not valid.
        reason: String,
    },
}

impl TrustError {
    /// How to fix it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        "use a file with -----BEGIN CERTIFICATE----- blocks: the CA's certificate, not its key"
    }
}

impl Trust {
    /// Mozilla's list, which browsers use.
    #[must_use]
    pub fn web() -> Self {
        static WEB: LazyLock<Trust> = LazyLock::new(|| Trust::of(&[], &[]));
        WEB.clone()
    }

    /// Mozilla's list and the certificates of a PEM text.
    ///
    /// # Errors
    /// [`TrustError`] if there is no certificate or one cannot be used.
    pub fn with(pem: &[u8]) -> Result<Self, TrustError> {
        Ok(Self::of(&certificates(pem)?, &[]))
    }

    /// Mozilla's list and more certificates, from [`certificates`]; or, if there are pins, only
    /// server certificates with one of these fingerprints, regardless of their names and CA.
    #[must_use]
    pub fn of(added: &[CertificateDer<'static>], pins: &[Fingerprint]) -> Self {
        let provider = Arc::new(ring::default_provider());
        let mut roots = web_roots();
        roots.add_parsable_certificates(added.iter().cloned());
        let chains = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone())
            .build()
            .expect("Mozilla's list is not empty");
        let pins: Arc<[Fingerprint]> = pins.into();
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring speaks the default versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Judge { chains, pins: pins.clone() }))
            .with_no_client_auth();
        Self { client: Arc::new(client), added: added.into(), pins }
    }

    /// The client configuration for TLS connections.
    #[must_use]
    pub fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.client)
    }
}

impl Default for Trust {
    fn default() -> Self {
        Self::web()
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pins.is_empty() {
            write!(f, "Trust(web + {})", self.added.len())
        } else {
            write!(f, "Trust({} pinned)", self.pins.len())
        }
    }
}

/// Two values are equal if they trust the same certificates.
impl PartialEq for Trust {
    fn eq(&self, other: &Self) -> bool {
        self.added == other.added && self.pins == other.pins
    }
}

impl Eq for Trust {}

/// The certificates of a PEM text, each usable as a trust anchor.
///
/// # Errors
/// [`TrustError`] if there is no certificate or one cannot be used.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let found = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| TrustError::Pem(error.to_string()))?;
    if found.is_empty() {
        return Err(TrustError::Empty);
    }
    let mut roots = RootCertStore::empty();
    for (index, certificate) in found.iter().enumerate() {
        roots.add(certificate.clone()).map_err(|error| TrustError::Certificate {
            number: index + 1,
            reason: error.to_string(),
        })?;
    }
    Ok(found)
}

fn web_roots() -> RootCertStore {
    RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }
}
