//! Pieces of HTML: escaped text, tables, figures.
//!
//! Names, messages and settings of a result are untrusted (they come from files, servers, the remote peer): each is
//! passed through [`esc`] before it is added to the page.

use std::fmt::Write;

use crate::text::printable;

/// Text made [`printable`] and safe between tags and inside quoted attributes.
pub(crate) fn esc(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    // Line breaks are whitespace in HTML as well.
    for c in printable(&text.replace(['\r', '\n', '\t'], " ")).chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            // Noncharacters (Unicode §23.7) are errors in HTML.
            '\u{fdd0}'..='\u{fdef}' => safe.push(char::REPLACEMENT_CHARACTER),
            c if c as u32 & 0xfffe == 0xfffe => safe.push(char::REPLACEMENT_CHARACTER),
            c => safe.push(c),
        }
    }
    safe
}

/// Escaped text in `<code>`.
pub(crate) fn code(text: &str) -> String {
    format!("<code>{}</code>", esc(text))
}

/// A sentence in a table cell, in a span that wraps but does not get too narrow.
pub(crate) fn long(text: &str) -> String {
    format!("<span class=\"long\">{}</span>", esc(text))
}

/// An outcome in one word, also marked by shape and color.
pub(crate) fn badge(good: bool, word: &str) -> String {
    let (class, sign) = if good { ("good", "✓") } else { ("bad", "✗") };
    format!(r#"<span class="badge {class}"><span aria-hidden="true">{sign}</span> {word}</span>"#)
}

/// `camelCase` as words: `pingIntervalMs` becomes `ping interval`; the unit is shown with the value.
pub(crate) fn words(name: &str) -> String {
    let mut text = String::new();
    for c in name.strip_suffix("Ms").unwrap_or(name).chars() {
        if c.is_uppercase() && !text.is_empty() {
            text.push(' ');
        }
        text.extend(c.to_lowercase());
    }
    let word = |word: &str| match word {
        "dns" | "tls" | "ice" | "dtls" => word.to_uppercase(),
        word => word.to_owned(),
    };
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// A section with its heading.
pub(crate) fn section(id: &str, heading: &str, body: &str) -> String {
    format!(
        "<section aria-labelledby=\"{id}\">\n<h2 id=\"{id}\">{}</h2>\n{body}</section>\n",
        esc(heading)
    )
}

/// A paragraph in place of content for which there is no data.
pub(crate) fn nothing(sentence: &str) -> String {
    format!("<p class=\"none\">{}</p>\n", esc(sentence))
}

/// A plot, or the reason why there is none.
#[derive(Debug)]
pub(crate) enum Plot {
    /// A figure, as HTML.
    Drawn(String),
    /// Title of the missing plot, and the reason. Not escaped.
    Absent { title: String, why: String },
}

/// A plot with its title above and an explanation below.
pub(crate) fn figure(title: &str, body: &str, how: &str) -> Plot {
    Plot::Drawn(format!(
        "<figure>\n<figcaption>{}</figcaption>\n{body}<p class=\"how\">{}</p>\n</figure>\n",
        esc(title),
        esc(how)
    ))
}

/// A plot that has no data.
pub(crate) fn no_figure(title: &str, why: &str) -> Plot {
    Plot::Absent { title: title.to_owned(), why: why.to_owned() }
}

/// Lays out plots in rows of columns. The drawn plots fill the width even if some are missing; a list at the end
/// names the missing ones with the reason.
pub(crate) fn plots(rows: Vec<Vec<Vec<Plot>>>) -> String {
    let (mut drawn, mut absent) = (String::new(), String::new());
    for row in rows {
        let mut columns = String::new();
        for column in row {
            let mut figures = String::new();
            for plot in column {
                match plot {
                    Plot::Drawn(figure) => figures.push_str(&figure),
                    Plot::Absent { title, why } => {
                        let _ = writeln!(absent, "<li>{}: {}</li>", esc(&title), esc(&why));
                    }
                }
            }
            if !figures.is_empty() {
                let _ = write!(columns, "<div class=\"column\">\n{figures}</div>\n");
            }
        }
        if !columns.is_empty() {
            let _ = write!(drawn, "<div class=\"row\">\n{columns}</div>\n");
        }
    }
    if !absent.is_empty() {
        absent = format!("<p class=\"none\">Not drawn:</p>\n<ul class=\"none\">\n{absent}</ul>\n");
    }
    format!("<div class=\"plots\">\n{drawn}</div>\n{absent}")
}

/// A table whose first column names its rows.
pub(crate) struct Table {
    caption: String,
    head: String,
    right: Vec<bool>,
    rows: String,
}

impl Table {
    /// An empty table. A column whose head begins with `#` contains numbers and is right-aligned.
    pub(crate) fn new(caption: &str, columns: &[&str]) -> Self {
        let mut table = Self {
            caption: esc(caption),
            head: String::new(),
            right: Vec::new(),
            rows: String::new(),
        };
        for column in columns {
            table.column(column);
        }
        table
    }

    /// Adds a column; call it before adding rows.
    pub(crate) fn column(&mut self, head: &str) {
        let text = head.strip_prefix('#');
        let class = if text.is_some() { " class=\"n\"" } else { "" };
        let _ = write!(self.head, "<th scope=\"col\"{class}>{}</th>", esc(text.unwrap_or(head)));
        self.right.push(text.is_some());
    }

    /// Adds a row of cells that are already HTML.
    pub(crate) fn row(&mut self, cells: &[String]) {
        self.rows.push_str("<tr>");
        for (index, cell) in cells.iter().enumerate() {
            let class = match self.right.get(index) {
                Some(true) => " class=\"n\"",
                _ => "",
            };
            let _ = match index {
                0 => write!(self.rows, "<th scope=\"row\"{class}>{cell}</th>"),
                _ => write!(self.rows, "<td{class}>{cell}</td>"),
            };
        }
        self.rows.push_str("</tr>\n");
    }

    /// The table in a box that scrolls horizontally on a narrow page. The visible caption is outside the box, where
    /// it does not scroll away.
    pub(crate) fn render(&self) -> String {
        let Self { caption, head, rows, .. } = self;
        format!(
            "<p class=\"caption\" aria-hidden=\"true\">{caption}</p>\n\
             <div class=\"scroll\" role=\"region\" aria-label=\"{caption}\" \
                          tabindex=\"0\"><table>\n\
             <caption>{caption}</caption>\n<thead><tr>{head}</tr></thead>\n\
             <tbody>\n{rows}</tbody></table></div>\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(
            esc(r#"<img src=x onerror='a()'>&"</script>"#),
            "&lt;img src=x onerror=&#39;a()&#39;&gt;&amp;&quot;&lt;/script&gt;"
        );
        assert_eq!(esc("a\u{0}b\u{202e}c\u{7f}"), "a\u{fffd}b\u{fffd}c\u{fffd}");
    }

    #[test]
    fn tables_have_heads_and_row_names() {
        let mut table = Table::new("Two <b>", &["What", "#ms"]);
        table.row(&["x".into(), "1".into()]);
        let text = table.render();
        assert!(text.contains("<caption>Two &lt;b&gt;</caption>"), "{text}");
        assert!(text.contains(r#"<th scope="col" class="n">ms</th>"#), "{text}");
        assert!(text.contains(r#"<th scope="row">x</th><td class="n">1</td>"#), "{text}");
    }

    #[test]
    fn names_become_words() {
        assert_eq!(
            ["pingIntervalMs", "tls", "dataChannel", "icePolicy", ""].map(words),
            ["ping interval", "TLS", "data channel", "ICE policy", ""]
        );
    }
}
