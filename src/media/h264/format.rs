//! Names of the profile, level and sample format of a sequence parameter set (§7.4.2.1.1, Annex A).

use std::fmt;

/// Format of the pictures that an SPS describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
// Independent facts, not one state.
#[allow(clippy::struct_excessive_bools)]
pub struct Format {
    /// `profile_idc`.
    pub profile: u8,
    /// `level_idc`: ten times the level.
    pub level: u8,
    /// `constraint_set1_flag`: Baseline without the features that Main lacks.
    pub constrained: bool,
    /// `constraint_set3_flag`: intra pictures only, in High profiles from 110.
    pub intra: bool,
    /// `chroma_format_idc`: 0 to 3 for monochrome, 4:2:0, 4:2:2 and 4:4:4.
    pub chroma: u32,
    /// Number of bits per luma or chroma sample, whichever is larger.
    pub bits: u32,
    /// Whether fields may be coded (`frame_mbs_only_flag` 0): field pictures or MBAFF.
    pub interlaced: bool,
}

impl Format {
    /// Name of the profile.
    #[must_use]
    pub fn profile_name(self) -> String {
        let name = match self.profile {
            44 => "CAVLC 4:4:4 Intra",
            66 if self.constrained => "Constrained Baseline",
            66 => "Baseline",
            77 => "Main",
            83 => "Scalable Baseline",
            86 => "Scalable High",
            88 => "Extended",
            100 => "High",
            110 if self.intra => "High 10 Intra",
            110 => "High 10",
            118 => "Multiview High",
            122 if self.intra => "High 4:2:2 Intra",
            122 => "High 4:2:2",
            128 => "Stereo High",
            144 => "High 4:4:4",
            244 if self.intra => "High 4:4:4 Intra",
            244 => "High 4:4:4 Predictive",
            other => return format!("profile {other}"),
        };
        name.to_owned()
    }

    /// Name of the level, such as `5.2`.
    #[must_use]
    pub fn level_name(self) -> String {
        format!("{}.{}", self.level / 10, self.level % 10)
    }
}

impl fmt::Display for Format {
    /// `4:2:2, 10 bits, interlaced`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chroma = match self.chroma {
            0 => "grayscale",
            1 => "4:2:0",
            2 => "4:2:2",
            _ => "4:4:4",
        };
        let scan = if self.interlaced { ", interlaced" } else { "" };
        write!(f, "{chroma}, {} bits{scan}", self.bits)
    }
}
