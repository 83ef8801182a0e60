//! TLS of the server (RFC 8446, RFC 5246): certificate and key from PEM files (RFC 7468), which are reloaded
//! when they change, or a self-signed certificate for this run.
//!
//! The HTTP and TURN listeners have separate configurations, but both get the certificate from the same
//! [`Tls`], so that both use a new one from the next handshake on. Existing connections are not affected.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::{
    lock::locked,
    signaling::server::counters::Family,
    tls::certificate::{self, Fingerprint},
};

/// Protocol of the HTTP listener in ALPN (RFC 7301 §6).
const HTTP_1_1: &[u8] = b"http/1.1";

/// Interval between checks of the files.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Remaining validity of a certificate below which a warning is logged, seconds: a week.
const EXPIRES_SOON_S: i64 = 7 * 24 * 3600;

/// Why there is no usable certificate.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{} cannot be read: {cause}", path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        cause: io::Error,
    },
    /// The file contains no certificate, or a damaged one.
    #[error("{} cannot be used: {cause}", path.display())]
    Certificate {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with its contents.
        cause: String,
    },
    /// The file contains no key, an unusable one, or the key of another certificate.
    #[error("{} cannot be used: {cause}", path.display())]
    Key {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with its contents.
        cause: String,
    },
    /// A self-signed certificate cannot be created.
    #[error("cannot create a certificate for {names}: {cause}")]
    SelfSigned {
        /// The names, separated by commas.
        names: String,
        /// Error of the certificate generator.
        cause: String,
    },
}

impl TlsError {
    /// What to do, as an imperative sentence.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Read { .. } => "check the path and its permissions",
            Self::Certificate { .. } => {
                "use a PEM file with the server's certificate, followed by the intermediate \
                 certificates"
            }
            Self::Key { .. } => {
                "use the PEM file of the certificate's own key (PKCS#8, SEC1 or PKCS#1), without a \
                passphrase: remove it with `openssl pkey -in KEY -out PLAIN.pem`"
            }
            Self::SelfSigned { .. } => "listen on an address of this machine",
        }
    }
}

/// The files of a certificate and its key.
#[derive(Debug)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

/// Contents of certificate and key file as last read, whether they were usable or not.
type Texts = (Vec<u8>, Vec<u8>);

#[derive(Debug)]
struct Shared {
    current: RwLock<Arc<CertifiedKey>>,
    files: Option<Files>,
    read: Mutex<Texts>,
    reloads: Family,
}

/// Certificate and key of a server; clones share them.
#[derive(Debug, Clone)]
pub struct Tls(Arc<Shared>);

