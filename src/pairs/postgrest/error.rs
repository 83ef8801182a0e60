//! Errors of a `PostgREST` interface (its documentation, "Errors"), and their remedies.

use std::error::Error;

use reqwest::StatusCode;
use serde::Deserialize;

use crate::{pairs::StoreError, types::PairId};

/// Maximum length of a server's text in an error message, characters.
const MAX_TEXT: usize = 200;

/// The rule of a row whose key already exists (SQLSTATE 23505).
pub(super) const TAKEN: &str = "taken";

#[derive(Debug, Default, Deserialize)]
struct ErrorJson {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// The cause of a failed request, without its URL, whose query names users.
pub(super) fn broken(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("timed out after {} s", super::WITHIN.as_secs());
    }
    let mut cause: &dyn Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let stage = if error.is_connect() { "cannot connect" } else { "the connection broke" };
    format!("{stage}: {cause}")
}

/// The error of an unsuccessful response.
pub(super) fn refused(operation: &'static str, status: StatusCode, body: &[u8]) -> StoreError {
    let error: ErrorJson = serde_json::from_slice(body).unwrap_or_default();
    let text: String = error.message.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect();
    // Codes of classes 23 (integrity constraint violation) and 42 in PostgreSQL's appendix A.
    match error.code.as_str() {
        "23505" => return StoreError::Rule { id: PairId::from(""), rule: TAKEN.to_owned() },
        "23514" | "23502" => {
            return StoreError::Rule { id: PairId::from(""), rule: text };
        }
        "42501" => {
            return StoreError::query(
                operation,
                format!("{text}; this key lacks the permission: use the service key with --db-key"),
            );
        }
        _ => {}
    }
    let remedy = match status.as_u16() {
        401 | 403 => "the key was rejected: check --db-key",
        404 => {
            "the table device_pairs does not exist: check --db, and run `orion-peer serve pairs migrate`"
        }
        429 => "too many requests",
        300..=399 => "redirects are not followed, to protect the key: use the final URL",
        500..=599 => "the service failed",
        _ => "check --db",
    };
    let text = if text.is_empty() { text } else { format!(" ({text})") };
    let cause = format!("HTTP {}{text}: {remedy}", status.as_u16());
    if is_of_a_value(status, &error.code) {
        return StoreError::value(operation, cause);
    }
    StoreError::query(operation, cause)
}

/// Whether the service works, but rejected a value in this request.
///
/// The database's code decides, if there is one: classes 22 and 23 concern values, the others the table, the
/// role or the database. Otherwise it is any 4xx except those that concern the key, the table, the rate or
/// the connection, regardless of the request.
fn is_of_a_value(status: StatusCode, code: &str) -> bool {
    let sqlstate = code.len() == 5 && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if sqlstate {
        return code.starts_with("22") || code.starts_with("23");
    }
    status.is_client_error() && !matches!(status.as_u16(), 401 | 403 | 404 | 407 | 408 | 425 | 429)
}
