//! A `postgres://` URL (libpq's connection URIs), and its connection options.

use std::{net::IpAddr, str::FromStr};

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use url::Url;

use crate::pairs::StoreError;

/// Supabase's port for its pooler in transaction mode.
const TRANSACTION_MODE_PORT: u16 = 6543;

/// A database and its connection options. `Debug` omits passwords.
#[derive(Clone)]
pub struct Target {
    pub(super) options: PgConnectOptions,
    /// Behind a transaction-mode pooler.
    pub(super) pooled: bool,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target")
            .field("host", &self.options.get_host())
            .field("port", &self.options.get_port())
            .field("pooled", &self.pooled)
            .finish_non_exhaustive()
    }
}

impl Target {
    /// Parses a URL; `password` takes precedence over the URL's own. Port 6543 or `pgbouncer=true` in the
    /// query indicates a transaction-mode pooler. On a network, TLS is required unless `sslmode` says
    /// otherwise.
    ///
    /// # Errors
    /// [`StoreError::Open`], without anything that may be secret.
    pub fn parse(url: &Url, password: Option<&str>) -> Result<Self, StoreError> {
        let mut plain = url.clone();
        let known = |key: &str| url.query_pairs().find(|(one, _)| one == key);
        let pooled = match known("pgbouncer") {
            Some((_, value)) => value == "true",
            None => url.port() == Some(TRANSACTION_MODE_PORT),
        };
        let rest: Vec<_> = url.query_pairs().filter(|(key, _)| key != "pgbouncer").collect();
        if rest.is_empty() {
            plain.set_query(None);
        } else {
            plain.query_pairs_mut().clear().extend_pairs(rest);
        }
        // The cause is omitted: it may quote the password.
        let mut options =
            PgConnectOptions::from_str(plain.as_str()).map_err(|_| StoreError::Open {
                subject: crate::pairs::redacted::redacted(url),
                cause:
                    "not a valid URL: expected postgres://user@host:5432/database?sslmode=require"
                        .to_owned(),
            })?;
        let unspecified = known("sslmode").is_none() && known("ssl-mode").is_none();
        let local = options.get_socket().is_some() || is_this_machine(options.get_host());
        if unspecified && !local && matches!(options.get_ssl_mode(), PgSslMode::Prefer) {
            options = options.ssl_mode(PgSslMode::Require);
        }
        if let Some(password) = password {
            options = options.password(password);
        }
        // PgBouncer rejects parameters it does not know.
        options = options.application_name("orion-peer").extra_float_digits(None);
        if pooled {
            options = options.statement_cache_capacity(0);
        }
        Ok(Self { options, pooled })
    }
}

/// Whether a host is loopback; in a `postgres://` URL, an address is plain text.
fn is_this_machine(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse();
    host == "localhost" || address.is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Target {
        Target::parse(&url.parse().unwrap(), Some("hush")).unwrap()
    }

    #[test]
    fn a_transaction_mode_pooler_is_detected_by_port_or_parameter() {
        for (url, pooled) in [
            ("postgres://u@h/d", false),
            ("postgres://u@h:5432/d", false),
            ("postgres://u@h:6543/d", true),
            ("postgresql://u@h:6432/d?pgbouncer=true", true),
            ("postgres://u@h:6543/d?pgbouncer=false", false),
        ] {
            assert_eq!(target(url).pooled, pooled, "{url}");
        }
    }

    #[test]
    fn tls_is_required_on_a_network() {
        for (url, require) in [
            ("postgres://u@db.example/d", true),
            ("postgres://u@db.example/d?sslmode=disable", false),
            ("postgres://u@127.0.0.1/d", false),
            ("postgres://u@[::1]:5432/d", false),
            ("postgres://u@localhost/d", false),
            ("postgres://u@localhost.example/d", true),
            ("postgres://u@127.0.0.1/d?host=192.0.2.1", true),
            ("postgres:///d?host=/run/postgresql", false),
        ] {
            let mode = target(url).options.get_ssl_mode();
            assert_eq!(matches!(mode, PgSslMode::Require), require, "{url}: {mode:?}");
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        let url: Url = "postgres://u:pw-in-url@h:x/d".parse().unwrap_or_else(|_| {
            "postgres://u:pw-in-url@h/d?sslmode=pw-wrong&password=pw-query".parse().unwrap()
        });
        let error = Target::parse(&url, Some("hush")).unwrap_err().to_string();
        assert!(!error.contains("pw-"), "{error}");
        let shown = format!("{:?}", target("postgres://u:pw-in-url@h/d"));
        assert!(!shown.contains("pw-") && !shown.contains("hush"), "{shown}");
    }
}