impl Tls {
    /// Reads a certificate chain, the server's own certificate first, and its key.
    ///
    /// # Errors
    /// [`TlsError`] with the file and what is wrong with it.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let files = Files { certificate: certificate.to_owned(), key: key.to_owned() };
        let texts = files.read()?;
        let certified = files.certified(&texts)?;
        Ok(Self::of(certified, Some(files), texts))
    }

    /// Creates a self-signed certificate for these names and addresses: for runs on one machine or one
    /// network, with clients that know its fingerprint.
    ///
    /// # Errors
    /// [`TlsError::SelfSigned`] for a name that cannot be in a certificate.
    pub fn self_signed(names: &[String]) -> Result<Self, TlsError> {
        let failed = |cause: String| TlsError::SelfSigned { names: names.join(", "), cause };
        let made = || {
            let key = rcgen::KeyPair::generate()?;
            let mut parameters = rcgen::CertificateParams::new(names.to_vec())?;
            parameters.distinguished_name.push(rcgen::DnType::CommonName, "orion-peer");
            let certificate = parameters.self_signed(&key)?;
            Ok((certificate.der().clone(), key.serialize_der()))
        };
        let (certificate, key) = made().map_err(|e: rcgen::Error| failed(e.to_string()))?;
        let key = PrivateKeyDer::try_from(key).map_err(|error| failed(error.to_owned()))?;
        let certified = CertifiedKey::from_der(vec![certificate], key, &ring::default_provider())
            .map_err(|error| failed(error.to_string()))?;
        Ok(Self::of(certified, None, Texts::default()))
    }

    fn of(certified: CertifiedKey, files: Option<Files>, texts: Texts) -> Self {
        Self(Arc::new(Shared {
            current: RwLock::new(Arc::new(certified)),
            files,
            read: Mutex::new(texts),
            reloads: Family::new(&["ok", "failed"]),
        }))
    }

    /// Configuration of the HTTP listener.
    #[must_use]
    pub fn http(&self) -> Arc<ServerConfig> {
        self.server(&[HTTP_1_1])
    }

    /// Configuration of TURN over TLS.
    #[must_use]
    pub fn turn(&self) -> Arc<ServerConfig> {
        self.server(&[])
    }

    fn server(&self, protocols: &[&[u8]]) -> Arc<ServerConfig> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring supports the default versions")
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&self.0) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        // No session cache: it would grow to a few MiB, and clients rarely reconnect.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Arc::new(config)
    }

    /// The fingerprint of the certificate, for clients that pin it.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.leaf())
    }

    /// The names and addresses in the certificate.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        certificate::names(&self.leaf())
    }

    /// Whether the certificate is valid for a host: a DNS name, or an IP address without brackets.
    #[must_use]
    pub fn is_for(&self, host: &str) -> bool {
        certificate::is_for(&self.leaf(), host)
    }

    /// When the certificate expires, seconds since 1970.
    #[must_use]
    pub fn expires(&self) -> Option<i64> {
        certificate::validity(&self.leaf()).map(|(_, end)| end)
    }

    /// What is wrong with the certificate's validity period at `now`, seconds since 1970; `None` if nothing is.
    #[must_use]
    pub fn untimely(&self, now: i64) -> Option<String> {
        let (begin, end) = certificate::validity(&self.leaf())?;
        let date = |at| {
            jiff::Timestamp::from_second(at).map_or_else(|_| at.to_string(), |at| at.to_string())
        };
        match now {
            now if now < begin => Some(format!("is not valid before {}", date(begin))),
            now if now > end => Some(format!("expired at {}", date(end))),
            now if now > end - EXPIRES_SOON_S => Some(format!("expires at {}", date(end))),
            _ => None,
        }
    }

    /// Logs a warning when clients reject the certificate because of its validity period, or soon will.
    pub fn tell_untimely(&self) {
        if let Some(trouble) = self.untimely(jiff::Timestamp::now().as_second()) {
            let names = self.names().join(", ");
            tracing::warn!(
                "the TLS certificate for {names} {trouble}: renew its files, which are reloaded automatically"
            );
        }
    }

    /// Whether the certificate comes from files, and can change.
    #[must_use]
    pub fn has_files(&self) -> bool {
        self.0.files.is_some()
    }

    /// Counts the reloads of changed files, by result.
    #[must_use]
    pub fn reloads(&self) -> &Family {
        &self.0.reloads
    }

    fn leaf(&self) -> CertificateDer<'static> {
        let current = self.0.current();
        current.cert.first().expect("a chain in use is not empty").clone()
    }

    /// Reloads the files if they changed; true when another certificate or key is now in use.
    ///
    /// # Errors
    /// [`TlsError`] when they are not usable; the certificate and key in use do not change.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let Some(files) = &self.0.files else { return Ok(false) };
        let mut read = locked(&self.0.read);
        let texts = files.read()?;
        if *read == texts {
            return Ok(false);
        }
        let certified = files.certified(&texts);
        // Unusable files are reported only once until they change.
        *read = texts;
        drop(read);
        *self.0.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(certified?);
        Ok(true)
    }

    /// Reloads the files if they changed; logs and counts the result.
    pub fn refresh(&self) {
        match self.reload() {
            Ok(false) => {}
            Ok(true) => {
                self.0.reloads.count("ok");
                tracing::info!(sha256 = %self.fingerprint(), "TLS certificate reloaded");
                self.tell_untimely();
            }
            Err(error) => {
                self.0.reloads.count("failed");
                let remedy = error.remedy();
                tracing::error!(%error, remedy, "cannot reload the TLS certificate; the previous one stays in use");
            }
        }
    }

    /// Checks the files periodically; runs until it is dropped.
    pub async fn watch(self) {
        self.tell_untimely();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let tls = self.clone();
            // The files may be on a slow disk.
            if let Err(error) = tokio::task::spawn_blocking(move || tls.refresh()).await {
                tracing::error!(%error, "cannot check the TLS files");
            }
        }
    }
}

