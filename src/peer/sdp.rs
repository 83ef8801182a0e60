//! The few things we read from SDP text (RFC 8866) ourselves.

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
