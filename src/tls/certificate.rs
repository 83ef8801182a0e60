//! Verifies the certificate that a server presents, by a chain to a known CA (RFC 5280 §6) or by its
//! fingerprint (a pin), without a CA.

use std::{fmt, net::IpAddr, str::FromStr, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use sha2::{Digest, Sha256};

/// A name for which no certificate can be issued (RFC 6761 §6.4).
const UNKNOWN: &str = "unknown.invalid";

/// SHA-256 of a certificate's DER, as `openssl x509 -fingerprint -sha256` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

/// Text that is not a fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a valid SHA-256 fingerprint: expected 64 hexadecimal digits, with or without colons"
)]
pub struct FingerprintError(String);

impl Fingerprint {
    /// The fingerprint of a certificate.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate.as_ref()).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || FingerprintError(text.chars().take(80).collect());
        let lower = text.trim().to_ascii_lowercase();
        let hex: String =
            lower.trim_start_matches("sha256:").chars().filter(|c| *c != ':').collect();
        if hex.len() != 64 || !hex.is_ascii() {
            return Err(wrong());
        }
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Self(bytes))
    }
}

/// The names and addresses for which a certificate is valid; empty if it cannot be read.
#[must_use]
pub fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let (Ok(parsed), Ok(unknown)) =
        (ParsedCertificate::try_from(certificate), ServerName::try_from(UNKNOWN))
    else {
        return Vec::new();
    };
    match verify_server_name(&parsed, &unknown) {
        Err(Error::InvalidCertificate(CertificateError::NotValidForNameContext {
            presented,
            ..
        })) => presented.iter().map(|name| plain(name)).collect(),
        _ => Vec::new(),
    }
}

/// The start and end of a certificate's validity (RFC 5280 §4.1.2.5), in seconds since 1970; none if
/// it cannot be read.
#[must_use]
pub fn validity(certificate: &CertificateDer<'_>) -> Option<(i64, i64)> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let validity = parsed.validity();
    Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

/// Whether a certificate is valid for a host, which is a DNS name or an IP address without brackets.
#[must_use]
pub fn is_for(certificate: &CertificateDer<'_>, host: &str) -> bool {
    let (Ok(parsed), Ok(name)) =
        (ParsedCertificate::try_from(certificate), ServerName::try_from(host))
    else {
        return false;
    };
    verify_server_name(&parsed, &name).is_ok()
}

/// `DnsName("a.example")` and `IpAddress(192.0.2.1)`, as rustls writes them, without the wrapping.
pub(crate) fn plain(name: &str) -> String {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
    let bare: String = inner.trim_matches('"').chars().filter(|c| !c.is_control()).collect();
    // rustls writes `0::1`.
    bare.parse::<IpAddr>().map_or(bare, |ip| ip.to_string())
}

/// Why a certificate is not trusted.
#[derive(Debug)]
pub enum Wrong {
    /// It matches none of the pinned fingerprints.
    Pin,
    /// rustls rejected it.
    Certificate(CertificateError),
}

/// A certificate that was presented but not trusted.
#[derive(Debug)]
pub struct Presented {
    /// Why it is not trusted.
    pub wrong: Wrong,
    /// The hosts for which it is valid.
    pub names: Vec<String>,
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
}

impl Presented {
    /// The certificate that caused a TLS error, if one did.
    #[must_use]
    pub fn in_error(error: &Error) -> Option<&Self> {
        match error {
            Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
                inner.downcast_ref()
            }
            _ => None,
        }
    }

    /// Describes the certificate by its hosts and its fingerprint.
    #[must_use]
    pub fn certificate(&self) -> String {
        let names =
            if self.names.is_empty() { "no host".to_owned() } else { self.names.join(", ") };
        format!("for {names}, SHA-256 {}", self.fingerprint)
    }
}

impl fmt::Display for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.wrong {
            Wrong::Pin => f.write_str("the certificate matches none of the pinned fingerprints")?,
            Wrong::Certificate(CertificateError::UnknownIssuer) => {
                f.write_str("the certificate is signed by an unknown CA")?;
            }
            // `openssl req -x509` creates such certificates.
            Wrong::Certificate(wrong) if format!("{wrong:?}").contains("CaUsedAsEndEntity") => f.write_str(
                "it is a CA's certificate, which a server cannot use itself: pin its SHA-256, or \
                 sign a certificate for the server with it",
            )?,
            Wrong::Certificate(wrong) => write!(f, "{wrong}")?,
        }
        write!(f, "; the server presented one {}", self.certificate())
    }
}

impl std::error::Error for Presented {}

/// Decides whether a certificate is trusted; its errors contain the rejected certificate.
#[derive(Debug)]
pub(super) struct Judge {
    pub chains: Arc<WebPkiServerVerifier>,
    /// If there are any, they alone decide, regardless of the certificate's names and CA.
    pub pins: Arc<[Fingerprint]>,
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let fingerprint = Fingerprint::of(end_entity);
        let refused = |wrong| {
            let presented = Presented { wrong, names: names(end_entity), fingerprint };
            Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(presented))))
        };
        if !self.pins.is_empty() {
            let pinned = self.pins.contains(&fingerprint);
            return pinned.then(ServerCertVerified::assertion).ok_or_else(|| refused(Wrong::Pin));
        }
        self.chains
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            .map_err(|error| match error {
                Error::InvalidCertificate(wrong) => refused(Wrong::Certificate(wrong)),
                other => other,
            })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_read_as_openssl_writes_them() {
        let certificate = CertificateDer::from(b"certificate".to_vec());
        let plain = Fingerprint::of(&certificate).to_string();
        assert_eq!(plain.len(), 64);
        let pairs: Vec<&str> = (0..32).map(|at| &plain[2 * at..2 * at + 2]).collect();
        let colons = pairs.join(":").to_uppercase();
        for text in [&plain, &colons, &format!("SHA256:{plain}"), &format!(" {plain}\n")] {
            assert_eq!(text.parse(), Ok(Fingerprint::of(&certificate)), "{text}");
        }
        for wrong in ["", "ab", &plain[1..], &plain.replace(&plain[..1], "g"), &"ä".repeat(32)] {
            assert!(wrong.parse::<Fingerprint>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_names_of_a_certificate_are_listed() {
        let key = rcgen::KeyPair::generate().unwrap();
        let listed = ["a.example", "*.b.example", "192.0.2.1", "2001:db8::1", "::1"];
        let parameters = rcgen::CertificateParams::new(listed.map(str::to_owned).to_vec()).unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        assert_eq!(names(certificate.der()), listed);
        assert!(is_for(certificate.der(), "x.b.example") && is_for(certificate.der(), "192.0.2.1"));
        assert!(!is_for(certificate.der(), "b.example") && !is_for(certificate.der(), "[::1]"));
        assert_eq!(names(&CertificateDer::from(vec![1, 2, 3])), Vec::<String>::new());
    }

    #[test]
    fn a_ca_certificate_used_by_a_server_is_reported() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = parameters.self_signed(&key).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
        let judge = Judge { chains: chains.build().unwrap(), pins: Arc::new([]) };
        let name = ServerName::try_from("a.example").unwrap();
        let error =
            judge.verify_server_cert(ca.der(), &[], &name, &[], UnixTime::now()).unwrap_err();
        let said = Presented::in_error(&error).unwrap().to_string();
        assert!(said.contains("a CA's certificate"), "{said}");
    }
}
