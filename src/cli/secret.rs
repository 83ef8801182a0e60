//! Secrets given by flag, environment or configuration file: optionally read from a file, never printed.

use std::{fmt, fs, io};

use super::failure::Failure;
use crate::auth::secret::Secret;

/// A secret text; `@path` reads it from a file and trims whitespace.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(String);

/// A secret that could not be read. No variant carries the secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file after `@` cannot be read.
    #[error("cannot read the secret from file `{path}`: {source}")]
    Read {
        /// Path as given.
        path: String,
        /// I/O error, or invalid text encoding.
        source: std::io::Error,
    },
    /// The secret is empty or consists of whitespace.
    #[error("the secret is empty: pass the text, or @FILE to read it from a file")]
    Empty,
    /// The text is not a token.
    #[error("not a token: {0}; pass only the token")]
    NotAToken(&'static str),
    /// The file after `@` is empty or consists of whitespace.
    #[error("the secret file `{0}` is empty")]
    EmptyFile(String),
}

impl SecretText {
    /// Creates a secret from its text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Parses a secret given by the user: its text, or `@path`. This is a clap value parser.
    ///
    /// # Errors
    /// The file cannot be read, or the secret is empty.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let Some(path) = text.strip_prefix('@') else {
            let secret = text.trim();
            return if secret.is_empty() { Err(SecretError::Empty) } else { Ok(Self::new(secret)) };
        };
        let contents = fs::read(path)
            .and_then(|bytes| text_of(&bytes))
            .map_err(|source| SecretError::Read { path: path.to_owned(), source })?;
        match contents.trim() {
            "" => Err(SecretError::EmptyFile(path.to_owned())),
            secret => Ok(Self::new(secret)),
        }
    }

    /// Parses a token given by the user: like [`SecretText::parse`], but removes what tools add around a token: quotes,
    /// `Bearer `, or the JSON object of a login response. This is a clap value parser.
    ///
    /// # Errors
    /// See [`SecretText::parse`]; even if the rest cannot be a token.
    pub fn parse_token(text: &str) -> Result<Self, SecretError> {
        Self::parse(text)?.bare()
    }

    /// The bare token, see [`SecretText::parse_token`].
    ///
    /// # Errors
    /// The rest cannot be a token.
    pub fn bare(&self) -> Result<Self, SecretError> {
        let text = self.0.trim();
        if text.starts_with('{') {
            return in_json(text);
        }
        let quoted = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote);
        if let Some(inner) = quoted('"').or_else(|| quoted('\'')) {
            return Self::new(inner).bare();
        }
        if let Some((scheme, token)) = text.split_once(char::is_whitespace)
            && (scheme.eq_ignore_ascii_case("bearer")
                || scheme.trim_end_matches(':').eq_ignore_ascii_case("authorization"))
        {
            return Self::new(token).bare();
        }
        if text.is_empty() {
            return Err(SecretError::Empty);
        }
        if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(SecretError::NotAToken("it contains whitespace"));
        }
        Ok(Self::new(text))
    }

    /// The secret itself, for the code that uses it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// A secret as given by the user, the text or `@FILE`. It is read when needed, and again when a server reloads.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretSource(String);

impl SecretSource {
    /// Reads the secret of a flag, if it is given.
    ///
    /// # Errors
    /// Exit code 2: the file cannot be read, or the secret is empty.
    pub fn read(flag: &str, given: Option<&Self>) -> Result<Option<Secret>, Failure> {
        let Some(Self(given)) = given else { return Ok(None) };
        match SecretText::parse(given) {
            Ok(secret) => Ok(Some(Secret::from(secret.expose()))),
            Err(error) => Err(Failure::usage(
                format!("{flag}: {error}"),
                format!("specify the secret or @FILE, or omit {flag}"),
            )),
        }
    }
}

impl From<&str> for SecretSource {
    fn from(given: &str) -> Self {
        Self(given.to_owned())
    }
}

impl From<String> for SecretSource {
    fn from(given: String) -> Self {
        Self(given)
    }
}

impl fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretSource(…)")
    }
}

