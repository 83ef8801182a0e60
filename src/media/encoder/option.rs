//! Options of a running `OpenH264` encoder that the safe interface of the `openh264` crate has no way
//! to: QP, slices, deblocking.
//!
//! In rate control mode `Off`, the only one that leaves QP alone, the crate cannot choose one,
//! and every other mode starts at QP 12. `OpenH264`'s own option `SVC_ENCODE_PARAM_EXT` can, at run time;
//! another number of slices restarts the encoder, a QP does not.
#![allow(unsafe_code)] // The crate's only way to this option is its raw interface.

use openh264::encoder::Encoder;
use openh264_sys2::{
    ENCODER_OPTION_SVC_ENCODE_PARAM_EXT, SEncParamExt, SM_RASTER_SLICE, SM_SINGLE_SLICE,
};

/// Slices are encoded by so many threads.
const THREADS: u16 = 2;

/// `slice_alpha_c0_offset_div2` and `slice_beta_offset_div2` (§7.4.3). Pictures that nothing refers to
/// gain 0.03 dB with a little less deblocking.
const DEBLOCKING_OFFSET: i32 = -1;

/// Sets the QP, 0 to 51, of all pictures to come. The encoder must have encoded a picture before.
///
/// # Errors
/// `OpenH264`'s return code, when it refuses.
pub(super) fn set_qp(encoder: &mut Encoder, qp: u8) -> Result<(), i32> {
    change(encoder, |params| params.sSpatialLayers[0].iDLayerQp = qp.into())
}

/// Sets the slices of all pictures to come, in macroblocks each, and how they are deblocked. The encoder
/// must have encoded a picture before.
///
/// # Errors
/// `OpenH264`'s return code, when it refuses.
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
    // SAFETY: the encoder outlives the calls, `params` is the structure this option reads and writes,
    // and of what the wrapper relies on (sizes, formats) nothing is changed.
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
