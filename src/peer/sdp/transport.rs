//! The transport of a remote description: ICE credentials, candidates, DTLS fingerprint and role. This peer has one
//! for all m-lines, and `rtc` 0.21.1 takes a description only when every line says the same of it.
//!
//! - ICE credentials that differ between m-lines are refused (`peer_connection/sdp/mod.rs:1276`), although a bundled
//!   line may have its own until the answer says that they share a transport (RFC 9143 §7.2)
//! - of the fingerprints only the first of the session and of each m-line is read, and all of those must be equal
//!   (`sdp/mod.rs:1212`); only SHA-256 can be verified (`transport/dtls/mod.rs:215`)
//! - the DTLS role is not read from the session (`transport/dtls/role.rs:157`)

use std::collections::HashSet;

use rtc::sdp::description::{
    common::Attribute, media::MediaDescription, session::SessionDescription,
};

use super::{
    SdpError,
    lines::{Line, has, is_used, mid, shares, value},
};

/// Attributes that are written again; candidates are, too.
const KEYS: [&str; 4] = ["ice-ufrag", "ice-pwd", "fingerprint", "setup"];

/// Bytes of a SHA-256, which is what the crate can verify.
const DIGEST_BYTES: usize = 32;

/// Hash functions named in a message; a peer may name any number.
const MAX_NAMED: usize = 8;

/// Who begins the DTLS handshake (RFC 8842 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::peer) enum Setup {
    /// The client.
    Active,
    /// The server.
    Passive,
}

impl Setup {
    /// What the answer says when the offer says this.
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

/// What a description says of its transport.
#[derive(Debug, Default)]
pub(super) struct Transport {
    credentials: Option<(String, String)>,
    fingerprint: Option<String>,
    pub(super) setup: Option<Setup>,
    /// Values of `a=candidate`, each once.
    candidates: Vec<String>,
    no_more_candidates: bool,
}

impl Transport {
    /// Reads the transport of the lines that are used. `group` is the BUNDLE group they are in.
    ///
    /// # Errors
    /// [`SdpError::NotBundled`] when there are several, [`SdpError::Fingerprint`] when no fingerprint of it can be
    /// verified.
    pub(super) fn of(
        description: &SessionDescription,
        group: Option<&[String]>,
    ) -> Result<Self, SdpError> {
        let session = description.attributes.as_slice();
        let lines = tagged_first(description, group);
        let first = lines.iter().find_map(|line| own(line)).or_else(|| credentials(session));
        if group.is_none()
            && lines.iter().any(|line| own(line).is_some_and(|own| Some(own) != first))
        {
            return Err(SdpError::NotBundled);
        }
        let levels = lines.iter().take(1).map(|line| line.attributes.as_slice());
        let levels: Vec<&[Attribute]> = levels
            .chain([session])
            .chain(lines.iter().skip(1).map(|line| line.attributes.as_slice()))
            .collect();
        let setup = levels.iter().find_map(|level| value(level, "setup"));
        let of_it = lines.iter().filter(|line| own(line).is_none_or(|own| Some(own) == first));
        Ok(Self {
            credentials: first.map(|(ufrag, password)| (ufrag.to_owned(), password.to_owned())),
            fingerprint: fingerprint(&levels)?,
            setup: setup.and_then(|setup| {
                [Setup::Active, Setup::Passive]
                    .into_iter()
                    .find(|known| setup.eq_ignore_ascii_case(known.as_str()))
            }),
            no_more_candidates: of_it.clone().any(|l| has(&l.attributes, "end-of-candidates")),
            candidates: candidates(of_it),
        })
    }

    /// Writes it where the crate looks for it. Candidates stay when `takes` says so.
    pub(super) fn write(
        self,
        description: &mut SessionDescription,
        lines: &[Line],
        mut takes: impl FnMut(&str) -> bool,
    ) {
        let mut say = |key: &str, value: String| {
            description.attributes.push(Attribute::new(key.to_owned(), Some(value)));
        };
        if let Some((ufrag, password)) = self.credentials {
            say("ice-ufrag", ufrag);
            say("ice-pwd", password);
        }
        if let Some(fingerprint) = self.fingerprint {
            say("fingerprint", fingerprint);
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

/// Removes what [`Transport::write`] writes.
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

/// The lines that share the transport: those that are used in the order of their group, whose first is the tagged one
/// (RFC 9143 §7.3.1), then the rest of the group.
fn tagged_first<'a>(
    description: &'a SessionDescription,
    group: Option<&[String]>,
) -> Vec<&'a MediaDescription> {
    let lines = &description.media_descriptions;
    let on_it = |line: &&MediaDescription| match group {
        None => is_used(line, None),
        Some(_) => shares(line, group),
    };
    let place = |line: &MediaDescription| group?.iter().position(|member| member == mid(line));
    let mut found: Vec<_> = lines.iter().filter(on_it).collect();
    found.sort_by_cached_key(|line| (!is_used(line, group), place(line)));
    found
}

fn own(line: &MediaDescription) -> Option<(&str, &str)> {
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

/// The fingerprint to verify, of the first level that has any (RFC 8122 §5), in the form that the crate compares byte
/// by byte; none when no level has one.
fn fingerprint(levels: &[&[Attribute]]) -> Result<Option<String>, SdpError> {
    let mut hashes: Vec<String> = Vec::new();
    for level in levels {
        for attribute in level.iter().filter(|attribute| attribute.key == "fingerprint") {
            let said = attribute.value.as_deref().unwrap_or_default();
            if let Some(fingerprint) = verifiable(said) {
                return Ok(Some(fingerprint));
            }
            let hash = said.split_ascii_whitespace().next().unwrap_or_default();
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

fn verifiable(said: &str) -> Option<String> {
    let mut words = said.split_ascii_whitespace();
    let (hash, digits, end) = (words.next()?, words.next()?, words.next());
    let is_byte = |byte: &str| byte.len() == 2 && byte.bytes().all(|b| b.is_ascii_hexdigit());
    let whole = digits.split(':').count() == DIGEST_BYTES && digits.split(':').all(is_byte);
    let known = hash.eq_ignore_ascii_case("sha-256") && whole && end.is_none();
    known.then(|| format!("sha-256 {}", digits.to_ascii_uppercase()))
}
