//! Builds our answer for the peer from the `rtc` crate's answer to the rewritten offer.

use std::io::Cursor;

use rtc::sdp::SessionDescription;

use super::{hints::Hints, lines::MediaLine, transport::Setup};

/// The parts of an offer that the answer must repeat.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shape {
    pub(in crate::peer) lines: Vec<MediaLine>,
    /// Whether the used lines are in a BUNDLE group.
    pub(in crate::peer) bundled: bool,
    /// The DTLS role that the offerer takes, unless it leaves the choice to us.
    pub(in crate::peer) setup: Option<Setup>,
}

impl Shape {
    /// Number of m-lines that the crate sees.
    pub(in crate::peer) fn used(&self) -> usize {
        self.lines.iter().filter(|line| line.used).count()
    }

    /// The m-line of our candidates: its `a=mid` and index.
    pub(in crate::peer) fn candidate_line(&self) -> Option<(String, u16)> {
        let index = self.lines.iter().position(|line| line.used)?;
        Some((self.lines[index].mid.clone(), u16::try_from(index).ok()?))
    }

    /// The answer for the peer: m-lines that the crate did not see are rejected (RFC 3264 §6), `setup` is the
    /// actual DTLS role of this peer, and groups that the offer did not have are removed (RFC 5888 §9.2). `hints`
    /// are added.
    ///
    /// `rtc` 0.21.1 always writes the `a=setup` it is configured with (`peer_connection/mod.rs:984`), although it
    /// takes the other role if the offer states one (`transport/dtls/mod.rs:160`).
    ///
    /// # Errors
    /// The crate's error message if it cannot read its own answer.
    pub(in crate::peer) fn finish(
        &self,
        answer: &str,
        setup: Option<Setup>,
        hints: Option<Hints>,
    ) -> Result<String, String> {
        let mut answer = SessionDescription::unmarshal(&mut Cursor::new(answer.as_bytes()))
            .map_err(|error| error.to_string())?;
        if let Some(setup) = setup {
            let lines = answer.media_descriptions.iter_mut();
            let setups = lines.flat_map(|line| &mut line.attributes).filter(|a| a.key == "setup");
            setups.for_each(|attribute| attribute.value = Some(setup.as_str().to_owned()));
        }
        if let Some(hints) = hints {
            answer.media_descriptions.iter_mut().for_each(|line| hints.write(line));
        }
        if !self.bundled {
            answer.attributes.retain(|attribute| attribute.key != "group");
        }
        let mut used = std::mem::take(&mut answer.media_descriptions).into_iter();
        for line in &self.lines {
            let line = if line.used { used.next() } else { Some(line.rejected()) };
            answer.media_descriptions.extend(line);
        }
        Ok(answer.marshal())
    }
}
