//! What a `PostgREST` interface says when it does not do what it was asked (its documentation,
//! "Errors"), and what to do about it.

use std::error::Error;

use reqwest::StatusCode;
use serde::Deserialize;

use crate::{pairs::StoreError, types::PairId};

/// Longest text of a server that is passed on, characters.
const MAX_TEXT: usize = 200;

/// The rule of a row whose key is in the table already (SQLSTATE 23505).
pub(super) const TAKEN: &str = "taken";

#[derive(Debug, Default, Deserialize)]
struct ErrorJson {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// A request that got no answer. The URL stays out: its query names users.
pub(super) fn broken(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", super::WITHIN.as_secs());
    }
    let mut cause: &dyn Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let stage = if error.is_connect() { "cannot connect" } else { "the connection broke" };
    format!("{stage}: {cause}")
}

/// An answer that is no success.
pub(super) fn refused(operation: &'static str, status: StatusCode, body: &[u8]) -> StoreError {
    let said: ErrorJson = serde_json::from_slice(body).unwrap_or_default();
    let text: String = said.message.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect();
    // Classes 23 (broken rules) and 42 of PostgreSQL's appendix A, and PostgREST's own.
    match said.code.as_str() {
        "23505" => return StoreError::Rule { id: PairId::from(""), rule: TAKEN.to_owned() },
        "23514" | "23502" => {
            return StoreError::Rule { id: PairId::from(""), rule: text };
        }
        "42501" => {
            return StoreError::query(
                operation,
                format!("{text}; this key may not: give the service key by --db-key"),
            );
        }
        _ => {}
    }
    let remedy = match status.as_u16() {
        401 | 403 => "the key is refused: check --db-key",
        404 => {
            "there is no table device_pairs: check --db, and apply `orion-peer serve pairs migrate`"
        }
        429 => "too many requests",
        300..=399 => "redirects are not followed, for the key's sake: give the address itself",
        500..=599 => "the service fails",
        _ => "check --db",
    };
    let text = if text.is_empty() { text } else { format!(" ({text})") };
    let cause = format!("HTTP {}{text}: {remedy}", status.as_u16());
    if is_of_a_value(status, &said.code) {
        return StoreError::value(operation, cause);
    }
    StoreError::query(operation, cause)
}

/// Whether the service is well, and did not take what this one request said.
///
/// The database's code decides, where there is one: classes 22 and 23 are about values, the others about
/// the table, the role or the database. Else it is any 4xx but those that are about the key, the table,
/// the rate or the connection, whatever is asked.
fn is_of_a_value(status: StatusCode, code: &str) -> bool {
    let sqlstate = code.len() == 5 && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if sqlstate {
        return code.starts_with("22") || code.starts_with("23");
    }
    status.is_client_error() && !matches!(status.as_u16(), 401 | 403 | 404 | 407 | 408 | 425 | 429)
}
