//! Human-readable numbers.

use std::time::Duration;

/// Bytes with a decimal unit: `98.7 KB`.
#[must_use]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KB", "MB", "GB", "TB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1000.0;
    let mut unit = 0;
    // 999.95 would be written as 1000.0.
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Milliseconds with significant digits: `<0.01 ms`, `0.42 ms`, `12.3 ms`, `450 ms`, `1.20 s`.
#[must_use]
pub fn millis(ms: f64) -> String {
    match ms.abs() {
        // A time of exactly zero was never measured.
        size if size < 0.005 => "<0.01 ms".to_owned(),
        size if size < 9.995 => format!("{ms:.2} ms"),
        size if size < 99.95 => format!("{ms:.1} ms"),
        size if size < 999.5 => format!("{ms:.0} ms"),
        _ => format!("{:.2} s", ms / 1000.0),
    }
}

/// A number without trailing zeros: `0.50` is `0.5`, `3.00` is `3`.
#[must_use]
pub fn trim(number: &str) -> String {
    if !number.contains('.') {
        return number.to_owned();
    }
    number.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// `1 frame`, `2 frames`.
#[must_use]
pub fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// A duration: `12.3 s`, `4 min 05 s`, `2 h 03 min`.
#[must_use]
pub fn duration(length: Duration) -> String {
    let tenths = (length.as_secs_f64() * 10.0).round() as u64;
    let seconds = (length.as_secs_f64().round()) as u64;
    match seconds {
        _ if tenths < 600 => format!("{}.{} s", tenths / 10, tenths % 10),
        0..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// A rate per second: `0.29/s`, `30.0/s`.
#[must_use]
pub fn rate(per_second: f64) -> String {
    if per_second < 9.995 { format!("{per_second:.2}/s") } else { format!("{per_second:.1}/s") }
}

/// A bit rate: `850 kbit/s`, `9.4 Mbit/s`, `212 Mbit/s`.
#[must_use]
pub fn bitrate(bits_per_second: f64) -> String {
    match bits_per_second {
        rate if rate < 999.5e3 => format!("{:.0} kbit/s", rate / 1e3),
        rate if rate < 99.95e6 => format!("{:.1} Mbit/s", rate / 1e6),
        rate => format!("{:.0} Mbit/s", rate / 1e6),
    }
}

/// A share of 0 to 1 (or any ratio) in percent: `99 %`, `83.9 %`. Only 1 is written as 100 %, and only 0 as 0 %.
#[must_use]
pub fn share(share: f64) -> String {
    let percent = (share * 1000.0).round() / 10.0;
    match percent {
        _ if share > 0.0 && share < 0.0005 => "<0.1 %".to_owned(),
        _ if (0.9995..1.0).contains(&share) => ">99.9 %".to_owned(),
        // A negative zero would keep its sign.
        0.0 => "0 %".to_owned(),
        percent => format!("{percent} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_do_not_round_to_all_or_nothing() {
        let shares = [0.0, 0.0001, 0.001, 0.8389, 0.9, 0.9994, 0.9999, 1.0, -0.1, -0.00001, 2.5];
        let texts = [
            "0 %", "<0.1 %", "0.1 %", "83.9 %", "90 %", "99.9 %", ">99.9 %", "100 %", "-10 %",
            "0 %", "250 %",
        ];
        assert_eq!(shares.map(share), texts);
    }

    #[test]
    fn numbers_are_short() {
        let counts = [0, 999, 1000, 98_700, 999_949, 999_950, 1_500_000, 5_000_000_000_000_000];
        let texts =
            ["0 B", "999 B", "1.0 KB", "98.7 KB", "999.9 KB", "1.0 MB", "1.5 MB", "5000.0 TB"];
        assert_eq!(counts.map(bytes), texts);
        let millis: Vec<_> = [0.0, 0.004, 0.424, 12.34, 99.96, 450.4, 1200.0].map(millis).into();
        assert_eq!(
            millis,
            ["<0.01 ms", "<0.01 ms", "0.42 ms", "12.3 ms", "100 ms", "450 ms", "1.20 s"]
        );
        let lengths = [12.34, 59.97, 245.0, 7_380.0].map(Duration::from_secs_f64).map(duration);
        assert_eq!(lengths, ["12.3 s", "1 min 00 s", "4 min 05 s", "2 h 03 min"]);
        assert_eq!([0.2857, 30.0].map(rate), ["0.29/s", "30.0/s"]);
        let rates = [0.0, 850_400.0, 999_600.0, 9.43e6, 99.96e6, 1.2e9].map(bitrate);
        let texts =
            ["0 kbit/s", "850 kbit/s", "1.0 Mbit/s", "9.4 Mbit/s", "100 Mbit/s", "1200 Mbit/s"];
        assert_eq!(rates, texts);
    }
}
