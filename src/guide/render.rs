//! Renders Markdown (`CommonMark` with tables) as text for a terminal: wrapped, with aligned tables, and with headings
//! and code marked by color or, without color, by underlines and indentation.

use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag, TagEnd};

const BOLD: &str = "\x1b[1m";
const CODE: &str = "\x1b[36m";
const PLAIN: &str = "\x1b[0m";

/// Minimum width of a table column, unless its text is narrower.
const MIN_COLUMN: usize = 8;

/// Number of spaces between table columns.
const GAP: usize = 2;

/// A run of text in one style.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Span {
    text: String,
    look: Look,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    Plain,
    Bold,
    Code,
}

/// A table row: a list of spans for each cell.
type Row = Vec<Vec<Span>>;

struct Renderer {
    width: usize,
    color: bool,
    out: String,
    /// Spans of the current block.
    spans: Vec<Span>,
    bold: bool,
    /// Target of the current link.
    link: Option<String>,
    /// The next number of each open list; `None` for a bullet list.
    lists: Vec<Option<u64>>,
    /// The number or bullet before the next paragraph of a list item.
    bullet: Option<String>,
    code: Option<String>,
    table: Option<Vec<Row>>,
}

/// Renders `markdown` for a terminal of `width` columns.
#[must_use]
pub fn render(markdown: &str, width: usize, color: bool) -> String {
    let mut renderer = Renderer {
        width: width.max(20),
        color,
        out: String::new(),
        spans: Vec::new(),
        bold: false,
        link: None,
        lists: Vec::new(),
        bullet: None,
        code: None,
        table: None,
    };
    for event in Parser::new_ext(markdown, Options::ENABLE_TABLES) {
        renderer.event(event);
    }
    renderer.out
}

