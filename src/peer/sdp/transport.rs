//! The transport of a remote description: ICE credentials, candidates, DTLS fingerprint and role. This peer has one
//! transport for all m-lines, and `rtc` 0.21.1 accepts a description only if all lines agree on it.
//!
//! - ICE credentials that differ between m-lines are rejected (`peer_connection/sdp/mod.rs:1276`), although a
//!   bundled line may have its own credentials until the answer confirms the shared transport (RFC 9143 §7.2)
//! - only the first fingerprint of the session and of each m-line is read, and all of these must be equal
//!   (`sdp/mod.rs:1212`); only SHA-256 can be verified (`transport/dtls/mod.rs:215`)
//! - the session-level DTLS role is not read (`transport/dtls/role.rs:157`)

use std::collections::HashSet;

use rtc::sdp::description::{
    common::Attribute, media::MediaDescription, session::SessionDescription,
};

use super::{
    SdpError,
    lines::{MediaLine, has, is_used, mid, shares, value},
};

/// Attributes that are removed and written again, in addition to candidates.
const KEYS: [&str; 4] = ["ice-ufrag", "ice-pwd", "fingerprint", "setup"];

/// Length of a SHA-256 digest, the only hash that the crate can verify.
const DIGEST_BYTES: usize = 32;

/// Maximum number of hash functions named in a message; a peer may list any number.
const MAX_NAMED: usize = 8;

/// DTLS role, which decides who starts the handshake (RFC 8842 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::peer) enum Setup {
    /// The client.
    Active,
    /// The server.
    Passive,
}

impl Setup {
    /// The role of the answerer if the offerer takes this one.
    pub(in crate::peer) fn answer(self) -> Self {
        match self {
            Self::Active => Self::Passive,
            Self::Passive => Self::Active,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Passive => "passive",
        }
    }
}

/// The transport attributes of a description.
#[derive(Debug, Default)]
pub(super) struct TransportAttributes {
    credentials: Option<(String, String)>,
    fingerprint: Option<String>,
    pub(super) setup: Option<Setup>,
    /// Values of `a=candidate` without duplicates.
    candidates: Vec<String>,
    no_more_candidates: bool,
}

impl TransportAttributes {
    /// Reads the transport of the used lines. `group` is their BUNDLE group.
    ///
    /// # Errors
    /// [`SdpError::NotBundled`] if there are several transports, [`SdpError::Fingerprint`] if no
    /// fingerprint can be verified.
    pub(super) fn of(
        description: &SessionDescription,
        group: Option<&[String]>,
    ) -> Result<Self, SdpError> {
        let session = description.attributes.as_slice();
        let lines = tagged_first(description, group);
        let first =
            lines.iter().find_map(|line| own_credentials(line)).or_else(|| credentials(session));
        if group.is_none()
            && lines.iter().any(|line| own_credentials(line).is_some_and(|own| Some(own) != first))
        {
            return Err(SdpError::NotBundled);
        }
        let levels = lines.iter().take(1).map(|line| line.attributes.as_slice());
        let levels: Vec<&[Attribute]> = levels
            .chain([session])
            .chain(lines.iter().skip(1).map(|line| line.attributes.as_slice()))
            .collect();
        let setup = levels.iter().find_map(|level| value(level, "setup"));
        let same_transport =
            lines.iter().filter(|line| own_credentials(line).is_none_or(|own| Some(own) == first));
        Ok(Self {
            credentials: first.map(|(ufrag, password)| (ufrag.to_owned(), password.to_owned())),
            fingerprint: fingerprint(&levels)?,
            setup: setup.and_then(|setup| {
                [Setup::Active, Setup::Passive]
                    .into_iter()
                    .find(|known| setup.eq_ignore_ascii_case(known.as_str()))
            }),
            no_more_candidates: same_transport
                .clone()
                .any(|l| has(&l.attributes, "end-of-candidates")),
            candidates: candidates(same_transport),
        })
    }

