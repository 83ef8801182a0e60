//! Lays out text in columns and wraps it to a width, both counted in characters. Cells and words are made
//! [`printable()`] here: a cell contains no line breaks, and control characters count as their replacements.

use crate::text::printable;

/// Default width of a terminal, columns: text for a terminal is at most that wide.
pub const WIDTH: usize = 80;

/// Alignment of the text in a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Left-aligned.
    Left,
    /// Right-aligned, for numbers.
    Right,
}

/// A column: alignment and minimum width.
pub type Column = (Align, usize);

/// Characters between two columns.
const GAP: &str = "  ";

/// Lays out rows; a column is as wide as its widest cell. Lines have no trailing whitespace.
#[must_use]
pub fn columns(columns: &[Column], rows: &[Vec<String>]) -> Vec<String> {
    let printed = |row: &Vec<String>| row.iter().map(|cell| printable(cell)).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(printed).collect();
    let width = |index: usize, min: usize| {
        let cells = rows.iter().filter_map(|row| row.get(index));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0).max(min)
    };
    let widths: Vec<_> =
        columns.iter().enumerate().map(|(index, (_, min))| width(index, *min)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(columns).zip(&widths);
        let cells = cells.map(|((cell, (align, _)), width)| match align {
            Align::Left => format!("{cell:<width$}"),
            Align::Right => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join(GAP).trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// Breaks `text` between words into lines of at most `width` characters including `indent` leading spaces; a word
/// longer than a line is split.
#[must_use]
pub fn wrap(text: &str, indent: usize, width: usize) -> Vec<String> {
    let room = width.saturating_sub(indent).max(10);
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut length = 0;
    for word in text.split_whitespace() {
        let word: Vec<char> = printable(word).chars().collect();
        for piece in word.chunks(room) {
            if length > 0 && length + 1 + piece.len() > room {
                lines.push(std::mem::take(&mut line));
                length = 0;
            }
            if length > 0 {
                line.push(' ');
                length += 1;
            }
            line.extend(piece);
            length += piece.len();
        }
    }
    if length > 0 {
        lines.push(line);
    }
    lines.iter().map(|line| format!("{:indent$}{line}", "")).collect()
}

/// `text` after `head` with a hanging indent: lines of at most `width` characters.
#[must_use]
pub fn hanging(head: &str, text: &str, width: usize) -> Vec<String> {
    let indent = head.chars().count();
    let mut lines = wrap(text, indent, width);
    match lines.first_mut() {
        Some(first) => first.replace_range(..indent, head),
        None => lines.push(head.trim_end().to_owned()),
    }
    lines
}

/// Breaks lines longer than `width` characters between words; continuation lines are indented by four more
/// characters. A word longer than a line is kept whole.
#[must_use]
pub fn fold(text: &str, width: usize) -> String {
    let mut lines = Vec::new();
    for line in text.split('\n') {
        let indent = line.chars().take_while(|c| *c == ' ').count();
        let further = " ".repeat(indent + 4);
        let mut rest = line.to_owned();
        while let Some((end, _)) = rest.char_indices().nth(width) {
            let start = rest.len() - rest.trim_start().len();
            // A word may end right where the line does.
            let fits =
                rest[end..].starts_with(' ').then_some(end).or_else(|| rest[..end].rfind(' '));
            let Some(at) = fits.filter(|at| *at > start) else { break };
            lines.push(rest[..at].trim_end().to_owned());
            rest = format!("{further}{}", rest[at..].trim_start());
        }
        lines.push(rest);
    }
    lines.join("\n")
}

/// `text` cut to at most `max` characters, with `…` in place of the missing end.
#[must_use]
pub fn cut(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    let kept: String = text.chars().take(max.saturating_sub(1)).collect();
    format!("{kept}…")
}

/// `text` cut to at most `max` characters, with `…` in place of the missing start: the end of a path is more
/// informative.
pub(super) fn cut_front(text: &str, max: usize) -> String {
    let length = text.chars().count();
    if length <= max {
        return text.to_owned();
    }
    let kept: String = text.chars().skip(length - max.saturating_sub(1)).collect();
    format!("…{kept}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [["a", "1.00 ms"], ["longer", "12 ms"]].map(|row| row.map(String::from).into());
        let lines = columns(&[(Align::Left, 4), (Align::Right, 9)], &rows);
        assert_eq!(lines, ["a         1.00 ms", "longer      12 ms"]);
    }

    #[test]
    fn text_hangs_below_its_first_line() {
        assert_eq!(hanging("  a  ", "one two three", 15), ["  a  one two", "     three"]);
        assert_eq!(hanging("  é  ", "", 15), ["  é"]);
    }

    #[test]
    fn long_lines_are_folded_between_words() {
        assert_eq!(fold("ab cd\n  ef gh ij", 8), "ab cd\n  ef gh\n      ij");
        assert_eq!(fold("abcdefghij kl", 8), "abcdefghij kl");
        assert_eq!(fold("  ab  cdéf gh", 10), "  ab  cdéf\n      gh");
    }

    #[test]
    fn texts_are_cut_at_one_end() {
        assert_eq!([cut("abcdef", 4), cut("abcd", 4)], ["abc…", "abcd"]);
        assert_eq!([cut_front("abcdef", 4), cut_front("abcd", 4)], ["…def", "abcd"]);
    }

    #[test]
    fn cells_and_words_stay_on_their_line() {
        let hostile = "\u{1b}]0;x\u{7}\u{1b}[31m\r\n::error::x\u{202e}";
        let rows = [vec![hostile.to_owned(), "b".to_owned()]];
        let lines = columns(&[(Align::Left, 0), (Align::Left, 0)], &rows);
        let wrapped = wrap(hostile, 2, 80);
        for line in lines.iter().chain(&wrapped) {
            assert!(!line.chars().any(|c| c.is_control() || c == '\u{202e}'), "{line:?}");
        }
        assert!(lines.len() == 1 && lines[0].ends_with("::error::x\u{fffd}  b"), "{lines:?}");
    }

    proptest! {
        #[test]
        fn folded_text_is_complete(text in "[a-zé \n]{0,300}", width in 10..90usize) {
            let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            prop_assert_eq!(letters(&fold(&text, width)), letters(&text));
        }

        #[test]
        fn wrapped_text_fits_and_is_complete(text in "[a-zé ]{0,300}", indent in 0..8usize, width in 20..90usize) {
            let lines = wrap(&text, indent, width);
            for line in &lines {
                prop_assert!(line.chars().count() <= width, "{line:?}");
                prop_assert!(line.starts_with(&" ".repeat(indent)));
            }
            let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            prop_assert_eq!(letters(&lines.concat()), letters(&text));
        }
    }
}
