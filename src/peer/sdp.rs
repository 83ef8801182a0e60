//! Session descriptions (RFC 8866): rewrites remote ones before the `rtc` crate sees them, and reads a few values
//! from their text.
//!
//! - `lines`: the m-lines that the crate sees
//! - `transport`: the single transport they share
//! - `answer`: completes the crate's answer; [`hints`]: its hints for libwebrtc's bandwidth estimate

mod answer;
pub mod hints;
mod lines;
mod transport;

use std::io::Cursor;

use base64::{Engine, engine::general_purpose::STANDARD};
use rtc::sdp::{SessionDescription, description::session::ATTR_KEY_SSRC};

pub use answer::Shape;
pub use hints::PhonePath;
pub(super) use lines::MediaLine;
pub(super) use transport::Setup;
use transport::TransportAttributes;

/// A remote description, rewritten for the crate.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rewritten {
    /// The description.
    pub sdp: String,
    /// The SSRCs it names (`a=ssrc`, RFC 5576), in order.
    pub ssrcs: Vec<u32>,
    /// The video codecs it lists, usable or not.
    pub codecs: Vec<String>,
    /// The parts of it that our answer has to repeat.
    pub shape: Shape,
}

/// Why a remote description cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SdpError {
    /// The crate's error message when it cannot read the description.
    #[error("{0}")]
    Unreadable(String),
    /// Video and data channel would each have their own transport.
    #[error("its m-lines are not in a BUNDLE group")]
    NotBundled,
    /// None of its fingerprints can be verified; their hash functions.
    #[error("none of its DTLS fingerprints can be verified: {}", .0.join(", "))]
    Fingerprint(Vec<String>),
}

/// Reads a description with the parser of the `rtc` crate, changes the result, and writes it again, one line for each
/// attribute. So the crate reads nothing that was not examined here, regardless of how the text was written.
///
/// The crate sees H.264 video and a data channel on one transport, in the only form that it accepts. A candidate is
/// kept if `takes` accepts its value (RFC 8839 §5.1) and it belongs to that transport.
///
/// # Errors
/// [`SdpError`].
pub fn rewrite(sdp: &str, takes: impl FnMut(&str) -> bool) -> Result<Rewritten, SdpError> {
    let mut description = SessionDescription::unmarshal(&mut Cursor::new(sdp.as_bytes()))
        .map_err(|error| SdpError::Unreadable(error.to_string()))?;
    lines::name(&mut description.media_descriptions);
    let group = lines::bundle(&mut description);
    let codecs = video_codecs(&description.marshal());
    let usable = |line| lines::is_used(line, group.as_deref());
    let transport = if description.media_descriptions.iter().any(usable) {
        TransportAttributes::of(&description, group.as_deref())?
    } else {
        TransportAttributes::default()
    };
    let shown = lines::hide(&mut description, group.as_deref());
    let shape = Shape { lines: shown, bundled: group.is_some(), setup: transport.setup };
    transport::strip(&mut description);
    lines::regroup(&mut description, group.as_deref(), &shape.lines);
    transport.write(&mut description, &shape.lines, takes);
    let attributes = description.media_descriptions.iter().flat_map(|line| &line.attributes);
    let named = attributes.filter(|attribute| attribute.key == ATTR_KEY_SSRC);
    let mut ssrcs: Vec<u32> =
        named.filter_map(|attribute| ssrc(attribute.value.as_deref()?)).collect();
    ssrcs.dedup();
    Ok(Rewritten { sdp: description.marshal(), ssrcs, codecs, shape })
}

fn ssrc(value: &str) -> Option<u32> {
    value.split_ascii_whitespace().next()?.parse().ok()
}

