//! Selects the m-lines of a remote description that the `rtc` crate sees: H.264 video and the data channel, on one
//! transport. Our answer only has to reject the others (RFC 3264 §6).
//!
//! `rtc` 0.21.1 rejects a whole description because of an m-line that it would not use anyway: for a payload type
//! without `a=rtpmap` (`peer_connection/sdp/mod.rs:1410`), a format that is not a number, or a missing `a=mid`
//! (`peer_connection/mod.rs:1395`). It also omits an m-line without a direction from its answer (`internal.rs:310`)
//! and accepts an m-line with port 0.

use std::collections::HashSet;

use rtc::sdp::description::{
    common::Attribute,
    media::{MediaDescription, MediaName, RangedPort},
    session::SessionDescription,
};

/// Directions of an m-line (RFC 8866 §6.7).
const DIRECTIONS: [&str; 4] = ["sendrecv", "sendonly", "recvonly", "inactive"];

/// An m-line of the remote description, with everything that our answer repeats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::peer) struct MediaLine {
    /// `video`, `audio`, `application`, …
    media: String,
    protocols: Vec<String>,
    formats: Vec<String>,
    /// Its `a=mid`, or the name assigned to it.
    pub(in crate::peer) mid: String,
    /// Whether the crate sees it.
    pub(in crate::peer) used: bool,
}

impl MediaLine {
    /// Whether this is the data channel and the crate sees it.
    pub(in crate::peer) fn is_data(&self) -> bool {
        self.used && self.media == "application"
    }

    /// The line of our answer that rejects this m-line.
    pub(super) fn rejected(&self) -> MediaDescription {
        let mut line = MediaDescription::new_jsep_media_description(self.media.clone(), Vec::new())
            .with_property_attribute("inactive".into())
            .with_value_attribute("mid".into(), self.mid.clone());
        line.media_name.port = RangedPort { value: 0, range: None };
        line.media_name.protos.clone_from(&self.protocols);
        line.media_name.formats.clone_from(&self.formats);
        line
    }
}

/// The first value of an attribute.
pub(super) fn value<'a>(attributes: &'a [Attribute], key: &str) -> Option<&'a str> {
    attributes.iter().find(|a| a.key == key)?.value.as_deref()
}

pub(super) fn has(attributes: &[Attribute], key: &str) -> bool {
    attributes.iter().any(|attribute| attribute.key == key)
}

pub(super) fn mid(line: &MediaDescription) -> &str {
    value(&line.attributes, "mid").unwrap_or_default()
}

/// Names the m-lines that have no `a=mid` (RFC 9429 §5.10) by their index, as our own offers do.
pub(super) fn name(lines: &mut [MediaDescription]) {
    let mut taken: HashSet<String> = lines.iter().map(|line| mid(line).to_owned()).collect();
    let max = 2 * lines.len();
    for (index, line) in lines.iter_mut().enumerate() {
        if mid(line).is_empty() {
            line.attributes.retain(|attribute| attribute.key != "mid");
            // Each line takes at most one name, so one of twice as many names is free.
            let mut names = (index..=max).map(|number| number.to_string());
            let free = names.find(|name| taken.insert(name.clone()));
            line.attributes.push(Attribute::new("mid".into(), free));
        }
    }
}

/// The `a=mid` of the m-lines that share the transport of the first H.264 video (RFC 9143), in group order; none if
/// that video is not in a group. Port 0 of an `a=bundle-only` member (RFC 9143 §6) is replaced, because it does not
/// mean that the line is rejected.
pub(super) fn bundle(description: &mut SessionDescription) -> Option<Vec<String>> {
    let groups: Vec<Vec<String>> = description
        .attributes
        .iter()
        .filter(|attribute| attribute.key == "group")
        .filter_map(|attribute| attribute.value.as_deref()?.strip_prefix("BUNDLE"))
        .map(|mids| mids.split_ascii_whitespace().map(str::to_owned).collect())
        .collect();
    for line in &mut description.media_descriptions {
        let grouped = groups.iter().flatten().any(|member| *member == mid(line));
        if grouped && has(&line.attributes, "bundle-only") && line.media_name.port.value == 0 {
            line.media_name.port.value = 9;
        }
    }
    let video = description.media_descriptions.iter().find(|line| is_h264(line))?;
    groups.into_iter().find(|group| group.iter().any(|member| member == mid(video)))
}

/// Whether the line is not rejected and a member of the group, if there is one.
pub(super) fn shares(line: &MediaDescription, group: Option<&[String]>) -> bool {
    line.media_name.port.value != 0
        && group.is_none_or(|members| members.iter().any(|member| member == mid(line)))
}

/// H.264 video that is not rejected.
fn is_h264(line: &MediaDescription) -> bool {
    line.media_name.media == "video"
        && line.media_name.port.value != 0
        && line.media_name.formats.iter().any(|format| {
            codec(line, format).is_some_and(|codec| codec.eq_ignore_ascii_case("H264/90000"))
        })
}

fn codec<'a>(line: &'a MediaDescription, format: &str) -> Option<&'a str> {
    line.attributes.iter().filter(|attribute| attribute.key == "rtpmap").find_map(|attribute| {
        let (number, codec) = attribute.value.as_deref()?.split_once(' ')?;
        (number == format).then_some(codec)
    })
}

