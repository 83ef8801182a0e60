//! The stages of a keyframe from the camera to the disk.

use serde::{Deserialize, Serialize, Serializer};

use super::{Histogram, Spread};

/// A value for each stage of a keyframe. Stages follow each other without gap or overlap, and `total` is their sum;
/// only `send` is a part of another one, `network`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Stages<T> {
    /// From capture to the conversion: the age of the picture.
    pub capture_age: T,
    /// Conversion of the captured picture to I420 of the requested size.
    pub convert: T,
    /// All passes of the encoder.
    pub encode: T,
    /// From the encoded picture to its first RTP packet: hash, packetization, announcement.
    pub packetize: T,
    /// From the first RTP packet handed to the connection to the last, including pacing.
    pub send: T,
    /// From the first RTP packet sent to the last one received.
    pub network: T,
    /// From the last RTP packet received to the decoder: reassembly, waiting for the announcement, comparing the hash.
    pub reassemble: T,
    /// Decoding.
    pub decode: T,
    /// Writing its files, until they are on disk.
    pub write: T,
    /// From capture to its files being on disk.
    pub total: T,
}

impl<T> Stages<T> {
    /// The stages by their JSON names, in order of time.
    #[must_use]
    pub fn named(&self) -> [(&'static str, &T); 10] {
        [
            ("captureAge", &self.capture_age),
            ("convert", &self.convert),
            ("encode", &self.encode),
            ("packetize", &self.packetize),
            ("send", &self.send),
            ("network", &self.network),
            ("reassemble", &self.reassemble),
            ("decode", &self.decode),
            ("write", &self.write),
            ("total", &self.total),
        ]
    }

    /// The same stages with `f` applied to each, in the order of [`Stages::named`].
    pub fn map<U>(&self, mut f: impl FnMut(&T) -> U) -> Stages<U> {
        Stages {
            capture_age: f(&self.capture_age),
            convert: f(&self.convert),
            encode: f(&self.encode),
            packetize: f(&self.packetize),
            send: f(&self.send),
            network: f(&self.network),
            reassemble: f(&self.reassemble),
            decode: f(&self.decode),
            write: f(&self.write),
            total: f(&self.total),
        }
    }
}

impl Stages<Option<f64>> {
    /// The sum of all stages; `None` when one was not measured.
    #[must_use]
    pub fn sum(&self) -> Option<f64> {
        let parts = self.named().into_iter().filter(|(name, _)| !["send", "total"].contains(name));
        parts.map(|(_, time)| *time).sum()
    }
}

/// Counts the times of many keyframes; as JSON the spread of each stage.
#[derive(Debug, Clone, Default)]
pub struct StageHistograms([Histogram; 10]);

impl StageHistograms {
    /// Counts the times of one keyframe, ms.
    pub fn record(&mut self, times: &Stages<Option<f64>>) {
        for (histogram, (_, time)) in self.0.iter_mut().zip(times.named()) {
            if let Some(time) = time {
                histogram.record(*time);
            }
        }
    }

    /// The spread of the times of each stage.
    #[must_use]
    pub fn spreads(&self) -> Stages<Spread> {
        let mut spreads = self.0.iter().map(Histogram::spread);
        Stages::<()>::default().map(|()| spreads.next().unwrap_or_default())
    }
}

impl Serialize for StageHistograms {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.spreads().serialize(serializer)
    }
}

/// The human-readable name of a stage in [`Stages::named`].
#[must_use]
pub fn stage_words(name: &str) -> &str {
    match name {
        "captureAge" => "capture age",
        "total" => "capture to disk",
        name => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_has_every_stage_exactly_once() {
        let mut nth = 0.0;
        let all = Stages::<()>::default().map(|()| {
            nth += 1.0;
            Some(nth)
        });
        // 1 to 9 without the fifth, which is a part of the sixth.
        assert_eq!(all.sum(), Some(40.0));
        assert_eq!(Stages { send: None, total: None, ..all }.sum(), Some(40.0));
        assert_eq!(Stages { decode: None, ..all }.sum(), None);
    }

    #[test]
    fn each_stage_is_counted_separately() {
        let mut histograms = StageHistograms::default();
        histograms.record(&Stages { encode: Some(30.0), write: Some(2.0), ..Stages::default() });
        histograms.record(&Stages { encode: Some(40.0), ..Stages::default() });
        let spreads = histograms.spreads();
        assert_eq!((spreads.encode.count, spreads.encode.max), (2, Some(40.0)));
        assert_eq!((spreads.write.count, spreads.write.p50), (1, Some(2.0)));
        assert_eq!(spreads.total.count, 0);
    }
}
