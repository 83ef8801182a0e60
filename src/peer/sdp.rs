//! Session descriptions (RFC 8866): what is changed in a remote one before the `rtc` crate sees it, and the few
//! things we read from the text ourselves.

use std::io::Cursor;

use rtc::sdp::{
    SessionDescription,
    description::{
        common::Attribute,
        session::{ATTR_KEY_CANDIDATE, ATTR_KEY_SSRC},
    },
};

/// What the crate is given for a remote description.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rewritten {
    /// The description.
    pub sdp: String,
    /// The SSRCs it names (`a=ssrc`, RFC 5576), in their order.
    pub ssrcs: Vec<u32>,
}

/// Reads a description with the parser of the `rtc` crate, changes what that has read, and writes it again, one line
/// for each attribute. So the crate reads nothing that was not seen here, however the text was written.
///
/// Candidates stay when `takes` says so of their value (RFC 8839 §5.1) and they belong to an m-line. Fingerprints
/// (RFC 8122 §5) get the form that the crate compares byte by byte: the hash function in lower case, the digits in
/// upper case, one space.
///
/// # Errors
/// The crate's words when it cannot read the description.
pub fn rewrite(sdp: &str, mut takes: impl FnMut(&str) -> bool) -> Result<Rewritten, String> {
    let mut description = SessionDescription::unmarshal(&mut Cursor::new(sdp.as_bytes()))
        .map_err(|error| error.to_string())?;
    let mut ssrcs = Vec::new();
    description.attributes.retain(|attribute| !attribute.is_ice_candidate());
    description.attributes.iter_mut().for_each(unify_fingerprint);
    for media in &mut description.media_descriptions {
        media.attributes.retain(|attribute| {
            attribute.key != ATTR_KEY_CANDIDATE
                || attribute.value.as_deref().is_some_and(&mut takes)
        });
        media.attributes.iter_mut().for_each(unify_fingerprint);
        let named = media.attributes.iter().filter(|attribute| attribute.key == ATTR_KEY_SSRC);
        ssrcs.extend(named.filter_map(|attribute| ssrc(attribute.value.as_deref()?)));
    }
    ssrcs.dedup();
    Ok(Rewritten { sdp: description.marshal(), ssrcs })
}

fn unify_fingerprint(attribute: &mut Attribute) {
    if attribute.key != "fingerprint" {
        return;
    }
    let Some(value) = &mut attribute.value else { return };
    let mut words = value.split_ascii_whitespace();
    if let (Some(hash), Some(digits), None) = (words.next(), words.next(), words.next()) {
        *value = format!("{} {}", hash.to_ascii_lowercase(), digits.to_ascii_uppercase());
    }
}

fn ssrc(value: &str) -> Option<u32> {
    value.split_ascii_whitespace().next()?.parse().ok()
}

/// H.264 in a session description.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct H264Media {
    /// RTP payload types mapped to `H264/90000` in video m-lines that are not rejected.
    pub payload_types: Vec<u8>,
    /// The m-line's media identification (`a=mid`), when there is one.
    pub mid: Option<String>,
}

/// Finds the first video m-line that is not rejected and speaks H.264.
#[must_use]
pub fn h264_media(sdp: &str) -> Option<H264Media> {
    let mut found = H264Media::default();
    let mut in_video = false;
    for line in sdp.lines().map(str::trim_end) {
        if let Some(media) = line.strip_prefix("m=") {
            if !found.payload_types.is_empty() {
                break;
            }
            in_video = is_video(media);
            found.mid = None;
        } else if !in_video {
        } else if let Some(mid) = line.strip_prefix("a=mid:") {
            found.mid = Some(mid.to_owned());
        } else if let Some(map) = line.strip_prefix("a=rtpmap:")
            && let Some((number, codec)) = map.split_once(' ')
            && codec.eq_ignore_ascii_case("H264/90000")
            && let Ok(number) = number.parse()
        {
            found.payload_types.push(number);
        }
    }
    (!found.payload_types.is_empty()).then_some(found)
}

/// The user fragment of ICE in a session description: another one is another generation (RFC 8839 §5.4).
#[must_use]
pub fn ufrag(sdp: &str) -> Option<&str> {
    sdp.lines().find_map(|line| line.trim_end().strip_prefix("a=ice-ufrag:"))
}

/// Short-term credentials of one ICE generation (RFC 8445 §5.3).
#[derive(Clone, PartialEq, Eq)]
pub(super) struct IceCredentials {
    pub(super) ufrag: String,
    pub(super) password: String,
}

impl std::fmt::Debug for IceCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IceCredentials").field("ufrag", &self.ufrag).finish_non_exhaustive()
    }
}

/// The ICE credentials in a session description, of the session or of its m-lines (RFC 8839 §5.4).
pub(super) fn ice_credentials(sdp: &str) -> Vec<IceCredentials> {
    let (mut found, mut ufrag, mut password) = (Vec::new(), None, None);
    for line in sdp.lines().map(str::trim_end) {
        if line.starts_with("m=") {
            (ufrag, password) = (None, None);
        }
        ufrag = line.strip_prefix("a=ice-ufrag:").or(ufrag);
        password = line.strip_prefix("a=ice-pwd:").or(password);
        if let Some((name, secret)) = ufrag.zip(password) {
            found.push(IceCredentials { ufrag: name.to_owned(), password: secret.to_owned() });
            (ufrag, password) = (None, None);
        }
    }
    found
}

/// Whether what follows `m=` is of a video that is not rejected, which port 0 says.
fn is_video(media: &str) -> bool {
    let mut words = media.split(' ');
    words.next() == Some("video") && words.next() != Some("0")
}

