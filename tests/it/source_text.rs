//! Splits Rust source into code, comments and string literals, for the tests that check the sources.

/// The kind of a piece of Rust source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Code,
    Comment,
    Literal,
}

/// A piece of a file, with the line number (from 1) at which it starts.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    pub kind: Kind,
    pub line: usize,
    pub text: &'a str,
}

/// Splits Rust source into pieces, in order and without gaps.
pub fn pieces(source: &str) -> Vec<Piece<'_>> {
    let mut found = Vec::new();
    let (mut at, mut code_from, mut line) = (0, 0, 1);
    let mut push = |kind, from: usize, to: usize| {
        if from < to {
            let text = &source[from..to];
            found.push(Piece { kind, line, text });
            line += text.matches('\n').count();
        }
    };
    while at < source.len() {
        let rest = &source[at..];
        let (kind, length) = if rest.starts_with("//") {
            (Kind::Comment, rest.find('\n').unwrap_or(rest.len()))
        } else if rest.starts_with("/*") {
            (Kind::Comment, block_comment(rest))
        } else if let Some(length) = string(source, at) {
            (Kind::Literal, length)
        } else {
            at += character(rest).unwrap_or_else(|| rest.chars().next().map_or(1, char::len_utf8));
            continue;
        };
        push(Kind::Code, code_from, at);
        push(kind, at, at + length);
        at += length;
        code_from = at;
    }
    push(Kind::Code, code_from, at);
    found
}

/// Only the code: comments and the contents of literals are replaced with spaces, and line numbers stay the same.
pub fn code(source: &str) -> String {
    pieces(source)
        .iter()
        .flat_map(|piece| {
            piece
                .text
                .chars()
                .map(move |c| if piece.kind == Kind::Code || c == '\n' { c } else { ' ' })
        })
        .collect()
}

/// Length of a block comment, including nested ones.
fn block_comment(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let (mut depth, mut at) = (0, 0);
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => depth += 1,
            b"*/" => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// Length of a string literal that starts at `at`, including its prefix.
fn string(source: &str, at: usize) -> Option<usize> {
    let rest = &source[at..];
    let after_a_word =
        source[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_');
    if rest.starts_with('"') {
        return Some(escaped(rest));
    }
    if after_a_word {
        return None;
    }
    let prefix = ["br", "cr", "b", "c", "r"].into_iter().find(|p| {
        rest.strip_prefix(p).is_some_and(|r| r.trim_start_matches('#').starts_with('"'))
    })?;
    let body = &rest[prefix.len()..];
    if !prefix.ends_with('r') {
        return body.starts_with('"').then(|| prefix.len() + escaped(body));
    }
    let hashes = body.len() - body.trim_start_matches('#').len();
    let end = format!("\"{}", "#".repeat(hashes));
    let open = prefix.len() + hashes + 1;
    Some(rest[open..].find(&end).map_or(rest.len(), |found| open + found + end.len()))
}

/// Length of a quoted literal with escapes.
fn escaped(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// Length of a character literal: a quote inside it does not open a string. A lifetime is not a literal.
fn character(rest: &str) -> Option<usize> {
    let body = rest.strip_prefix('\'')?;
    if body.starts_with('\\') {
        return body[2..].find('\'').map(|end| end + 4);
    }
    let first = body.chars().next()?;
    body[first.len_utf8()..].starts_with('\'').then(|| first.len_utf8() + 2)
}

#[test]
fn strings_comments_and_code_are_separated() {
    let source = "let a = \"x // \\\" y\"; // it's \"here\"\nlet b = '\"'; /* a /* b */ c */ let c: &'a str = r#\"1\"2\"#;\n";
    let of = |kind| {
        pieces(source)
            .iter()
            .filter(|p| p.kind == kind)
            .map(|p| (p.line, p.text))
            .collect::<Vec<_>>()
    };
    assert_eq!(of(Kind::Literal), [(1, "\"x // \\\" y\""), (2, "r#\"1\"2\"#")]);
    assert_eq!(of(Kind::Comment), [(1, "// it's \"here\""), (2, "/* a /* b */ c */")]);
    assert_eq!(pieces(source).iter().map(|p| p.text).collect::<String>(), source);
    assert_eq!(code(source).lines().nth(1).unwrap().trim_end().chars().next_back(), Some(';'));
}
