//! Sets the quantization parameter of a running `OpenH264` encoder.
//!
//! The safe interface of the `openh264` crate cannot: in rate control mode `Off`, the only one that
//! leaves QP alone, it offers no way to choose one, and every other mode starts at QP 12. `OpenH264`'s own
//! option `SVC_ENCODE_PARAM_EXT` can, at run time and without a reset.
#![allow(unsafe_code)] // The crate's only way to this option is its raw interface.

use openh264::encoder::Encoder;
use openh264_sys2::{ENCODER_OPTION_SVC_ENCODE_PARAM_EXT, SEncParamExt};

/// Sets the QP, 0 to 51, of all pictures to come. The encoder must have encoded a picture before.
///
/// # Errors
/// `OpenH264`'s return code, when it refuses.
pub(super) fn set(encoder: &mut Encoder, qp: u8) -> Result<(), i32> {
    let mut params = SEncParamExt::default();
    // SAFETY: the encoder outlives the calls, `params` is the structure this option reads and writes,
    // and of what the wrapper relies on (sizes, formats) nothing is changed.
    unsafe {
        let api = encoder.raw_api();
        let read = api.get_option(ENCODER_OPTION_SVC_ENCODE_PARAM_EXT, (&raw mut params).cast());
        if read != 0 {
            return Err(read);
        }
        params.sSpatialLayers[0].iDLayerQp = qp.into();
        let written = api.set_option(ENCODER_OPTION_SVC_ENCODE_PARAM_EXT, (&raw mut params).cast());
        if written != 0 {
            return Err(written);
        }
    }
    Ok(())
}