/// H.264 formats in a session description.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct H264Media {
    /// RTP payload types mapped to `H264/90000` in video m-lines that are not rejected.
    pub payload_types: Vec<u8>,
    /// Payload types of retransmissions (RFC 4588), each with the H.264 type it retransmits.
    pub rtx: Vec<(u8, u8)>,
    /// The m-line's media identification (`a=mid`), if present.
    pub mid: Option<String>,
    /// SPS and PPS of the stream, from `sprop-parameter-sets` (RFC 6184 §8.1) of one of these payload types; NAL
    /// units without start codes.
    pub parameter_sets: Vec<Vec<u8>>,
}

/// Maximum size of accepted parameter sets, bytes; those of one stream have 50.
const MAX_PARAMETER_SETS: usize = 4096;

/// Payload type and parameter sets in the value of `a=fmtp`.
fn parameter_sets(parameters: &str) -> Option<(u8, Vec<Vec<u8>>)> {
    let (number, parameters) = parameters.split_once(' ')?;
    let sets = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("sprop-parameter-sets").then_some(value.trim())
    })?;
    let units = sets.split(',').map(|unit| STANDARD.decode(unit.trim()).unwrap_or_default());
    let sets: Vec<Vec<u8>> = units
        .filter(|unit| matches!(unit.first().map(|header| header & 0x1f), Some(7 | 8)))
        .collect();
    let bytes: usize = sets.iter().map(Vec::len).sum();
    (!sets.is_empty() && bytes <= MAX_PARAMETER_SETS).then_some((number.parse().ok()?, sets))
}

/// Payload types in the value of `a=fmtp` for RTX: its own and the one it retransmits (`apt`, RFC 4588 §8.6).
fn associated(parameters: &str) -> Option<(u8, u8)> {
    let (number, parameters) = parameters.split_once(' ')?;
    let apt = parameters.split(';').find_map(|parameter| parameter.trim().strip_prefix("apt="))?;
    Some((number.parse().ok()?, apt.trim().parse().ok()?))
}

/// Finds the first video m-line that is not rejected and offers H.264.
#[must_use]
pub fn h264_media(sdp: &str) -> Option<H264Media> {
    let mut found = H264Media::default();
    let (mut sets, mut aliases, mut retransmissions) = (Vec::new(), Vec::new(), Vec::new());
    let mut in_video = false;
    for line in sdp.lines().map(str::trim_end) {
        if let Some(media) = line.strip_prefix("m=") {
            if !found.payload_types.is_empty() {
                break;
            }
            in_video = is_video(media);
            found.mid = None;
            sets.clear();
            aliases.clear();
            retransmissions.clear();
        } else if !in_video {
        } else if let Some(mid) = line.strip_prefix("a=mid:") {
            found.mid = Some(mid.to_owned());
        } else if let Some(map) = line.strip_prefix("a=rtpmap:")
            && let Some((number, codec)) = map.split_once(' ')
            && let Ok(number) = number.parse::<u8>()
        {
            if codec.eq_ignore_ascii_case("H264/90000") {
                found.payload_types.push(number);
            } else if codec.eq_ignore_ascii_case("rtx/90000") {
                retransmissions.push(number);
            }
        } else if let Some(parameters) = line.strip_prefix("a=fmtp:") {
            sets.extend(parameter_sets(parameters));
            aliases.extend(associated(parameters));
        }
    }
    aliases.retain(|(rtx, of)| retransmissions.contains(rtx) && found.payload_types.contains(of));
    found.rtx = aliases;
    let used = sets.into_iter().find(|(number, _)| found.payload_types.contains(number));
    found.parameter_sets = used.map(|(_, sets)| sets).unwrap_or_default();
    (!found.payload_types.is_empty()).then_some(found)
}

/// The ICE username fragment in a session description: a different one means a different generation (RFC 8839 §5.4).
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

/// The ICE credentials in a session description, at session level or in its m-lines (RFC 8839 §5.4).
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

/// Whether the value of an `m=` line is video that is not rejected (port 0).
fn is_video(media: &str) -> bool {
    let mut words = media.split(' ');
    words.next() == Some("video") && words.next() != Some("0")
}