/// What a session description offers as video codecs in m-lines that are not rejected, for messages.
#[must_use]
pub fn video_codecs(sdp: &str) -> Vec<String> {
    let mut in_video = false;
    let mut codecs = Vec::new();
    for line in sdp.lines().map(str::trim_end) {
        if let Some(media) = line.strip_prefix("m=") {
            in_video = is_video(media);
        } else if in_video
            && let Some((number, codec)) =
                line.strip_prefix("a=rtpmap:").and_then(|map| map.split_once(' '))
            && number.parse::<u8>().is_ok()
        {
            let name = codec.split('/').next().unwrap_or(codec).to_owned();
            if !codecs.contains(&name) {
                codecs.push(name);
            }
        }
    }
    codecs
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: &str = "v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\na=rtpmap:111 opus/48000/2\r\n\
        m=video 9 UDP/TLS/RTP/SAVPF 96 102 125\r\na=mid:1\r\na=rtpmap:96 VP8/90000\r\n\
        a=rtpmap:102 H264/90000\r\na=rtpmap:125 h264/90000\r\n";

    const REST: &str = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n\
        m=video 9 UDP/TLS/RTP/SAVPF 102\r\na=mid:0\r\n";

    /// Candidates that the callback sees, and those that the crate finds afterwards.
    fn candidates(sdp: &str) -> (Vec<String>, usize) {
        let mut seen = Vec::new();
        let rewritten = rewrite(sdp, |value| {
            seen.push(value.to_owned());
            value.contains("192.0.2.1 ")
        });
        let parsed = SessionDescription::try_from(rewritten.unwrap().sdp).unwrap();
        let media = parsed.media_descriptions.iter().flat_map(|media| &media.attributes);
        let left = parsed.attributes.iter().chain(media).filter(|a| a.is_ice_candidate()).count();
        (seen, left)
    }

    #[test]
    fn candidates_are_seen_as_the_crate_sees_them() {
        let candidate = |address: &str| format!("candidate:1 1 udp 1 {address} 9 typ host");
        let (good, bad) = (candidate("192.0.2.1"), candidate("192.0.2.2"));
        for begin in ["a=", "\ra=", "\r\r\na=", "a= ", "a=\t", "a=\u{a0}", "a=\u{3000} ", "a=\x0b"]
        {
            for end in ["\r\n", "\n", " \r\n", "\r\r\n"] {
                let sdp = format!("{REST}{begin}{good}{end}{begin}{bad}{end}a=rtcp-mux\r\n");
                let (seen, left) = candidates(&sdp);
                assert_eq!((seen.len(), left), (2, 1), "{begin:?} {end:?}: {seen:?}");
            }
        }
        // The crate takes none of a session.
        let session = REST.replace("m=video", &format!("a={good}\r\nm=video"));
        assert_eq!(candidates(&session), (Vec::new(), 0));
        // One line is one attribute, whatever is in it.
        let hidden = format!("{REST}a=x:y\ra={good}\r\n");
        assert_eq!(candidates(&hidden), (Vec::new(), 0));
    }

    #[test]
    fn fingerprints_get_one_form() {
        for written in ["sha-256 ab:cd", "SHA-256 AB:cd", "sha-256  AB:CD ", " sha-256 aB:Cd"] {
            let sdp = format!("{REST}a=fingerprint:{written}\r\n");
            let rewritten = rewrite(&sdp, |_| true).unwrap().sdp;
            assert!(
                rewritten.contains("a=fingerprint:sha-256 AB:CD\r\n"),
                "{written}: {rewritten}"
            );
        }
        let odd =
            format!("{REST}a=fingerprint:none\r\na=ssrc:7 cname:x\r\na=ssrc:7\r\na=ssrc:x\r\n");
        let rewritten = rewrite(&odd, |_| true).unwrap();
        assert!(rewritten.sdp.contains("a=fingerprint:none\r\n"));
        assert_eq!(rewritten.ssrcs, [7]);
        assert!(rewrite("\u{0}garbage", |_| true).is_err());
    }

    #[test]
    fn payload_types_of_h264_are_found() {
        let media = h264_media(OFFER).unwrap();
        assert_eq!(media.payload_types, [102, 125]);
        assert_eq!(media.mid.as_deref(), Some("1"));
        assert_eq!(video_codecs(OFFER), ["VP8", "H264", "h264"]);
    }

    #[test]
    fn ice_credentials_of_session_and_media_are_found() {
        let sdp = "v=0\r\na=ice-pwd:p0\r\na=ice-ufrag:u0\r\nm=video 9 X 96\r\na=ice-ufrag:u1\r\n\
            a=ice-pwd:p1\r\nm=audio 9 X 0\r\na=ice-ufrag:u2\r\nm=application 9 X 0\r\na=ice-pwd:p3\r\n";
        let found = ice_credentials(sdp);
        let pairs: Vec<_> = found.iter().map(|c| (c.ufrag.as_str(), c.password.as_str())).collect();
        assert_eq!(pairs, [("u0", "p0"), ("u1", "p1")]);
        assert!(!format!("{found:?}").contains("p0"));
    }

    #[test]
    fn rejected_or_other_video_is_none() {
        let rejected = OFFER.replace("m=video 9", "m=video 0");
        assert_eq!(h264_media(&rejected), None);
        assert!(video_codecs(&rejected).is_empty());
        assert_eq!(video_codecs(&OFFER.replace("102 H264", "1020 H264")), ["VP8", "h264"]);
        assert_eq!(h264_media("m=video 9 X 96\r\na=rtpmap:96 VP8/90000\r\n"), None);
        assert_eq!(h264_media("\u{0}garbage"), None);
        // Both read an m-line alike, however short it is.
        let short = "m=video\r\na=rtpmap:96 H264/90000\r\n";
        assert!(h264_media(short).is_some() && video_codecs(short) == ["H264"]);
    }
}