impl Shared {
    fn current(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesServerCert for Shared {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl Files {
    fn read(&self) -> Result<Texts, TlsError> {
        let read = |path: &PathBuf| {
            fs::read(path).map_err(|cause| TlsError::Read { path: path.clone(), cause })
        };
        Ok((read(&self.certificate)?, read(&self.key)?))
    }

    fn certified(&self, (certificate, key): &Texts) -> Result<CertifiedKey, TlsError> {
        let unusable =
            |cause: String| TlsError::Certificate { path: self.certificate.clone(), cause };
        let bad_key = |cause: String| TlsError::Key { path: self.key.clone(), cause };
        let chain = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| unusable(error.to_string()))?;
        let Some(leaf) = chain.first() else {
            return Err(unusable("it contains no certificate".into()));
        };
        rustls::server::ParsedCertificate::try_from(leaf)
            .map_err(|error| unusable(error.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
            rustls::pki_types::pem::Error::NoItemsFound => {
                bad_key("it contains no key without a passphrase".into())
            }
            error => bad_key(error.to_string()),
        })?;
        CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                let certificate = self.certificate.display();
                bad_key(format!("it is not the key of the certificate in {certificate}"))
            }
            error => bad_key(error.to_string()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pair {
        dir: tempfile::TempDir,
    }

    impl Pair {
        fn new(name: &str) -> Self {
            let pair = Self { dir: tempfile::tempdir().unwrap() };
            pair.renew(name);
            pair
        }

        fn renew(&self, name: &str) {
            let key = rcgen::KeyPair::generate().unwrap();
            let made = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
            fs::write(self.certificate(), made.self_signed(&key).unwrap().pem()).unwrap();
            fs::write(self.key(), key.serialize_pem()).unwrap();
        }

        fn certificate(&self) -> PathBuf {
            self.dir.path().join("cert.pem")
        }

        fn key(&self) -> PathBuf {
            self.dir.path().join("key.pem")
        }

        fn read(&self) -> Result<Tls, TlsError> {
            Tls::from_files(&self.certificate(), &self.key())
        }
    }

    #[test]
    fn changed_files_are_reloaded_and_unusable_ones_are_ignored() {
        let pair = Pair::new("a.example");
        let tls = pair.read().unwrap();
        assert_eq!(tls.names(), ["a.example"]);
        assert!(!tls.reload().unwrap(), "nothing changed");
        let first = tls.fingerprint();

        fs::write(pair.certificate(), Pair::new("b.example").certificate_text()).unwrap();
        let error = tls.reload().unwrap_err();
        assert!(error.to_string().contains("not the key of the certificate"), "{error}");
        assert_eq!(tls.fingerprint(), first, "a certificate without its key is not used");
        assert!(!tls.reload().unwrap(), "reported once");

        fs::remove_file(pair.key()).unwrap();
        assert!(matches!(tls.reload(), Err(TlsError::Read { .. })));
        pair.renew("c.example");
        assert!(tls.reload().unwrap());
        assert_eq!(tls.names(), ["c.example"]);
        tls.refresh();
        assert_eq!(tls.reloads().get("ok"), 0, "nothing changed");
    }

    impl Pair {
        fn certificate_text(&self) -> String {
            fs::read_to_string(self.certificate()).unwrap()
        }
    }

    #[test]
    fn a_certificate_that_is_not_valid_now_is_reported() {
        let pair = Pair::new("a.example");
        let key = rcgen::KeyPair::generate().unwrap();
        let mut made = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        made.not_before = rcgen::date_time_ymd(2020, 1, 1);
        made.not_after = rcgen::date_time_ymd(2020, 3, 1);
        fs::write(pair.certificate(), made.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(pair.key(), key.serialize_pem()).unwrap();
        let tls = pair.read().unwrap();
        let end = 1_583_020_800;
        assert_eq!(tls.expires(), Some(end));
        let reported = |at: i64| tls.untimely(at).unwrap_or_default();
        assert_eq!(reported(end - EXPIRES_SOON_S), "");
        assert_eq!(reported(end - 60), "expires at 2020-03-01T00:00:00Z");
        assert_eq!(reported(end + 1), "expired at 2020-03-01T00:00:00Z");
        assert_eq!(reported(1_577_836_799), "is not valid before 2020-01-01T00:00:00Z");
    }

    #[test]
    fn unusable_files_are_rejected_with_a_reason() {
        let pair = Pair::new("a.example");
        let encrypted =
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        for (key, words) in [("", "passphrase"), (encrypted, "passphrase")] {
            fs::write(pair.key(), key).unwrap();
            let error = pair.read().unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        }
        fs::write(pair.certificate(), "nothing").unwrap();
        assert!(pair.read().unwrap_err().to_string().contains("no certificate"));
        let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        fs::write(pair.certificate(), damaged).unwrap();
        assert!(matches!(pair.read().unwrap_err(), TlsError::Certificate { .. }));
    }

    #[test]
    fn a_self_signed_certificate_is_for_names_and_addresses() {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        let tls = Tls::self_signed(&names).unwrap();
        assert!(names.iter().all(|name| tls.is_for(name)));
        assert!(!tls.is_for("192.0.2.1") && !tls.has_files());
        assert_ne!(tls.fingerprint(), Tls::self_signed(&names).unwrap().fingerprint());
    }
}
