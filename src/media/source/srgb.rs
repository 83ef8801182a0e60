//! Converts a decoded picture to sRGB without transparency.

use image::{DynamicImage, Rgb, RgbImage};
use moxcms::{CmsError, ColorProfile, DataColorSpace, Layout, TransformOptions};

use crate::media::guarded;

/// Background of transparent parts, as in viewers and printers.
const BACKGROUND: u8 = 255;

/// Notices about the conversion of a picture.
const SHOWN_ON_WHITE: &str = "its transparent parts are shown on white";
const PROFILE_UNUSABLE: &str = "its color profile cannot be used: the colors may look different";

/// Converts the pixels to sRGB; also returns the notices about it. `profile` is the picture's ICC
/// profile.
pub(super) fn into_srgb(
    picture: DynamicImage,
    profile: Option<&[u8]>,
) -> (RgbImage, Vec<&'static str>) {
    let mut notices = Vec::new();
    let gray = !picture.color().has_color();
    let alpha = picture.color().has_alpha().then(|| alpha(&picture));
    let mut rgb = picture.into_rgb8();
    if let Some(profile) = profile {
        // Profiles are untrusted data.
        let converted = guarded(|| convert(&rgb, profile, gray).map_err(|e| e.to_string()));
        match converted.and_then(|converted| converted) {
            Ok(converted) => rgb = converted.unwrap_or(rgb),
            Err(cause) => {
                tracing::debug!("color profile: {cause}");
                notices.push(PROFILE_UNUSABLE);
            }
        }
    }
    if let Some(alpha) = alpha
        && alpha.iter().any(|alpha| *alpha != u8::MAX)
    {
        rgb.pixels_mut().zip(alpha).for_each(|(pixel, alpha)| compose(pixel, alpha));
        notices.push(SHOWN_ON_WHITE);
    }
    (rgb, notices)
}

fn alpha(picture: &DynamicImage) -> Vec<u8> {
    picture.to_luma_alpha8().pixels().map(|pixel| pixel.0[1]).collect()
}

/// Blends a pixel with the background.
fn compose(pixel: &mut Rgb<u8>, alpha: u8) {
    let (alpha, background) = (u32::from(alpha), u32::from(BACKGROUND));
    for value in &mut pixel.0 {
        *value = ((u32::from(*value) * alpha + background * (255 - alpha) + 127) / 255) as u8;
    }
}

/// The pixels in sRGB; `None` when they already are.
fn convert(rgb: &RgbImage, profile: &[u8], gray: bool) -> Result<Option<RgbImage>, CmsError> {
    let profile = ColorProfile::new_from_slice(profile)?;
    let srgb = ColorProfile::new_srgb();
    let layout = match profile.color_space {
        DataColorSpace::Rgb => Layout::Rgb,
        DataColorSpace::Gray if gray => Layout::Gray,
        _ => return Err(CmsError::UnsupportedProfileConnection),
    };
    let transform =
        profile.create_transform_8bit(layout, &srgb, Layout::Rgb, TransformOptions::default())?;
    let convert = |rgb: &[u8]| {
        let mut converted = vec![0; rgb.len()];
        match layout {
            Layout::Gray => {
                let gray: Vec<u8> = rgb.chunks_exact(3).map(|pixel| pixel[0]).collect();
                transform.transform(&gray, &mut converted)?;
            }
            _ => transform.transform(rgb, &mut converted)?,
        }
        Ok::<_, CmsError>(converted)
    };
    let samples = samples();
    let off = convert(&samples)?.iter().zip(&samples).map(|(a, b)| a.abs_diff(*b)).max();
    if off.is_none_or(|off| off <= 1) {
        return Ok(None);
    }
    Ok(RgbImage::from_raw(rgb.width(), rgb.height(), convert(rgb)?))
}

/// Grays and colors from all of RGB: a profile that leaves them unchanged leaves every color
/// unchanged.
fn samples() -> Vec<u8> {
    let steps = || (0..=255_u8).step_by(51);
    let colors = steps().flat_map(|r| steps().flat_map(move |g| steps().map(move |b| [r, g, b])));
    (0..=255).map(|gray| [gray; 3]).chain(colors).flatten().collect()
}

#[cfg(test)]
mod tests {
    use image::{GrayImage, ImageBuffer, LumaA, Rgba};

    use super::*;

    fn plain(color: [u8; 3]) -> DynamicImage {
        RgbImage::from_pixel(2, 2, Rgb(color)).into()
    }

    fn first((rgb, notices): (RgbImage, Vec<&'static str>)) -> ([u8; 3], Vec<&'static str>) {
        (rgb.get_pixel(0, 0).0, notices)
    }

    #[test]
    fn transparency_is_shown_on_white() {
        let rgba = |alpha: u8| ImageBuffer::from_pixel(2, 2, Rgba([255, 0, 100, alpha])).into();
        assert_eq!(first(into_srgb(rgba(255), None)), ([255, 0, 100], vec![]));
        assert_eq!(first(into_srgb(rgba(0), None)), ([255; 3], vec![SHOWN_ON_WHITE]));
        // 100 * 51 / 255 + 255 * 204 / 255
        assert_eq!(first(into_srgb(rgba(51), None)).0, [255, 204, 224]);
        let deep: DynamicImage = ImageBuffer::from_pixel(2, 2, LumaA([0_u16, 0x8080])).into();
        assert_eq!(first(into_srgb(deep, None)), ([127; 3], vec![SHOWN_ON_WHITE]));
    }

    #[test]
    fn profiles_are_converted() {
        let p3 = ColorProfile::new_display_p3().encode().unwrap();
        // Expected values are from littlecms 2.19 through Pillow 13.0.0.
        for (from, to) in [
            ([200, 100, 50], [215, 93, 31]),
            ([30, 180, 90], [0, 183, 78]),
            ([255, 0, 0], [255, 0, 0]),
            ([128, 128, 128], [128, 128, 128]),
        ] {
            let (found, notices) = first(into_srgb(plain(from), Some(&p3)));
            let off = found.iter().zip(to).map(|(a, b)| a.abs_diff(b)).max().unwrap();
            assert!(off <= 1 && notices.is_empty(), "{from:?}: {found:?} is not {to:?}");
        }
        let srgb = ColorProfile::new_srgb().encode().unwrap();
        assert_eq!(first(into_srgb(plain([200, 100, 50]), Some(&srgb))), ([200, 100, 50], vec![]));
        let linear = ColorProfile::new_gray_with_gamma(1.0).encode().unwrap();
        let gray: DynamicImage = GrayImage::from_pixel(2, 2, image::Luma([55])).into();
        let (found, notices) = first(into_srgb(gray, Some(&linear)));
        // 255 * (1.055 * (55 / 255)^(1 / 2.4) - 0.055)
        assert!(found.iter().all(|value| value.abs_diff(128) <= 1), "{found:?}");
        assert!(notices.is_empty());
    }

    #[test]
    fn profiles_that_cannot_be_used_are_ignored() {
        for profile in [&b""[..], &[0; 128], &[7; 500]] {
            let found = first(into_srgb(plain([200, 100, 50]), Some(profile)));
            assert_eq!(found, ([200, 100, 50], vec![PROFILE_UNUSABLE]));
        }
        let gray = ColorProfile::new_gray_with_gamma(2.2).encode().unwrap();
        let found = first(into_srgb(plain([200, 100, 50]), Some(&gray)));
        assert_eq!(found, ([200, 100, 50], vec![PROFILE_UNUSABLE]));
    }
}