impl Renderer {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start(tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) => match &mut self.code {
                Some(code) => code.push_str(&text),
                None => self.push(&text, if self.bold { Look::Bold } else { Look::Plain }),
            },
            Event::Code(text) => self.push(&text, if self.bold { Look::Bold } else { Look::Code }),
            Event::SoftBreak | Event::HardBreak => self.push(" ", Look::Plain),
            Event::Rule => {
                self.gap();
                self.out.push_str(&"─".repeat(self.width));
                self.out.push('\n');
            }
            // HTML comments, which mark generated tables, are not shown.
            _ => {}
        }
    }

    fn start(&mut self, tag: Tag<'_>) {
        match tag {
            Tag::Strong => {
                self.mark_strong();
                self.bold = true;
            }
            Tag::Link { dest_url, .. } => self.link = Some(dest_url.to_string()),
            Tag::CodeBlock(_) => {
                self.flush();
                self.code = Some(String::new());
            }
            Tag::List(first) => {
                self.flush();
                if self.lists.is_empty() {
                    self.gap();
                }
                self.lists.push(first);
            }
            Tag::Item => {
                self.bullet = Some(match self.lists.last_mut() {
                    Some(Some(number)) => {
                        *number += 1;
                        format!("{}. ", *number - 1)
                    }
                    _ => "• ".to_owned(),
                });
            }
            Tag::Table(_) => self.table = Some(Vec::new()),
            Tag::TableHead | Tag::TableRow => {
                if let Some(table) = &mut self.table {
                    table.push(Vec::new());
                }
            }
            _ => {}
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Strong => {
                self.bold = false;
                self.mark_strong();
            }
            TagEnd::Link => self.end_link(),
            TagEnd::Heading(level) => self.heading(level),
            TagEnd::Paragraph => {
                if self.lists.is_empty() {
                    self.gap();
                }
                self.flush();
            }
            TagEnd::Item => {
                self.flush();
                self.bullet = None;
            }
            TagEnd::List(_) => {
                self.lists.pop();
            }
            TagEnd::CodeBlock => self.code_block(),
            TagEnd::TableCell => {
                let cell = std::mem::take(&mut self.spans);
                if let Some(row) = self.table.as_mut().and_then(|table| table.last_mut()) {
                    row.push(cell);
                }
            }
            TagEnd::Table => {
                if let Some(rows) = self.table.take() {
                    self.gap();
                    self.lay_out(&rows);
                }
            }
            _ => {}
        }
    }

    /// Appends the URL of a web page, because not every terminal supports links.
    fn end_link(&mut self) {
        if let Some(url) = self.link.take()
            && url.starts_with("http")
            && !self.spans.last().is_some_and(|span| span.text.ends_with(&url))
        {
            self.push(&format!(" ({url})"), Look::Plain);
        }
    }

    /// Without color, strong text is enclosed in asterisks.
    fn mark_strong(&mut self) {
        if !self.color {
            self.push("*", Look::Plain);
        }
    }

    fn push(&mut self, text: &str, look: Look) {
        self.spans.push(Span { text: text.to_owned(), look });
    }

    /// Writes an empty line, except at the start.
    fn gap(&mut self) {
        if !self.out.is_empty() {
            self.out.push('\n');
        }
    }

    fn indent(&self) -> usize {
        2 * self.lists.len()
    }

    fn heading(&mut self, level: HeadingLevel) {
        let text: String = self.spans.drain(..).map(|span| span.text).collect();
        self.gap();
        if level == HeadingLevel::H2 {
            self.gap();
        }
        let (on, off) = if self.color { (BOLD, PLAIN) } else { ("", "") };
        for part in [on, &text, off, "\n"] {
            self.out.push_str(part);
        }
        let line = match level {
            HeadingLevel::H1 => "═",
            HeadingLevel::H2 => "─",
            _ => return,
        };
        self.out.push_str(&line.repeat(text.chars().count().min(self.width)));
        self.out.push('\n');
    }

    fn code_block(&mut self) {
        let code = self.code.take().unwrap_or_default();
        self.gap();
        let indent = " ".repeat(self.indent() + 4);
        for line in code.lines() {
            self.out.push_str(indent.as_str());
            self.out.push_str(line);
            self.out.push('\n');
        }
    }

    /// Writes the current paragraph.
    fn flush(&mut self) {
        let spans = std::mem::take(&mut self.spans);
        if spans.is_empty() {
            return;
        }
        let indent = self.indent();
        let bullet = self.bullet.take().unwrap_or_default();
        let lines = wrap(&spans, self.width.saturating_sub(indent).max(20));
        for (number, line) in lines.iter().enumerate() {
            let lead = if number == 0 && !bullet.is_empty() {
                format!("{}{bullet}", " ".repeat(indent - bullet.chars().count().min(indent)))
            } else {
                " ".repeat(indent)
            };
            self.out.push_str(&lead);
            self.out.push_str(&self.painted(line));
            self.out.push('\n');
        }
    }

    fn painted(&self, line: &[Span]) -> String {
        let mut text = String::new();
        for span in line {
            let look = match span.look {
                Look::Bold if self.color => BOLD,
                Look::Code if self.color => CODE,
                _ => "",
            };
            let plain = if look.is_empty() { "" } else { PLAIN };
            for part in [look, &span.text, plain] {
                text.push_str(part);
            }
        }
        text
    }

    fn lay_out(&mut self, rows: &[Row]) {
        let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
        if columns == 0 {
            return;
        }
        let widths = widths(rows, columns, self.width.saturating_sub(GAP * (columns - 1)));
        for (number, row) in rows.iter().enumerate() {
            let cells: Vec<_> =
                row.iter().zip(&widths).map(|(cell, width)| wrap(cell, *width)).collect();
            let height = cells.iter().map(Vec::len).max().unwrap_or_default();
            for line in 0..height {
                let mut text = String::new();
                for (column, width) in widths.iter().enumerate() {
                    let spans = cells.get(column).and_then(|cell| cell.get(line));
                    let spans = spans.map_or(&[][..], Vec::as_slice);
                    let used = length(spans);
                    text.push_str(&self.painted(spans));
                    text.push_str(&" ".repeat(width.saturating_sub(used) + GAP));
                }
                self.out.push_str(text.trim_end());
                self.out.push('\n');
            }
            if number == 0 {
                let line: Vec<String> = widths.iter().map(|width| "─".repeat(*width)).collect();
                self.out.push_str(&line.join(&" ".repeat(GAP)));
                self.out.push('\n');
            }
        }
    }
}