/// Matches what the crate recognizes (`rtc` 0.21.1, `peer_connection/sdp/mod.rs:1320`).
fn is_data_channel(line: &MediaDescription) -> bool {
    line.media_name.media == "application" && line.media_name.formats == ["webrtc-datachannel"]
}

/// Whether the crate sees this line.
pub(super) fn is_used(line: &MediaDescription, group: Option<&[String]>) -> bool {
    shares(line, group) && (is_h264(line) || is_data_channel(line))
}

/// Leaves the usable m-lines for the crate and hides the others.
pub(super) fn hide(
    description: &mut SessionDescription,
    group: Option<&[String]>,
) -> Vec<MediaLine> {
    let direction = DIRECTIONS.into_iter().find(|key| has(&description.attributes, key));
    let direction = direction.unwrap_or("sendrecv");
    let hide_unused = |line: &mut MediaDescription| {
        let used = is_used(line, group);
        let MediaName { media, protos, formats, .. } = line.media_name.clone();
        let found =
            MediaLine { media, protocols: protos, formats, mid: mid(line).to_owned(), used };
        if !used {
            *line = hidden(&found.mid);
        } else if !is_data_channel(line) {
            complete(line, direction);
        }
        found
    };
    description.media_descriptions.iter_mut().map(hide_unused).collect()
}

/// Replaces all groups with one that contains the used lines: those of `group`, or a single line, which the crate
/// would reject without a group (`rtc` 0.21.1, `peer_connection/internal.rs:385`).
pub(super) fn regroup(
    description: &mut SessionDescription,
    group: Option<&[String]>,
    lines: &[MediaLine],
) {
    description.attributes.retain(|attribute| attribute.key != "group");
    let used: Vec<&str> =
        lines.iter().filter(|line| line.used).map(|line| line.mid.as_str()).collect();
    let members: Vec<&str> = match group {
        Some(group) => group.iter().map(String::as_str).filter(|mid| used.contains(mid)).collect(),
        None if used.len() == 1 => used,
        None => return,
    };
    let value = format!("BUNDLE {}", members.join(" "));
    description.attributes.push(Attribute::new("group".into(), Some(value)));
}

/// An m-line of a kind that the crate skips in offers and answers.
fn hidden(mid: &str) -> MediaDescription {
    let mut line = MediaDescription::new_jsep_media_description("text".into(), Vec::new())
        .with_value_attribute("mid".into(), mid.to_owned())
        .with_property_attribute("inactive".into());
    line.media_name.port = RangedPort { value: 0, range: None };
    line.media_name.formats = vec!["0".into()];
    line
}

/// Completes a video m-line with a direction (RFC 8866 §6.7) and with the payload types that `a=rtcp-fb:*` stands
/// for (RFC 4585 §4.2), which some implementations leave implicit. Payload types without a description are omitted.
fn complete(line: &mut MediaDescription, direction: &str) {
    if !DIRECTIONS.iter().any(|key| has(&line.attributes, key)) {
        line.attributes.push(Attribute::new(direction.to_owned(), None));
    }
    let formats = std::mem::take(&mut line.media_name.formats);
    let described = |format: &String| codec(line, format).is_some();
    let formats: Vec<String> = formats.into_iter().filter(described).collect();
    let feedback = |attribute: Attribute| {
        let any = attribute.value.as_deref().and_then(|value| value.strip_prefix("* "));
        match any.filter(|_| attribute.key == "rtcp-fb") {
            None => vec![attribute],
            Some(wanted) => {
                let of =
                    |format| Attribute::new("rtcp-fb".into(), Some(format!("{format} {wanted}")));
                formats.iter().take(MAX_FORMATS).map(of).collect()
            }
        }
    };
    line.attributes = std::mem::take(&mut line.attributes).into_iter().flat_map(feedback).collect();
    for attribute in line.attributes.iter_mut().filter(|attribute| attribute.key == "fmtp") {
        if let Some(value) = &mut attribute.value {
            name_profile(value);
        }
    }
    line.media_name.formats = formats;
}

/// Writes the Constrained Baseline profile as this peer does: 42c0, 42d0, 42e0 and 42f0 all denote it (RFC 6184
/// §8.1, table 5), but the crate compares digits (`rtc` 0.21.1, `rtp_transceiver/fmtp/h264/mod.rs:28`).
fn name_profile(parameters: &mut String) {
    const KEY: &str = "profile-level-id=";
    let Some(at) = parameters.find(KEY).map(|at| at + KEY.len()) else { return };
    let constrained = parameters.get(at..at + 3).is_some_and(|profile| {
        profile.starts_with("42")
            && matches!(profile.as_bytes()[2] | 0x20, b'c' | b'd' | b'e' | b'f')
    });
    if constrained && parameters.as_bytes().get(at + 3) == Some(&b'0') {
        parameters.replace_range(at..at + 3, "42e");
    }
}

/// Number of possible payload types (RFC 3551 §3).
const MAX_FORMATS: usize = 128;
