//! How the samples of a frame are interpreted as colors: the code points of ITU-T H.273, which H.264's VUI
//! uses (§E.2.1).

use std::fmt;

use moxcms::{
    CicpColorPrimaries, CicpProfile, ColorProfile, LocalizableString, ProfileText,
    TransferCharacteristics,
};
use yuv::{YuvRange, YuvStandardMatrix};

/// Range, primaries, transfer and matrix of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Colour {
    /// Luma from 0 to 255 instead of 16 to 235, `video_full_range_flag`.
    pub full_range: bool,
    /// `colour_primaries`, H.273 table 2.
    pub primaries: u8,
    /// `transfer_characteristics`, H.273 table 3.
    pub transfer: u8,
    /// `matrix_coefficients`, H.273 table 4.
    pub matrix: u8,
}

/// The code point for a property that the stream does not specify.
const UNSPECIFIED: u8 = 2;
/// The primaries and the matrix of BT.709; sRGB has the same primaries.
const BT709: u8 = 1;
/// The transfer function of sRGB.
const SRGB: u8 = 13;
/// The matrix of BT.601.
const BT601: u8 = 6;

impl Default for Colour {
    /// The colors of all frames created here: sRGB with the BT.601 matrix and limited range, as in WebRTC.
    fn default() -> Self {
        Self { full_range: false, primaries: BT709, transfer: SRGB, matrix: BT601 }
    }
}

impl Colour {
    /// The colors of a stream that does not specify them; treated like the default.
    pub const UNSPECIFIED: Self = Self {
        full_range: false,
        primaries: UNSPECIFIED,
        transfer: UNSPECIFIED,
        matrix: UNSPECIFIED,
    };

    /// The same colors with the BT.601 matrix.
    #[must_use]
    pub fn bt601(self) -> Self {
        Self { matrix: BT601, ..self }
    }

    /// Whether the matrix is BT.601 or is treated as BT.601.
    #[must_use]
    pub fn is_bt601(self) -> bool {
        self.yuv_matrix() == YuvStandardMatrix::Bt601
    }

    pub(super) fn yuv_range(self) -> YuvRange {
        if self.full_range { YuvRange::Full } else { YuvRange::Limited }
    }

    pub(super) fn yuv_matrix(self) -> YuvStandardMatrix {
        match self.matrix {
            BT709 => YuvStandardMatrix::Bt709,
            4 => YuvStandardMatrix::Fcc,
            7 => YuvStandardMatrix::Smpte240,
            9 | 10 => YuvStandardMatrix::Bt2020,
            _ => YuvStandardMatrix::Bt601,
        }
    }

    /// The ICC profile of its RGB values; `None` for sRGB, which viewers assume without a profile. The
    /// transfer functions of television are treated like sRGB's.
    pub(super) fn icc_profile(self) -> Option<Vec<u8>> {
        let like_srgb = matches!(self.transfer, BT709 | UNSPECIFIED | BT601 | SRGB..=15);
        if like_srgb && matches!(self.primaries, BT709 | UNSPECIFIED) {
            return None;
        }
        let primaries = if self.primaries == UNSPECIFIED { BT709 } else { self.primaries };
        let transfer = if like_srgb { SRGB } else { self.transfer };
        let cicp = CicpProfile {
            color_primaries: CicpColorPrimaries::try_from(primaries).ok()?,
            transfer_characteristics: TransferCharacteristics::try_from(transfer).ok()?,
            matrix_coefficients: moxcms::MatrixCoefficients::Identity,
            full_range: true,
        };
        let mut profile = ColorProfile::new_from_cicp(cicp);
        // moxcms 0.8.1 does not report a transfer function that it does not support (`src/profile.rs` line
        // 1300).
        profile.red_trc.as_ref()?;
        let srgb = ColorProfile::new_srgb();
        (profile.media_white_point, profile.copyright) = (srgb.media_white_point, srgb.copyright);
        let name = format!("{} {}", name(PRIMARIES, primaries), name(TRANSFERS, transfer));
        let name = LocalizableString::new("en".into(), "US".into(), name);
        profile.description = Some(ProfileText::Localizable(vec![name]));
        profile.encode().ok()
    }

    /// Name of the range, as in y4m.
    #[must_use]
    pub fn range_name(self) -> &'static str {
        if self.full_range { "full" } else { "limited" }
    }

    /// Name of the primaries.
    #[must_use]
    pub fn primaries_name(self) -> String {
        name(PRIMARIES, self.primaries)
    }

    /// Name of the transfer function.
    #[must_use]
    pub fn transfer_name(self) -> String {
        name(TRANSFERS, self.transfer)
    }

    /// Name of the matrix.
    #[must_use]
    pub fn matrix_name(self) -> String {
        name(MATRICES, self.matrix)
    }
}

impl fmt::Display for Colour {
    /// `limited range, bt709 primaries, smpte170m matrix`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (range, primaries) = (self.range_name(), self.primaries_name());
        write!(f, "{range} range, {primaries} primaries, {} matrix", self.matrix_name())
    }
}

/// `ffmpeg`'s names of the code points, from 0.
const PRIMARIES: &[&str] = &[
    "",
    "bt709",
    "unspecified",
    "",
    "bt470m",
    "bt470bg",
    "smpte170m",
    "smpte240m",
    "film",
    "bt2020",
    "smpte428",
    "smpte431",
    "smpte432",
];
const TRANSFERS: &[&str] = &[
    "",
    "bt709",
    "unspecified",
    "",
    "gamma22",
    "gamma28",
    "smpte170m",
    "smpte240m",
    "linear",
    "log100",
    "log316",
    "iec61966-2-4",
    "bt1361e",
    "iec61966-2-1",
    "bt2020-10",
    "bt2020-12",
    "smpte2084",
    "smpte428",
    "arib-std-b67",
];
const MATRICES: &[&str] = &[
    "gbr",
    "bt709",
    "unspecified",
    "",
    "fcc",
    "bt470bg",
    "smpte170m",
    "smpte240m",
    "ycgco",
    "bt2020nc",
    "bt2020c",
];

fn name(names: &[&str], code: u8) -> String {
    match names.get(usize::from(code)) {
        Some(name) if !name.is_empty() => (*name).to_owned(),
        _ => code.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_matches_the_primaries() {
        assert_eq!(Colour::default().icc_profile(), None);
        assert_eq!(Colour::UNSPECIFIED.icc_profile(), None);
        let p3 = Colour { primaries: 12, ..Colour::default() }.icc_profile().unwrap();
        let p3 = ColorProfile::new_from_slice(&p3).unwrap();
        let expected = ColorProfile::new_display_p3();
        for (found, expected) in
            [(p3.red_colorant, expected.red_colorant), (p3.blue_colorant, expected.blue_colorant)]
        {
            assert!((found.x - expected.x).abs() < 1e-3 && (found.z - expected.z).abs() < 1e-3);
        }
    }

    #[test]
    fn names_match_ffmpeg() {
        let text = Colour::default().to_string();
        assert_eq!(text, "limited range, bt709 primaries, smpte170m matrix");
        let odd = Colour { full_range: true, primaries: 12, transfer: 18, matrix: 99 };
        assert_eq!(odd.to_string(), "full range, smpte432 primaries, 99 matrix");
        assert_eq!(odd.transfer_name(), "arib-std-b67");
    }
}
