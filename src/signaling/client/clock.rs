//! Difference between this machine's clock and a server's, from the `Date` header (RFC 9110 §6.6.1).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::{text::clock_skew_words, types::epoch_seconds};

/// Minimum reported difference, seconds: the header has a resolution of one second, and responses are delayed.
const MIN_SKEW: f64 = 2.0;

/// Parses the date in a header (RFC 9110 §5.6.7); returns seconds since 1970.
pub(in crate::signaling) fn http_date(text: &str) -> Option<i64> {
    jiff::fmt::rfc2822::parse(text).ok().map(|date| date.timestamp().as_second())
}

/// Seconds by which this machine's clock, `now`, is ahead of the server's (behind when negative); `None` without
/// a valid header or when the difference is below 2 s.
pub(in crate::signaling) fn clock_skew(date: Option<&str>, now: SystemTime) -> Option<f64> {
    let date = http_date(date?)?;
    // The header truncates half a second on average.
    let skew = epoch_seconds(now) - (date as f64 + 0.5);
    (skew.abs() >= MIN_SKEW).then_some(skew)
}

/// A remedy, extended by a note on the clocks if they differ.
pub(in crate::signaling) fn with_clock(remedy: &str, clock_skew: Option<f64>) -> String {
    match clock_skew {
        Some(skew) => format!("{remedy}; {}", clock_skew_words(skew)),
        None => remedy.to_owned(),
    }
}

/// Time since 1970 on the server's clock, to which `exp` refers.
pub(crate) fn server_time(now: SystemTime, clock_skew: Option<f64>) -> Duration {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    Duration::try_from_secs_f64(now - clock_skew.unwrap_or_default()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_header_gives_the_difference() {
        const DATE: Option<&str> = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let skew = |seconds| clock_skew(DATE, at(seconds));
        assert_eq!(skew(784_111_777), None);
        assert_eq!(skew(784_111_779), None);
        let ahead = skew(784_111_777 + 420).unwrap();
        assert!((ahead - 419.5).abs() < 1e-6, "{ahead}");
        let behind = skew(784_111_777 - 420).unwrap();
        assert!((behind + 420.5).abs() < 1e-6, "{behind}");
        assert!(with_clock("log in again", Some(behind)).ends_with("7 min behind the server's"));
        for unreadable in [None, Some(""), Some("yesterday")] {
            assert_eq!(clock_skew(unreadable, at(1)), None);
        }
    }

    #[test]
    fn the_servers_time_is_the_local_time_minus_the_difference() {
        let now = |seconds: u64| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(server_time(now(1000), None), Duration::from_secs(1000));
        assert_eq!(server_time(now(4600), Some(3600.0)), Duration::from_secs(1000));
        assert_eq!(server_time(now(1000), Some(-3600.0)), Duration::from_secs(4600));
        assert_eq!(server_time(now(10), Some(3600.0)), Duration::ZERO);
        assert_eq!(server_time(now(10), Some(-f64::MAX)), Duration::ZERO);
        assert_eq!(server_time(now(10), Some(f64::NAN)), Duration::ZERO);
    }
}
