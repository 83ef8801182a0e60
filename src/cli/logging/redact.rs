//! Removes secrets from log lines where they leave the process, regardless of which crate wrote the line and
//! which filter `ORION_LOG` sets.
//!
//! Recognized by their shape: JSON Web Tokens, `Bearer` tokens (RFC 6750 §2.1), and the values of names
//! that end in `token`, `credential`, `password`, `secret`, `pwd` (`a=ice-pwd` of RFC 8839 §5.4),
//! `apikey` or `authorization`, in JSON, in queries, in `name=value` and in Rust's `Debug`, with one
//! or several levels of quoting.

use std::{borrow::Cow, ops::Range};

/// Suffixes of names whose values are secrets, in lower case.
const NAMES: [&str; 8] =
    ["token", "credential", "password", "passwd", "secret", "pwd", "apikey", "authorization"];

/// Names whose value may follow a colon without quotes, as in SDP and in headers. After other names such text is
/// prose: `token: no answer`.
const UNQUOTED: [&str; 2] = ["pwd", "authorization"];

/// Minimum length of a word after `Bearer` to be treated as a token, in bytes.
const MIN_BEARER: usize = 8;

/// The line with `…` in place of each secret.
pub(super) fn redact(line: &str) -> Cow<'_, str> {
    let lower = line.to_ascii_lowercase();
    let mut secrets: Vec<Range<usize>> = tokens(line).chain(bearers(&lower)).collect();
    for name in NAMES {
        let named = lower.match_indices(name).map(|(at, _)| at + name.len());
        secrets.extend(named.filter_map(|end| value(line, end, UNQUOTED.contains(&name))));
    }
    if secrets.is_empty() {
        return Cow::Borrowed(line);
    }
    secrets.sort_by_key(|secret| secret.start);
    let (mut safe, mut done) = (String::with_capacity(line.len()), 0);
    for secret in secrets {
        if secret.start >= done {
            safe.push_str(&line[done..secret.start]);
            safe.push('…');
        }
        done = done.max(secret.end);
    }
    safe.push_str(&line[done..]);
    Cow::Owned(safe)
}

/// JSON Web Tokens: `eyJ`, the start of every JSON object in base64url, and two dots.
fn tokens(line: &str) -> impl Iterator<Item = Range<usize>> {
    line.match_indices("eyJ").filter_map(|(at, _)| {
        let length = run(&line[at..], |c| is_base64url(c) || c == '.');
        (line[at..at + length].matches('.').count() >= 2).then_some(at..at + length)
    })
}

/// Tokens after `Bearer`.
fn bearers(lower: &str) -> impl Iterator<Item = Range<usize>> {
    lower.match_indices("bearer ").filter_map(|(at, found)| {
        let start = at + found.len();
        let length =
            run(&lower[start..], |c| is_base64url(c) || matches!(c, '.' | '~' | '+' | '/' | '='));
        (length >= MIN_BEARER).then_some(start..start + length)
    })
}

/// The value of a name that ends at `end`.
fn value(line: &str, end: usize, unquoted: bool) -> Option<Range<usize>> {
    let quote = |c| matches!(c, '"' | '\\' | '\'');
    let mut at = end + run(&line[end..], quote);
    at += run(&line[at..], |c| c == ' ');
    let separator = line[at..].chars().next().filter(|c| matches!(c, '=' | ':'))?;
    at += 1;
    at += run(&line[at..], |c| c == ' ');
    at += if line[at..].starts_with("Some(") { "Some(".len() } else { 0 };
    let escapes = run(&line[at..], |c| c == '\\');
    if line[at + escapes..].starts_with('"') {
        let start = at + escapes + 1;
        return Some(start..closing(line, start, escapes)).filter(|secret| !secret.is_empty());
    }
    if separator == ':' && !unquoted {
        return None;
    }
    // `Authorization: Basic …`: the scheme precedes the secret.
    let spaced = line[..end].to_ascii_lowercase().ends_with("authorization");
    let ends = |c: char| {
        matches!(c, '"' | '\\' | ',' | ';' | '&' | ')' | '}' | ']')
            || (c.is_whitespace() && !spaced)
    };
    let length = run(&line[at..], |c| !ends(c));
    (length > 0).then_some(at..at + length)
}

/// The end of a quoted value: the next quote preceded by no more backslashes than the opening one.
fn closing(line: &str, start: usize, escapes: usize) -> usize {
    let mut backslashes = 0;
    for (at, c) in line[start..].char_indices() {
        match c {
            '\\' => backslashes += 1,
            '"' if backslashes <= escapes => return start + at - backslashes,
            _ => backslashes = 0,
        }
    }
    line.len()
}

fn is_base64url(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_')
}

/// Length in bytes of the prefix of `text` whose characters all match.
fn run(text: &str, kind: impl Fn(char) -> bool) -> usize {
    text.find(|c| !kind(c)).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_removed_in_every_notation() {
        for line in [
            "Request: \"GET /x HTTP/1.1\\r\\nAuthorization: Bearer hush-hush-hush\\r\\nHost: h\"",
            "authorization: Basic aHVzaDpodXNo",
            "authorization: dev-hush",
            "header Bearer hush-hush-hush",
            "GET /api/signal?token=hush&x=1",
            "wss://h/api/signal?access_token=hush",
            r#"{"token":"hush","pairId":"demo"}"#,
            r#"body "{\"token\":\"hush\",\"a\":1}""#,
            r#"{"message":"body {\\\"credential\\\":\\\"hu\\\\\\\"sh\\\"}"}"#,
            "IceServer { urls: [], username: Some(\"u\"), credential: Some(\"hush\") }",
            "v=0\\r\\na=ice-ufrag:abcd\\r\\na=ice-pwd:hush/+hush\\r\\na=setup:actpass",
            "Started agent: isControlling? true, remoteUfrag: abcd, remotePwd: hush",
            "Credentials { ufrag: \"abcd\", pwd: \"hush\" }",
            "password=hush db=x",
            "twilio_secret = hush",
            "sec-websocket-protocol: orion.v1, eyJhbGciOi.eyJodXNo.hush_-",
        ] {
            let safe = redact(line);
            assert!(!safe.contains("hush") && !safe.contains("aHVzaDpo"), "{line}\n{safe}");
            assert!(safe.contains('…'), "{safe}");
        }
    }

    #[test]
    fn other_text_is_kept() {
        for line in [
            "token: no answer within 10 s",
            "cannot fetch a token from http://h/: HTTP 503",
            "no bearer token was given",
            "token_url=\"https://h/\" tokens=3 secret_file=x",
            "a=ice-ufrag:abcd a=fingerprint:sha-256 AB:CD",
            "eyJhbGciOi is the beginning of a header",
            "",
        ] {
            assert_eq!(redact(line), line);
        }
        let line = "x token=abc, seq=1 \"credential\":\"\" ufrag: abcd, pwd: efgh; then Grüße";
        let safe = "x token=…, seq=1 \"credential\":\"\" ufrag: abcd, pwd: …; then Grüße";
        assert_eq!(redact(line), safe);
    }

    proptest::proptest! {
        #[test]
        fn any_line_can_be_redacted(line in "(token|pwd|\"|\\\\|:|=|eyJ|\\.|Bearer |Some\\(|ü| |a){0,30}") {
            let safe = redact(&line);
            proptest::prop_assert!(safe.matches('ü').count() <= line.matches('ü').count());
        }
    }
}
