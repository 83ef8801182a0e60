//! Options of a running `OpenH264` encoder that the safe interface of the `openh264` crate does not
//! offer: QP, slices, deblocking.
//!
//! Only rate control mode `Off` keeps QP fixed, but the crate cannot set QP in that mode; every other
//! mode starts at QP 12. `OpenH264`'s own option `SVC_ENCODE_PARAM_EXT` sets it at run time. Changing the
//! number of slices restarts the encoder, changing QP does not.
#![allow(unsafe_code)] // The crate's only way to this option is its raw interface.

use openh264::encoder::Encoder;
use openh264_sys2::{
    ENCODER_OPTION_SVC_ENCODE_PARAM_EXT, SEncParamExt, SM_RASTER_SLICE, SM_SINGLE_SLICE,
};

/// Number of threads that encode slices.
const THREADS: u16 = 2;

/// `slice_alpha_c0_offset_div2` and `slice_beta_offset_div2` (§7.4.3). Pictures that are not used for
/// reference gain 0.03 dB with slightly less deblocking.
const DEBLOCKING_OFFSET: i32 = -1;

/// Sets the QP, 0 to 51, of all following pictures. The encoder must have encoded a picture before.
///
/// # Errors
/// `OpenH264` rejects the option; its return code.
pub(super) fn set_qp(encoder: &mut Encoder, qp: u8) -> Result<(), i32> {
    change(encoder, |params| params.sSpatialLayers[0].iDLayerQp = qp.into())
}

/// Sets the slices of all following pictures, as numbers of macroblocks, and their deblocking. The
/// encoder must have encoded a picture before.
///
/// # Errors
/// `OpenH264` rejects the option; its return code.
pub(super) fn set_slices(encoder: &mut Encoder, macroblocks: &[u32]) -> Result<(), i32> {
    change(encoder, |params| {
        let slices = &mut params.sSpatialLayers[0].sSliceArgument;
        slices.uiSliceMode = if macroblocks.len() > 1 { SM_RASTER_SLICE } else { SM_SINGLE_SLICE };
        slices.uiSliceNum = macroblocks.len() as u32;
        slices.uiSliceMbNum.fill(0);
        for (slot, count) in slices.uiSliceMbNum.iter_mut().zip(macroblocks) {
            *slot = *count;
        }
        params.iMultipleThreadIdc = if macroblocks.len() > 1 { THREADS } else { 1 };
        params.iLoopFilterAlphaC0Offset = DEBLOCKING_OFFSET;
        params.iLoopFilterBetaOffset = DEBLOCKING_OFFSET;
    })
}

fn change(encoder: &mut Encoder, set: impl FnOnce(&mut SEncParamExt)) -> Result<(), i32> {
    let mut params = SEncParamExt::default();
    // SAFETY: the encoder outlives the calls, `params` is the structure that this option reads and
    // writes, and nothing that the wrapper relies on (sizes, formats) is changed.
    unsafe {
        let api = encoder.raw_api();
        let read = api.get_option(ENCODER_OPTION_SVC_ENCODE_PARAM_EXT, (&raw mut params).cast());
        if read != 0 {
            return Err(read);
        }
        set(&mut params);
        let written = api.set_option(ENCODER_OPTION_SVC_ENCODE_PARAM_EXT, (&raw mut params).cast());
        if written != 0 {
            return Err(written);
        }
    }
    Ok(())
}
