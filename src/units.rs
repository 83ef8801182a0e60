//! Parsers for human-readable quantities: durations, sizes, picture sizes, percentages and rates.
//!
//! Each function is a clap value parser whose error names the rejected text and the accepted forms, all through
//! [`not_valid`].

use std::{fmt, net::SocketAddr, time::Duration};

/// The error message for text that cannot be parsed: "`x` is not a valid duration: expected 3.5s".
#[must_use]
pub fn not_valid(text: &str, what: &str, expected: &str) -> String {
    format!("`{text}` is not a valid {what}: expected {expected}")
}

/// Text that is not a quantity of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a duration.
    #[error("{}", not_valid(.0, "duration", "3.5s, 500ms, 2m or 1h30m"))]
    Duration(String),
    /// A number that could be seconds or milliseconds.
    #[error("`{0}` has no unit: use {0}ms or {0}s")]
    NoTimeUnit(String),
    /// Not a number of bytes.
    #[error("{}", not_valid(.0, "size", "100KB (1000 bytes each), 64KiB (1024), 1.5MB or a number of bytes"))]
    Size(String),
    /// Not a picture size.
    #[error("{}", not_valid(.0, "picture size", "WIDTHxHEIGHT in pixels, such as 1280x720"))]
    PictureSize(String),
    /// Not a percentage from 0 to the maximum.
    #[error("{}", not_valid(.0, "percentage", &format!("5% or 5, from 0 to {}", .1)))]
    Percentage(String, u32),
    /// A number that could be a fraction or a percentage.
    #[error("`{number}` has no unit: use {percent}% or {number}%")]
    NoPercentSign {
        /// The number as given.
        number: String,
        /// The number read as a fraction, in percent.
        percent: String,
    },
    /// Not an IP address with a port.
    #[error("{}", not_valid(.0, "address", "IP:PORT, such as 127.0.0.1:8787 or [::1]:8787; port 0 picks a free port"))]
    Address(String),
    /// Not a number of bits per second.
    #[error("{}", not_valid(.0, "link rate", "2Mbit, 500kbit or 1Gbit (per second, 1000 each)"))]
    BitRate(String),
}

/// A picture size in pixels; both dimensions are at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PictureSize {
    /// Pixels per row.
    pub width: u32,
    /// Number of rows.
    pub height: u32,
}

/// Maximum width and height in pixels: what H.264 level 6.2 allows for one dimension.
const MAX_SIDE: u32 = 16_888;

const NANOS: [(&str, f64); 6] =
    [("d", 86_400e9), ("h", 3_600e9), ("m", 60e9), ("s", 1e9), ("ms", 1e6), ("us", 1e3)];

const BYTES: [(&str, f64); 9] = [
    ("b", 1.0),
    ("kb", 1e3),
    ("mb", 1e6),
    ("gb", 1e9),
    ("tb", 1e12),
    ("kib", 1024.0),
    ("mib", 1_048_576.0),
    ("gib", 1_073_741_824.0),
    ("tib", 1_099_511_627_776.0),
];

/// Splits `3.5s…` into the number, its unit (letters only) and the remaining text.
fn number_and_unit(text: &str) -> Option<(f64, &str, &str)> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, rest) = text.split_at(unit_at);
    let rest = rest.trim_start();
    let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(end);
    Some((number.parse().ok()?, unit, rest))
}

/// Parses a duration: `3.5s`, `500ms`, `2m`, `1h30m`, `0`.
///
/// # Errors
/// A missing or unknown unit, units not in descending order, a negative number, or more than 10 000 days.
pub fn duration(text: &str) -> Result<Duration, UnitError> {
    let number = text.trim();
    match number_and_unit(number) {
        // Some users mean milliseconds by 100, others seconds.
        Some((count, "", "")) if count > 0.0 => Err(UnitError::NoTimeUnit(number.to_owned())),
        _ => parse_duration(number).ok_or_else(|| UnitError::Duration(text.to_owned())),
    }
}

fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = 0.0;
    let mut last = f64::INFINITY;
    while !rest.is_empty() {
        let (number, unit, after) = number_and_unit(rest)?;
        let only_zero = number == 0.0 && unit.is_empty() && rest.len() == text.len();
        let nanos = match NANOS.iter().find(|(name, _)| *name == unit) {
            Some((_, nanos)) => *nanos,
            None if only_zero => 1e9,
            None => return None,
        };
        if nanos >= last {
            return None;
        }
        last = nanos;
        total += number * nanos;
        rest = after.trim_start();
    }
    let sane = !text.is_empty() && total <= 10_000.0 * 86_400e9;
    sane.then(|| Duration::from_nanos(total.round() as u64))
}

/// Parses a number of bytes: `100KB` (1000), `64KiB` (1024), `1.5MB`, or a plain number.
///
/// # Errors
/// Another unit, a negative number, or more than 2^53 bytes.
pub fn size(text: &str) -> Result<u64, UnitError> {
    parse_size(text.trim()).ok_or_else(|| UnitError::Size(text.to_owned()))
}

