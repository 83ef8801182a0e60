//! Opens a store by its name: a file, `postgres://…`, or the `https://…` URL of Supabase.

use std::{path::PathBuf, sync::Arc};

use url::Url;

use super::{
    PairStore, StoreError,
    postgres::{PostgresPairs, Target},
    postgrest::RestPairs,
    redacted::redacted,
    sqlite::SqlitePairs,
};
use crate::types::is_loopback;

/// The location of a store that is not open yet.
#[derive(Clone, PartialEq, Eq)]
pub enum Place {
    /// An `SQLite` file.
    File(PathBuf),
    /// A `PostgreSQL` server.
    Postgres(Url),
    /// A `PostgREST` interface.
    Rest(Url),
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Postgres(url) => f.debug_tuple("Postgres").field(&redacted(url)).finish(),
            Self::Rest(url) => f.debug_tuple("Rest").field(&redacted(url)).finish(),
        }
    }
}

impl Place {
    /// Selects the kind by the scheme; text without one is a file.
    ///
    /// # Errors
    /// [`StoreError::Open`]: not a valid URL, an unsupported scheme, or a key that would be sent over the
    /// network in plain text.
    pub fn parse(text: &str) -> Result<Self, StoreError> {
        let Some((scheme, _)) = text.split_once("://") else {
            return Ok(Self::File(PathBuf::from(text)));
        };
        let refused =
            |subject: String, cause: &str| StoreError::Open { subject, cause: cause.to_owned() };
        let url = Url::parse(text).map_err(|error| {
            refused(format!("{scheme}://…"), &format!("not a valid URL: {error}"))
        })?;
        match url.scheme() {
            "postgres" | "postgresql" => Ok(Self::Postgres(url)),
            "https" => Ok(Self::Rest(url)),
            "http" if is_loopback(&url) => Ok(Self::Rest(url)),
            "http" => {
                Err(refused(redacted(&url), "the key would be sent in plain text: use https://"))
            }
            _ => {
                let known = "it must be a file, postgres://… or https://…";
                Err(refused(redacted(&url), known))
            }
        }
    }

    /// Opens the store; `key` is the password or the service key.
    ///
    /// # Errors
    /// [`StoreError::Open`].
    pub async fn open(&self, key: Option<&str>) -> Result<Arc<dyn PairStore>, StoreError> {
        Ok(match self {
            Self::File(path) => Arc::new(SqlitePairs::open(path).await?),
            Self::Postgres(url) => Arc::new(PostgresPairs::new(Target::parse(url, key)?)),
            Self::Rest(url) => Arc::new(RestPairs::new(url, key.unwrap_or_default())?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_selects_the_store() {
        let file = |path: &str| Place::File(path.into());
        assert_eq!(Place::parse("pairs.db").unwrap(), file("pairs.db"));
        assert_eq!(Place::parse("/a/b:c").unwrap(), file("/a/b:c"));
        for postgres in ["postgres://u:p@h/d", "postgresql://h"] {
            assert!(matches!(Place::parse(postgres).unwrap(), Place::Postgres(_)), "{postgres}");
        }
        for rest in ["https://x.supabase.co", "http://127.0.0.1:3000/"] {
            assert!(matches!(Place::parse(rest).unwrap(), Place::Rest(_)), "{rest}");
        }
    }

    #[tokio::test]
    async fn secrets_are_not_shown() {
        for text in ["postgres://u:hush@h/d?password=hush", "https://h.example/?key=hush"] {
            let place = Place::parse(text).unwrap();
            assert!(!format!("{place:?}").contains("hush"), "{place:?}");
        }
        let url = "postgres://u:hush@h/d".parse().unwrap();
        let store = PostgresPairs::new(Target::parse(&url, Some("hush")).unwrap());
        assert!(!format!("{store:?}").contains("hush"), "{store:?}");
        let store = RestPairs::new(&"https://h.example".parse().unwrap(), "hush").unwrap();
        assert!(!format!("{store:?}").contains("hush"), "{store:?}");
    }

    #[test]
    fn errors_name_the_url_without_its_secrets() {
        for (text, words) in [
            ("http://u:hush@x.example/?k=hush", "https://"),
            ("mysql://u:hush@h/d", "postgres://"),
            ("postgres://u:hush@h:99999/d", "not a valid URL"),
        ] {
            let error = Place::parse(text).unwrap_err().to_string();
            assert!(error.contains(words) && !error.contains("hush"), "{error}");
        }
    }
}
