//! Commands that can be typed at a receiver, in addition to text.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::proto::control::{ControlMessage, Id, Settings};

/// A typed line that is a command: `/keyframe` asks for a keyframe now, `/set KEY=VALUE …` changes
/// the sender (`interval` in ms, `max-bytes`, `width`, `height`).
pub(super) fn command(line: &str) -> Option<ControlMessage> {
    let mut words = line.split_whitespace();
    match words.next()? {
        "/keyframe" => Some(ControlMessage::KeyframeRequest { reason: Some("requested".into()) }),
        "/set" => {
            let mut settings = Settings::default();
            for word in words {
                let (key, value) = word.split_once('=')?;
                match key {
                    "interval" => settings.interval_ms = Some(value.parse().ok()?),
                    "max-bytes" => settings.max_bytes = Some(value.parse().ok()?),
                    "width" => settings.width = Some(value.parse().ok()?),
                    "height" => settings.height = Some(value.parse().ok()?),
                    _ => return None,
                }
            }
            let id =
                SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
            Some(ControlMessage::Set { id: Some(Id::Number(id)), settings })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_distinguished_from_text() {
        assert!(matches!(command("/keyframe"), Some(ControlMessage::KeyframeRequest { .. })));
        let Some(ControlMessage::Set { settings, .. }) =
            command("/set interval=500 max-bytes=60000")
        else {
            panic!()
        };
        assert_eq!((settings.interval_ms, settings.max_bytes), (Some(500), Some(60_000)));
        for text in ["hello", "/set interval=soon", "/set colour=1", ""] {
            assert!(command(text).is_none(), "{text}");
        }
    }
}