fn parse_size(text: &str) -> Option<u64> {
    let (number, unit, rest) = number_and_unit(text)?;
    let unit = unit.to_ascii_lowercase();
    let factor = match BYTES.iter().find(|(name, _)| *name == unit) {
        Some((_, factor)) => *factor,
        None if unit.is_empty() => 1.0,
        None => return None,
    };
    let bytes = (number * factor).round();
    (rest.is_empty() && bytes <= 9_007_199_254_740_992.0).then_some(bytes as u64)
}

/// Parses an address to listen on: `127.0.0.1:8787`, `[::1]:0`.
///
/// # Errors
/// A host name, or an IP address without a port.
pub fn address(text: &str) -> Result<SocketAddr, UnitError> {
    text.trim().parse().map_err(|_| UnitError::Address(text.to_owned()))
}

/// Parses a picture size: `1280x720`.
///
/// # Errors
/// Not two integers separated by `x`, or a dimension of 0 or more than 16 888 pixels.
pub fn picture_size(text: &str) -> Result<PictureSize, UnitError> {
    parse_picture_size(text.trim()).ok_or_else(|| UnitError::PictureSize(text.to_owned()))
}

fn parse_picture_size(text: &str) -> Option<PictureSize> {
    let (width, height) = text.split_once(['x', 'X', '×'])?;
    let side = |text: &str| -> Option<u32> {
        let side = text.trim().parse().ok()?;
        (1..=MAX_SIDE).contains(&side).then_some(side)
    };
    Some(PictureSize { width: side(width)?, height: side(height)? })
}

/// Parses a percentage, `5%` or `5`, and returns it as a fraction: `0.05`.
///
/// # Errors
/// Not a number from 0 to 100; or at most 1 without `%`, which could be meant as a fraction: `0.99`.
pub fn percentage(text: &str) -> Result<f64, UnitError> {
    percentage_up_to(100, text)
}

/// Like [`percentage`], for a value that may more than double: up to 10 000 %.
///
/// # Errors
/// See [`percentage`].
pub fn increase(text: &str) -> Result<f64, UnitError> {
    percentage_up_to(10_000, text)
}

fn percentage_up_to(maximum: u32, text: &str) -> Result<f64, UnitError> {
    let number = text.trim();
    let (number, has_sign) = match number.strip_suffix('%') {
        Some(number) => (number.trim_end(), true),
        None => (number, false),
    };
    match number.parse::<f64>() {
        Ok(share) if share > 0.0 && share <= 1.0 && !has_sign => {
            // 7 and not 7.000000000000001.
            let percent = ((share * 1e8).round() / 1e6).to_string();
            Err(UnitError::NoPercentSign { number: number.to_owned(), percent })
        }
        Ok(percent) if (0.0..=f64::from(maximum)).contains(&percent) => Ok(percent / 100.0),
        _ => Err(UnitError::Percentage(text.to_owned(), maximum)),
    }
}

/// Parses a link rate in bits per second: `2Mbit`, `500kbit`, `1.5Mbit/s`, `2Mbps`.
///
/// # Errors
/// A missing or unknown unit, or less than 1 kbit/s or more than 100 Gbit/s.
pub fn bit_rate(text: &str) -> Result<u64, UnitError> {
    parse_bit_rate(text.trim()).ok_or_else(|| UnitError::BitRate(text.to_owned()))
}

fn parse_bit_rate(text: &str) -> Option<u64> {
    let (number, unit, rest) = number_and_unit(text)?;
    let unit = unit.to_ascii_lowercase();
    let factor = match unit.strip_suffix("bit").or_else(|| unit.strip_suffix("bps"))? {
        "k" => 1e3,
        "m" => 1e6,
        "g" => 1e9,
        "" => 1.0,
        _ => return None,
    };
    let rate = (number * factor).round();
    (matches!(rest, "" | "/s") && (1e3..=1e11).contains(&rate)).then_some(rate as u64)
}

/// A rate that is chosen automatically, switched off, or fixed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RateSetting {
    /// As measured on the path.
    #[default]
    Auto,
    /// Unlimited, or without a hint.
    Off,
    /// A fixed rate in bits per second.
    Rate(u64),
}

impl fmt::Display for RateSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Off => f.write_str("off"),
            Self::Rate(rate) => write!(f, "{}kbit", *rate as f64 / 1e3),
        }
    }
}

/// Parses the pacing of a sender: `auto`, `off` or a rate.
///
/// # Errors
/// Another word, or an invalid rate.
pub fn pace(text: &str) -> Result<RateSetting, String> {
    rate_setting(text, "pace", "auto, off or a rate such as 2Mbit")
}

/// Parses the initial bandwidth estimate of a phone: `auto`, `off` or a rate.
///
/// # Errors
/// Another word, or an invalid rate.
pub fn phone_bitrate(text: &str) -> Result<RateSetting, String> {
    rate_setting(text, "phone bitrate", "auto, off or a rate such as 5Mbit")
}