/// Decodes a file in UTF-8 or, as written by PowerShell, UTF-16; removes the byte order mark.
fn text_of(bytes: &[u8]) -> io::Result<String> {
    let wide = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let units: Vec<u16> =
            bytes.chunks(2).map(|two| unit([two[0], two[two.len() - 1]])).collect();
        String::from_utf16(&units).map_err(|_| "it is not valid UTF-16")
    };
    let text = match bytes {
        [0xFF, 0xFE, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xFE, 0xFF, rest @ ..] => wide(rest, u16::from_be_bytes),
        [0xEF, 0xBB, 0xBF, rest @ ..] | rest => {
            String::from_utf8(rest.to_vec()).map_err(|_| "it is not valid UTF-8")
        }
    };
    text.map_err(|reason| io::Error::new(io::ErrorKind::InvalidData, reason))
}

/// The token in a login response (RFC 6749 §5.1), or in a response of the token API.
fn in_json(text: &str) -> Result<SecretText, SecretError> {
    let wrong = "it is JSON without `access_token` or `token`";
    let value: serde_json::Value =
        serde_json::from_str(text).map_err(|_| SecretError::NotAToken("it is not valid JSON"))?;
    let names = ["access_token", "accessToken", "token"];
    let found = names.iter().find_map(|name| value.get(name)?.as_str());
    let token = found.filter(|token| !token.trim_start().starts_with('{'));
    SecretText::new(token.ok_or(SecretError::NotAToken(wrong))?).bare()
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_and_trimmed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "  hush\n").unwrap();
        let secret = SecretText::parse(&format!("@{}", file.path().display())).unwrap();
        assert_eq!(secret.expose(), "hush");
    }

    #[test]
    fn tokens_are_extracted_from_the_output_of_tools() {
        let utf16 = |unit: fn(u16) -> [u8; 2]| -> Vec<u8> {
            "\u{feff}a.b.c\r\n".encode_utf16().flat_map(unit).collect()
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        let read = |bytes: &[u8]| {
            fs::write(file.path(), bytes).unwrap();
            SecretText::parse_token(&format!("@{}", file.path().display()))
        };
        for written in [
            &b"a.b.c\n"[..],
            b"\xEF\xBB\xBFa.b.c",
            b"Bearer a.b.c\n",
            b"bearer  a.b.c",
            b"Authorization: Bearer a.b.c",
            b"\"a.b.c\"\n",
            b"'Bearer a.b.c'",
            br#"{"access_token":"a.b.c","token_type":"bearer"}"#,
            b"\xEF\xBB\xBF{ \"accessToken\": \"a.b.c\" }",
            br#"{"token":"a.b.c","pairId":"p"}"#,
            &utf16(u16::to_le_bytes),
            &utf16(u16::to_be_bytes),
        ] {
            let token = read(written).unwrap_or_else(|error| panic!("{written:?}: {error}"));
            assert_eq!(token.expose(), "a.b.c", "{written:?}");
        }
        for (wrong, reason) in [
            (&b"a.b.c d.e.f"[..], "whitespace"),
            (b"a.b.c\nd.e.f", "whitespace"),
            (br#"{"error":"hush"}"#, "access_token"),
            (b"{hush", "JSON"),
            (b"\"\"", "empty"),
            (b"\xC3\x28", "UTF-8"),
        ] {
            let error = read(wrong).unwrap_err().to_string();
            assert!(error.contains(reason) && !error.contains("hush"), "{error}");
        }
        assert_eq!(SecretText::parse_token("Bearer a.b.c").unwrap().expose(), "a.b.c");
    }

    #[test]
    fn debug_output_is_redacted() {
        assert!(!format!("{:?}", SecretText::new("hush")).contains("hush"));
        assert!(!format!("{:?}", SecretSource::from("hush")).contains("hush"));
    }

    #[test]
    fn errors_name_a_missing_or_empty_file() {
        let missing = SecretText::parse("@/nowhere/at/all").unwrap_err().to_string();
        assert!(missing.contains("/nowhere/at/all"), "{missing}");
        let file = tempfile::NamedTempFile::new().unwrap();
        let empty = SecretText::parse(&format!("@{}", file.path().display())).unwrap_err();
        assert!(matches!(empty, SecretError::EmptyFile(_)));
        assert!(matches!(SecretText::parse("  "), Err(SecretError::Empty)));
    }
}