/// The video codecs that a session description offers in m-lines that are not rejected, for messages.
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
        m=video 9 UDP/TLS/RTP/SAVPF 102\r\na=mid:0\r\na=rtpmap:102 H264/90000\r\n";

    /// The candidates that the callback sees, and the number that the crate finds afterward.
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
    fn candidates_are_read_as_the_crate_reads_them() {
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
        // The crate accepts none at session level.
        let session = REST.replace("m=video", &format!("a={good}\r\nm=video"));
        assert_eq!(candidates(&session), (Vec::new(), 0));
        // One line is one attribute, whatever it contains.
        let hidden = format!("{REST}a=x:y\ra={good}\r\n");
        assert_eq!(candidates(&hidden), (Vec::new(), 0));
    }

    fn rejected(sdp: &str) -> SdpError {
        rewrite(sdp, |_| true).unwrap_err()
    }

    /// The attributes of this name that the crate gets.
    fn given(sdp: &str, key: &str) -> Vec<String> {
        let rewritten = rewrite(sdp, |_| true).unwrap().sdp;
        let found = rewritten.lines().filter_map(|line| line.strip_prefix("a=")?.strip_prefix(key));
        found.map(|value| value.trim_start_matches(':').to_owned()).collect()
    }

    fn digest(bytes: usize, letters: &str) -> String {
        vec![letters; bytes].join(":")
    }

    #[test]
    fn the_verifiable_fingerprint_is_used() {
        let (good, lower) = (digest(32, "AB"), digest(32, "ab"));
        let (longer, longest) = (digest(48, "C1"), digest(64, "C2"));
        let wanted = [format!("sha-256 {good}")];
        for written in [
            format!("a=fingerprint:sha-256 {lower}\r\n"),
            format!("a=fingerprint:SHA-256  {lower} \r\n"),
            format!("a=fingerprint:sha-256 {good}\r\na=fingerprint:sha-384 {longer}\r\n"),
            format!("a=fingerprint:sha-512 {longest}\r\na=fingerprint:SHA-256 {good}\r\n"),
            format!(
                "a=fingerprint:sha-1 {}\r\na=fingerprint:sha-256 {lower}\r\n",
                digest(20, "01")
            ),
        ] {
            assert_eq!(given(&format!("{REST}{written}"), "fingerprint"), wanted, "{written}");
            let session = REST.replace("m=video", &format!("{written}m=video"));
            assert_eq!(given(&session, "fingerprint"), wanted, "session: {written}");
        }
        for bad in [
            format!("sha-512 {longest}"),
            format!("sha-512 {good}"),
            "none".into(),
            format!("sha-256 {}", digest(31, "AB")),
            format!("sha-256 {}", digest(32, "ZZ")),
        ] {
            let hash = bad.split(' ').next().unwrap().to_owned();
            let sdp = format!("{REST}a=fingerprint:{bad}\r\n");
            assert_eq!(rejected(&sdp), SdpError::Fingerprint(vec![hash]), "{bad}");
        }
    }

    #[test]
    fn ssrcs_are_read_and_garbage_is_rejected() {
        let odd = format!("{REST}a=ssrc:7 cname:x\r\na=ssrc:7\r\na=ssrc:x\r\n");
        assert_eq!(rewrite(&odd, |_| true).unwrap().ssrcs, [7]);
        assert!(matches!(rejected("\u{0}garbage"), SdpError::Unreadable(_)));
    }

    #[test]
    fn omitted_defaults_are_added() {
        let plain = REST.replace("a=mid:0\r\n", "").replace(" 102\r", " 102 8 96\r");
        let sdp = format!("{plain}a=rtcp-fb:* nack pli\r\n");
        let rewritten = rewrite(&sdp, |_| true).unwrap().sdp;
        for line in
            ["m=video 9 UDP/TLS/RTP/SAVPF 102\r", "a=sendrecv", "a=mid:0", "a=rtcp-fb:102 nack pli"]
        {
            assert!(rewritten.contains(line), "{line}: {rewritten}");
        }
        let session = plain.replace("m=video", "a=sendonly\r\nm=video");
        assert_eq!(given(&session, "sendonly").len(), 2, "at session level and in the m-line");
    }

    #[test]
    fn constrained_baseline_is_written_in_one_form() {
        for (written, given_as) in [
            ("42c01f", "42e01f"),
            ("42C028", "42e028"),
            ("42F01F", "42e01F"),
            ("42e01f", "42e01f"),
            ("42001f", "42001f"),
            ("4d001f", "4d001f"),
            ("640c1f", "640c1f"),
            ("42", "42"),
        ] {
            let sdp =
                format!("{REST}a=fmtp:102 profile-level-id={written};packetization-mode=1\r\n");
            let wanted = format!("102 profile-level-id={given_as};packetization-mode=1");
            assert_eq!(given(&sdp, "fmtp"), [wanted]);
        }
    }

    #[test]
    fn a_bundle_only_m_line_with_port_0_is_used() {
        let grouped = REST.replace("m=video 9", "a=group:BUNDLE 0\r\nm=video 0");
        let only = format!("{grouped}a=bundle-only\r\n");
        assert!(h264_media(&rewrite(&only, |_| true).unwrap().sdp).is_some());
        for rejected in [&grouped, &only.replace("BUNDLE 0", "BUNDLE 1")] {
            assert!(h264_media(&rewrite(rejected, |_| true).unwrap().sdp).is_none());
        }
    }

    /// As in Firefox's offers: each m-line of a group has its own credentials, and one m-line is hidden from the
    /// crate.
    #[test]
    fn a_group_uses_the_transport_of_its_first_used_line() {
        let line = |kind: &str, index: u32, more: &str| {
            format!(
                "m={kind}\r\na=mid:{index}\r\na=ice-ufrag:u{index}\r\na=ice-pwd:p{index}\r\n\
                 a=setup:active\r\na=candidate:{index} 1 udp 1 192.0.2.1 9 typ host\r\n{more}"
            )
        };
        let head = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 2 1\r\n";
        let h264 = "a=rtpmap:102 H264/90000\r\n";
        let sdp = [
            head,
            &line("audio 9 UDP/TLS/RTP/SAVPF 0 8", 0, ""),
            &line("video 9 UDP/TLS/RTP/SAVPF 102", 1, h264),
            &line("application 9 UDP/DTLS/SCTP webrtc-datachannel", 2, "a=sctp-port:5000\r\n"),
        ]
        .concat();
        assert_eq!(given(&sdp, "ice-ufrag"), ["u2"]);
        assert_eq!(given(&sdp, "ice-pwd"), ["p2"]);
        assert_eq!(given(&sdp, "group"), ["BUNDLE 2 1"]);
        assert_eq!(given(&sdp, "setup"), ["active"; 2]);
        assert_eq!(given(&sdp, "candidate"), ["2 1 udp 1 192.0.2.1 9 typ host"]);
        assert_eq!(rejected(&sdp.replace("a=group:BUNDLE 0 2 1\r\n", "")), SdpError::NotBundled);
        let shape = rewrite(&sdp, |_| true).unwrap().shape;
        assert_eq!(shape.candidate_line(), Some(("1".into(), 1)));
    }

    #[test]
    fn the_answer_rejects_hidden_lines_and_states_the_actual_role() {
        let head = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n";
        let sdp = format!(
            "{head}m=audio 9 UDP/TLS/RTP/SAVPF 8 101\r\nm=image 9 udptl t38\r\na=mid:i\r\n\
             m=video 9 UDP/TLS/RTP/SAVPF 102\r\na=setup:active\r\na=rtpmap:102 H264/90000\r\n"
        );
        let shape = rewrite(&sdp, |_| true).unwrap().shape;
        assert_eq!((shape.used(), shape.setup), (1, Some(Setup::Active)));
        let ours = format!(
            "{head}a=group:BUNDLE 2\r\nm=video 9 UDP/TLS/RTP/SAVPF 102\r\na=mid:2\r\na=setup:active\r\n"
        );
        let answer = shape.finish(&ours, Some(Setup::Passive), None).unwrap();
        let lines: Vec<&str> = answer.lines().filter(|line| line.starts_with("m=")).collect();
        let wanted = [
            "m=audio 0 UDP/TLS/RTP/SAVPF 8 101",
            "m=image 0 udptl t38",
            "m=video 9 UDP/TLS/RTP/SAVPF 102",
        ];
        assert_eq!(lines, wanted);
        assert!(answer.contains("a=setup:passive\r\n") && !answer.contains("active\r\na=mid:2"));
        assert!(!answer.contains("a=group"), "the offer has none");
    }

    #[test]
    fn payload_types_of_h264_are_found() {
        let media = h264_media(OFFER).unwrap();
        assert_eq!(media.payload_types, [102, 125]);
        assert_eq!(media.mid.as_deref(), Some("1"));
        assert_eq!(video_codecs(OFFER), ["VP8", "H264", "h264"]);
    }

    #[test]
    fn retransmissions_of_h264_are_found() {
        let maps = "a=fmtp:103 rtx-time=3000; apt=102\r\na=rtpmap:103 rtx/90000\r\n\
            a=rtpmap:97 RTX/90000\r\na=fmtp:97 apt=96\r\na=fmtp:125 apt=102\r\n\
            a=rtpmap:104 rtx/90000\r\na=fmtp:104 apt=x\r\n";
        assert_eq!(h264_media(&format!("{OFFER}{maps}")).unwrap().rtx, [(103, 102)]);
        assert_eq!(h264_media(OFFER).unwrap().rtx, []);
    }

    #[test]
    fn parameter_sets_of_the_payload_type_are_read() {
        let with = |number: u8, sets: &str| {
            let fmtp = format!(
                "a=fmtp:{number} packetization-mode=1; sprop-parameter-sets={sets};x=1\r\n"
            );
            // The fmtp may precede the m-line's rtpmap.
            h264_media(&OFFER.replace("a=mid:1", &format!("{fmtp}a=mid:1"))).unwrap().parameter_sets
        };
        let sets = with(102, "Z0LAH9oBQBbpqAgICg==,aM4yyA==");
        assert_eq!((sets.len(), sets[0][0], sets[1][0]), (2, 0x67, 0x68));
        assert_eq!(with(125, "Z0LAHw==, aM4yyA==").len(), 2);
        assert_eq!(with(96, "Z0LAHw==,aM4yyA==").len(), 0, "for VP8");
        // Neither SPS nor PPS; not base64; too long.
        let long = STANDARD.encode(vec![0x67; 5000]);
        for bad in ["ZYiEAA==", "!!", "", long.as_str()] {
            assert_eq!(with(102, bad).len(), 0, "{bad}");
        }
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
    fn rejected_or_non_h264_video_is_ignored() {
        let rejected = OFFER.replace("m=video 9", "m=video 0");
        assert_eq!(h264_media(&rejected), None);
        assert!(video_codecs(&rejected).is_empty());
        assert_eq!(video_codecs(&OFFER.replace("102 H264", "1020 H264")), ["VP8", "h264"]);
        assert_eq!(h264_media("m=video 9 X 96\r\na=rtpmap:96 VP8/90000\r\n"), None);
        assert_eq!(h264_media("\u{0}garbage"), None);
        // Both functions read an m-line the same way, however short it is.
        let short = "m=video\r\na=rtpmap:96 H264/90000\r\n";
        assert!(h264_media(short).is_some() && video_codecs(short) == ["H264"]);
    }
}
