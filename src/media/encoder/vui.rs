//! The color description in the VUI of the stream (ITU-T H.264 §E.2.1).

use openh264::encoder::{
    ColorPrimaries as Primaries, MatrixCoefficients as Matrix, TransferCharacteristics as Transfer,
    VuiConfig,
};

use crate::media::colour::Colour;

/// The VUI for frames with these colors. Code points that the `openh264` crate does not name are
/// left unspecified.
pub(super) fn of(colour: Colour) -> VuiConfig {
    let primaries = [
        Primaries::Bt709,
        Primaries::Bt470M,
        Primaries::Bt470BG,
        Primaries::Smpte170M,
        Primaries::Smpte240M,
        Primaries::Film,
        Primaries::Bt2020,
    ];
    let transfers = [
        Transfer::Bt709,
        Transfer::Bt470M,
        Transfer::Bt470Bg,
        Transfer::Smpte170M,
        Transfer::Smpte240M,
        Transfer::Linear,
        Transfer::Srgb,
        Transfer::Bt2020_10,
        Transfer::Bt2020_12,
        Transfer::Smpte2084,
        Transfer::Hlg,
    ];
    let matrices = [
        Matrix::Bt709,
        Matrix::Fcc,
        Matrix::Bt470Bg,
        Matrix::Smpte170M,
        Matrix::Smpte240M,
        Matrix::Bt2020Ncl,
        Matrix::Bt2020Cl,
    ];
    let primaries = primaries.into_iter().find(|code| code.as_u8() == colour.primaries);
    let transfer = transfers.into_iter().find(|code| code.as_u8() == colour.transfer);
    let matrix = matrices.into_iter().find(|code| code.as_u8() == colour.matrix);
    VuiConfig::new()
        .color_primaries(primaries.unwrap_or(Primaries::Unspecified))
        .transfer_characteristics(transfer.unwrap_or(Transfer::Unspecified))
        .matrix_coefficients(matrix.unwrap_or(Matrix::Unspecified))
        .full_range(colour.full_range)
}