fn rate_setting(text: &str, what: &str, expected: &str) -> Result<RateSetting, String> {
    match text {
        "auto" => Ok(RateSetting::Auto),
        "off" => Ok(RateSetting::Off),
        rate => bit_rate(rate).map(RateSetting::Rate).map_err(|_| not_valid(text, what, expected)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in [
            ("3.5s", 3_500),
            ("500ms", 500),
            ("2m", 120_000),
            ("1h30m", 5_400_000),
            ("1h 30m 2s", 5_402_000),
            ("1.5h", 5_400_000),
            ("1d", 86_400_000),
            ("0", 0),
            (" 0.0 ", 0),
            ("2 s", 2_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        assert_eq!(duration("15us"), Ok(Duration::from_micros(15)));
        for text in
            ["", "s", "-1s", "3 parsecs", "30m1h", "1s1s", "1s5", "1.2.3s", "inf", "NaN", "1e9d"]
        {
            assert_eq!(duration(text), Err(UnitError::Duration(text.into())), "{text}");
        }
        assert!(duration("99999999999999d").is_err());
        for text in ["100", " 0.25 ", "007"] {
            let error = duration(text).unwrap_err();
            assert_eq!(error, UnitError::NoTimeUnit(text.trim().into()), "{text}");
        }
        let error = duration("100").unwrap_err().to_string();
        assert_eq!(error, "`100` has no unit: use 100ms or 100s");
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("100KB", 100_000),
            ("64KiB", 65_536),
            ("1.5MB", 1_500_000),
            ("1 GiB", 1 << 30),
            ("12", 12),
            ("12B", 12),
            ("100kb", 100_000),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "KB", "-1", "10K", "10 apples", "1KB2", "1e30", "99999999TB"] {
            assert_eq!(size(text), Err(UnitError::Size(text.into())), "{text}");
        }
    }

    #[test]
    fn picture_sizes() {
        assert_eq!(picture_size("1280x720"), Ok(PictureSize { width: 1280, height: 720 }));
        assert_eq!(picture_size("1 X 2"), Ok(PictureSize { width: 1, height: 2 }));
        for text in ["", "1280", "0x720", "1280x", "1280x-1", "99999x1", "1x2x3", "1.5x2"] {
            assert_eq!(picture_size(text), Err(UnitError::PictureSize(text.into())), "{text}");
        }
    }

    #[test]
    fn percentages() {
        for (text, share) in
            [("5%", 0.05), ("100", 1.0), ("0.5 %", 0.005), ("1%", 0.01), ("0", 0.0), ("2", 0.02)]
        {
            assert_eq!(percentage(text), Ok(share), "{text}");
        }
        for text in ["", "%", "-1%", "101%", "five", "NaN"] {
            assert_eq!(percentage(text), Err(UnitError::Percentage(text.into(), 100)), "{text}");
        }
        assert_eq!(increase("150%"), Ok(1.5));
        for read in [percentage, increase] {
            for (text, meant) in [("0.99", "99%"), ("0.07", "7%"), ("1", "100%"), (".5", "50%")] {
                let error = read(text).unwrap_err().to_string();
                assert_eq!(error, format!("`{text}` has no unit: use {meant} or {text}%"));
            }
        }
        let error = increase("-5%").unwrap_err().to_string();
        assert_eq!(error, "`-5%` is not a valid percentage: expected 5% or 5, from 0 to 10000");
    }

    #[test]
    fn bit_rates() {
        for (text, rate) in [
            ("2Mbit", 2_000_000),
            ("500 kbit/s", 500_000),
            ("1.5mbps", 1_500_000),
            ("1Gbit", 1_000_000_000),
            ("64000bit/s", 64_000),
        ] {
            assert_eq!(bit_rate(text), Ok(rate), "{text}");
        }
        for text in ["", "2", "2M", "2MB", "0Mbit", "-1Mbit", "1Tbit", "2Mbit/h", "Mbit"] {
            assert_eq!(bit_rate(text), Err(UnitError::BitRate(text.into())), "{text}");
        }
    }

    #[test]
    fn errors_name_the_text_and_the_accepted_forms() {
        let message = duration("soon").unwrap_err().to_string();
        assert_eq!(message, "`soon` is not a valid duration: expected 3.5s, 500ms, 2m or 1h30m");
    }

    #[test]
    fn a_rate_setting_is_a_word_or_a_rate() {
        for (text, setting) in [
            ("auto", RateSetting::Auto),
            ("off", RateSetting::Off),
            ("5000kbit", RateSetting::Rate(5_000_000)),
        ] {
            assert_eq!(pace(text), Ok(setting));
            assert_eq!(phone_bitrate(text), Ok(setting));
            assert_eq!(setting.to_string(), text);
        }
        assert!(pace("fast").unwrap_err().ends_with("auto, off or a rate such as 2Mbit"));
        assert!(phone_bitrate("fast").unwrap_err().ends_with("auto, off or a rate such as 5Mbit"));
    }
}
