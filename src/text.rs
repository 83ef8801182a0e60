//! Human-readable text: untrusted text made safe to print, rough durations, clock differences, and the
//! distance between two words.

pub mod printable;

pub use self::printable::printable;

/// A human-readable duration, rounded to about 10 %: `40 s`, `7 min`, `3 h`, `2 days`.
#[must_use]
pub fn rough_duration(seconds: f64) -> String {
    let seconds = seconds.abs();
    match seconds {
        ..120.0 => format!("{seconds:.0} s"),
        ..7200.0 => format!("{:.0} min", seconds / 60.0),
        ..172_800.0 => format!("{:.0} h", seconds / 3600.0),
        _ => format!("{:.0} days", seconds / 86_400.0),
    }
}

/// Describes how far, in seconds, this machine's clock is ahead of a server's (behind if negative).
#[must_use]
pub fn clock_skew_words(skew: f64) -> String {
    let side = if skew < 0.0 { "behind" } else { "ahead of" };
    format!("this machine's clock is {} {side} the server's", rough_duration(skew))
}

/// Levenshtein distance: insertions, deletions and substitutions that turn one word into the other.
#[must_use]
pub fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distances() {
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("abc", "abc"), 0);
    }

    #[test]
    fn clock_differences_are_described() {
        let words = clock_skew_words(419.0);
        assert_eq!(words, "this machine's clock is 7 min ahead of the server's");
        assert!(clock_skew_words(-3.2).contains(" 3 s behind the "));
        let rough = [0.0, 119.0, 121.0, 8000.0, 400_000.0].map(rough_duration);
        assert_eq!(rough, ["0 s", "119 s", "2 min", "2 h", "5 days"]);
    }
}
