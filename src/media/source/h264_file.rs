//! The keyframes of an H.264 byte stream (Annex B), unchanged.
//!
//! Only IDR pictures are returned, because every picture sent must be decodable by itself. Other pictures
//! are skipped, and intra pictures among them are counted: a decoder can also start at such a picture of
//! an open GOP, but later pictures may refer to earlier ones. An IDR picture without SPS and PPS is
//! prefixed with the latest ones in the stream.

use std::{io::Read, time::SystemTime};

use bytes::Bytes;

use super::{Captured, Source, SourceError};
use crate::media::{
    decoder,
    h264::{
        AccessUnit, AccessUnitSplitter, NalType, append_nal, dimensions, is_intra, is_keyframe,
        nal_type, nal_units,
    },
};

/// Maximum number of bytes held for one access unit.
const MAX_HELD: usize = 32 << 20;

/// The keyframes of a byte stream; ends with the stream.
pub struct H264Source<R> {
    reader: R,
    name: String,
    splitter: AccessUnitSplitter,
    parameter_sets: ParameterSets,
    ended: bool,
    /// The first keyframe, read when the source was opened.
    first: Option<AccessUnit>,
    size: (u32, u32),
    /// Number of intra pictures that were skipped because they are not IDR pictures.
    intra: u64,
}

#[derive(Default)]
struct ParameterSets {
    sps: Vec<u8>,
    pps: Vec<u8>,
}

impl<R: Read> H264Source<R> {
    /// Reads up to the first keyframe.
    ///
    /// # Errors
    /// Reading fails, there is no keyframe, or the first keyframe is of a kind that cannot be decoded.
    pub fn new(reader: R, name: String) -> Result<Self, SourceError> {
        let mut source = Self {
            reader,
            name,
            splitter: AccessUnitSplitter::default(),
            parameter_sets: ParameterSets::default(),
            ended: false,
            first: None,
            size: (0, 0),
            intra: 0,
        };
        match source.read_keyframe()? {
            Some(first) => {
                source.size = (first.width, first.height);
                source.first = Some(first);
                Ok(source)
            }
            None => Err(SourceError::NoKeyframe { name: source.name, intra: source.intra }),
        }
    }

    fn read_keyframe(&mut self) -> Result<Option<AccessUnit>, SourceError> {
        loop {
            while let Some(unit) = self.splitter.pop() {
                self.skip_intra(&unit);
                if let Some(keyframe) = self.parameter_sets.complete(unit) {
                    decoder::check(&keyframe.data).map_err(|cause| SourceError::Undecodable {
                        name: self.name.clone(),
                        cause,
                    })?;
                    return Ok(Some(keyframe));
                }
            }
            if self.ended {
                return Ok(None);
            }
            self.read_more()?;
        }
    }

    fn skip_intra(&mut self, unit: &[u8]) {
        if !is_intra(unit) || is_keyframe(unit) {
            return;
        }
        self.intra += 1;
        if self.intra == 1 {
            tracing::warn!(
                "{}: intra pictures that are not IDR pictures (open GOP) are skipped",
                self.name
            );
        }
    }

    fn read_more(&mut self) -> Result<(), SourceError> {
        let mut chunk = [0; 1 << 14];
        match self.reader.read(&mut chunk) {
            Ok(0) => {
                self.splitter.finish();
                self.ended = true;
            }
            Ok(n) => self.splitter.push(&chunk[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(SourceError::Read { name: self.name.clone(), cause }),
        }
        let bytes = self.splitter.held();
        if bytes > MAX_HELD {
            self.ended = true;
            return Err(SourceError::TooLong { name: self.name.clone(), bytes });
        }
        Ok(())
    }
}

impl ParameterSets {
    /// Stores the parameter sets of an access unit; if it is a keyframe of known size, returns it with its
    /// missing parameter sets added.
    fn complete(&mut self, unit: Bytes) -> Option<AccessUnit> {
        let (mut sps, mut pps, mut idr) = (Vec::new(), Vec::new(), false);
        for nal in nal_units(&unit) {
            match nal_type(nal) {
                NalType::Sps => append_nal(&mut sps, nal),
                NalType::Pps => append_nal(&mut pps, nal),
                NalType::Idr => idr = true,
                _ => {}
            }
        }
        let lacks = (sps.is_empty(), pps.is_empty());
        if !lacks.0 {
            self.sps = sps;
        }
        if !lacks.1 {
            self.pps = pps;
        }
        if !idr || self.sps.is_empty() || self.pps.is_empty() {
            return None;
        }
        let data = match lacks {
            (false, false) => unit,
            _ => rebuild(&self.sps, &self.pps, &unit),
        };
        let (width, height) = dimensions(&data)?;
        Some(AccessUnit { data, width, height, captured_at: SystemTime::now() })
    }
}

/// The access unit with SPS and PPS in front, after the delimiter if there is one.
fn rebuild(sps: &[u8], pps: &[u8], unit: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(unit.len() + sps.len() + pps.len());
    let has = |nal: &&[u8], kind| nal_type(nal) == kind;
    nal_units(unit).filter(|nal| has(nal, NalType::Aud)).for_each(|nal| append_nal(&mut out, nal));
    out.extend_from_slice(sps);
    out.extend_from_slice(pps);
    nal_units(unit)
        .filter(|nal| !matches!(nal_type(nal), NalType::Aud | NalType::Sps | NalType::Pps))
        .for_each(|nal| append_nal(&mut out, nal));
    out.into()
}

impl<R: Read + Send> Source for H264Source<R> {
    fn describe(&self) -> String {
        format!("keyframes of {} at {}x{}", self.name, self.size.0, self.size.1)
    }

    fn next(&mut self) -> Result<Option<Captured>, SourceError> {
        let keyframe = match self.first.take() {
            Some(first) => Some(AccessUnit { captured_at: SystemTime::now(), ..first }),
            None => self.read_keyframe()?,
        };
        if keyframe.is_none() && self.intra > 0 {
            let intra = std::mem::take(&mut self.intra);
            let pictures = if intra == 1 { "picture" } else { "pictures" };
            tracing::warn!(
                "{}: {intra} non-IDR intra {pictures} (open GOP) were skipped",
                self.name
            );
        }
        Ok(keyframe.map(Captured::AccessUnit))
    }
}