/// Widths of columns: those of their text, reduced until they fit into `room`.
fn widths(rows: &[Row], columns: usize, room: usize) -> Vec<usize> {
    let wanted = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| length(cell)).max().unwrap_or(0)
    };
    let mut widths: Vec<usize> = (0..columns).map(wanted).collect();
    while widths.iter().sum::<usize>() > room {
        // Narrow the widest column by one character.
        let Some(widest) = widths.iter_mut().max() else { break };
        if *widest <= MIN_COLUMN {
            break;
        }
        *widest -= 1;
    }
    widths
}

fn length(spans: &[Span]) -> usize {
    spans.iter().map(|span| span.text.chars().count()).sum()
}

/// Breaks text into lines between words; a word that is longer than a line is split.
fn wrap(spans: &[Span], width: usize) -> Vec<Vec<Span>> {
    let width = width.max(1);
    let mut lines: Vec<Vec<Span>> = Vec::new();
    let mut line: Vec<Span> = Vec::new();
    let mut used = 0;
    for word in words(spans) {
        let space = usize::from(word.spaced && used > 0);
        let mut long = length(&word.spans);
        if used > 0 && used + space + long > width {
            lines.push(std::mem::take(&mut line));
            used = 0;
        } else if space > 0 {
            line.push(Span { text: " ".into(), look: Look::Plain });
            used += 1;
        }
        for mut span in word.spans {
            while used + span.text.chars().count() > width && long > width {
                let at = span
                    .text
                    .char_indices()
                    .nth(width - used)
                    .map_or(span.text.len(), |(at, _)| at);
                let rest = span.text.split_off(at);
                long -= width - used;
                let look = span.look;
                line.push(std::mem::replace(&mut span, Span { text: rest, look }));
                lines.push(std::mem::take(&mut line));
                used = 0;
            }
            used += span.text.chars().count();
            line.push(span);
        }
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

/// Text without spaces, in one or more styles.
struct Word {
    spans: Vec<Span>,
    /// Whether there is a space before it.
    spaced: bool,
}

fn words(spans: &[Span]) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    let mut spaced = false;
    let mut open = false;
    for span in spans {
        for (number, part) in span.text.split(' ').enumerate() {
            if number > 0 {
                spaced = true;
                open = false;
            }
            if part.is_empty() {
                continue;
            }
            let part = Span { text: part.to_owned(), look: span.look };
            match words.last_mut() {
                Some(word) if open => word.spans.push(part),
                _ => words.push(Word { spans: vec![part], spaced }),
            }
            (open, spaced) = (true, false);
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_wrapped_and_tables_are_aligned() {
        let page = "# Title\n\nSome *long* text with `code` and a [link](x.md), wrapped.\n\n\
                    - one\n- two words that are too long for a line\n\n\
                    | a | b |\n|---|---|\n| 1 | a cell of many words in a row |\n\n```text\nas is\n```\n";
        assert_eq!(
            render(page, 24, false),
            "Title\n═════\n\n\
             Some long text with code\nand a link, wrapped.\n\n\
             • one\n• two words that are too\n  long for a line\n\n\
             a  b\n─  ─────────────────────\n1  a cell of many words\n   in a row\n\n    as is\n"
        );
    }

    #[test]
    fn colors_do_not_count_as_width() {
        let text = "a `b` **c**";
        assert_eq!(render(text, 20, true), "a \x1b[36mb\x1b[0m \x1b[1mc\x1b[0m\n");
        assert_eq!(render(text, 20, false), "a b *c*\n");
    }

    #[test]
    fn a_word_longer_than_a_line_is_split() {
        let long = "x".repeat(45);
        assert_eq!(render(&long, 20, false), format!("{0}\n{0}\nxxxxx\n", "x".repeat(20)));
    }
}
