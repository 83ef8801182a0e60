//! Secrets given by flag, environment or configuration file: readable from a file, never printed.

use std::{fmt, fs};

/// A secret text. `@path` in its place reads the file and trims white space around it.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(String);

/// A secret that could not be read. No variant carries the secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file after `@` could not be read.
    #[error("cannot read the secret from file `{path}`: {source}")]
    Read {
        /// The path as given.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Nothing there, or nothing but white space.
    #[error("the secret is empty: give its text, or @FILE to read it from a file")]
    Empty,
    /// The file after `@` holds nothing.
    #[error("the secret file `{0}` is empty")]
    EmptyFile(String),
}

impl SecretText {
    /// A secret from its text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Reads a secret as given by a user: its text, or `@path`. This is a clap value parser.
    ///
    /// # Errors
    /// The file cannot be read, or the secret is empty.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let Some(path) = text.strip_prefix('@') else {
            let secret = text.trim();
            return if secret.is_empty() { Err(SecretError::Empty) } else { Ok(Self::new(secret)) };
        };
        let contents = fs::read_to_string(path)
            .map_err(|source| SecretError::Read { path: path.to_owned(), source })?;
        match contents.trim() {
            "" => Err(SecretError::EmptyFile(path.to_owned())),
            secret => Ok(Self::new(secret)),
        }
    }

    /// The secret itself, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
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
    fn a_file_is_read_and_trimmed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "  hush\n").unwrap();
        let secret = SecretText::parse(&format!("@{}", file.path().display())).unwrap();
        assert_eq!(secret.expose(), "hush");
    }

    #[test]
    fn debug_shows_nothing() {
        assert!(!format!("{:?}", SecretText::new("hush")).contains("hush"));
    }

    #[test]
    fn a_missing_or_empty_file_is_named() {
        let missing = SecretText::parse("@/nowhere/at/all").unwrap_err().to_string();
        assert!(missing.contains("/nowhere/at/all"), "{missing}");
        let file = tempfile::NamedTempFile::new().unwrap();
        let empty = SecretText::parse(&format!("@{}", file.path().display())).unwrap_err();
        assert!(matches!(empty, SecretError::EmptyFile(_)));
        assert!(matches!(SecretText::parse("  "), Err(SecretError::Empty)));
    }
}