    /// Writes the attributes where the crate looks for them. Candidates that `takes` does not accept are omitted.
    pub(super) fn write(
        self,
        description: &mut SessionDescription,
        lines: &[MediaLine],
        mut takes: impl FnMut(&str) -> bool,
    ) {
        let mut add = |key: &str, value: String| {
            description.attributes.push(Attribute::new(key.to_owned(), Some(value)));
        };
        if let Some((ufrag, password)) = self.credentials {
            add("ice-ufrag", ufrag);
            add("ice-pwd", password);
        }
        if let Some(fingerprint) = self.fingerprint {
            add("fingerprint", fingerprint);
        }
        let used =
            description.media_descriptions.iter_mut().zip(lines).filter(|(_, line)| line.used);
        let mut candidates = Some(self.candidates);
        for (media, _) in used {
            let setup = self.setup.map_or("actpass", Setup::as_str);
            media.attributes.push(Attribute::new("setup".into(), Some(setup.to_owned())));
            for value in candidates.take().into_iter().flatten().filter(|value| takes(value)) {
                media.attributes.push(Attribute::new("candidate".into(), Some(value)));
            }
            if self.no_more_candidates {
                media.attributes.push(Attribute::new("end-of-candidates".into(), None));
            }
        }
    }
}

/// Removes everything that [`TransportAttributes::write`] writes.
pub(super) fn strip(description: &mut SessionDescription) {
    let other = |attribute: &Attribute| {
        !KEYS.contains(&attribute.key.as_str())
            && !matches!(attribute.key.as_str(), "candidate" | "end-of-candidates")
    };
    description.attributes.retain(other);
    for line in &mut description.media_descriptions {
        line.attributes.retain(other);
    }
}

/// The lines that share the transport: the used ones in group order, starting with the tagged one (RFC 9143
/// §7.3.1), then the rest of the group.
fn tagged_first<'a>(
    description: &'a SessionDescription,
    group: Option<&[String]>,
) -> Vec<&'a MediaDescription> {
    let lines = &description.media_descriptions;
    let shares_transport = |line: &&MediaDescription| match group {
        None => is_used(line, None),
        Some(_) => shares(line, group),
    };
    let place = |line: &MediaDescription| group?.iter().position(|member| member == mid(line));
    let mut found: Vec<_> = lines.iter().filter(shares_transport).collect();
    found.sort_by_cached_key(|line| (!is_used(line, group), place(line)));
    found
}

fn own_credentials(line: &MediaDescription) -> Option<(&str, &str)> {
    credentials(&line.attributes)
}

fn credentials(attributes: &[Attribute]) -> Option<(&str, &str)> {
    value(attributes, "ice-ufrag").zip(value(attributes, "ice-pwd"))
}

fn candidates<'a>(lines: impl Iterator<Item = &'a &'a MediaDescription>) -> Vec<String> {
    let mut seen = HashSet::new();
    lines
        .flat_map(|line| &line.attributes)
        .filter(|attribute| attribute.is_ice_candidate())
        .filter_map(|attribute| attribute.value.clone())
        .filter(|value| seen.insert(value.clone()))
        .collect()
}

/// The fingerprint to verify, from the first level that has any (RFC 8122 §5), in the form required by the crate,
/// which compares it byte by byte; none if no level has one.
fn fingerprint(levels: &[&[Attribute]]) -> Result<Option<String>, SdpError> {
    let mut hashes: Vec<String> = Vec::new();
    for level in levels {
        for attribute in level.iter().filter(|attribute| attribute.key == "fingerprint") {
            let value = attribute.value.as_deref().unwrap_or_default();
            if let Some(fingerprint) = verifiable(value) {
                return Ok(Some(fingerprint));
            }
            let hash = value.split_ascii_whitespace().next().unwrap_or_default();
            let hash = hash.to_ascii_lowercase();
            if hashes.len() < MAX_NAMED && !hashes.contains(&hash) {
                hashes.push(hash);
            }
        }
        if !hashes.is_empty() {
            return Err(SdpError::Fingerprint(hashes));
        }
    }
    Ok(None)
}

fn verifiable(value: &str) -> Option<String> {
    let mut words = value.split_ascii_whitespace();
    let (hash, digits, end) = (words.next()?, words.next()?, words.next());
    let is_byte = |byte: &str| byte.len() == 2 && byte.bytes().all(|b| b.is_ascii_hexdigit());
    let whole = digits.split(':').count() == DIGEST_BYTES && digits.split(':').all(is_byte);
    let known = hash.eq_ignore_ascii_case("sha-256") && whole && end.is_none();
    known.then(|| format!("sha-256 {}", digits.to_ascii_uppercase()))
}
