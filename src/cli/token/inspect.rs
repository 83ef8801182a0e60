//! `token inspect`: what a signaling token says, and every reason to refuse it.
//!
//! The rules are those of [`auth::jwt`](crate::auth::jwt), which stops at the first reason. All reasons
//! come out of asking it several times: signature apart from claims, times apart from issuer and audience,
//! and the life time at the token's own time, when now is not the time for it.

use std::{io::Read, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Serialize;
use serde_json::Value;

use super::{PolicyArgs, token_failure};
use crate::{
    auth::{
        jws::{Jws, SigningKeys},
        jwt::{self, Policy, TokenError},
        unix_now,
    },
    cli::{failure::Failure, output::Output, secret::SecretText},
    proto::claims,
    report::human,
    types::printable,
};

/// Most that is read from stdin, bytes.
const MOST_STDIN: u64 = 64 * 1024;

/// A time claim.
fn seconds(claim: &Value) -> Option<u64> {
    claims::whole(claim.as_number()?)
}

/// Flags of `token inspect`.
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// The token, @FILE, or - for stdin
    #[arg(value_name = "TOKEN|@FILE|-")]
    token: String,
    #[command(flatten)]
    policy: PolicyArgs,
}

/// The result of an inspection.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Inspection {
    kind: &'static str,
    header: Value,
    claims: Value,
    /// Seconds until `exp`, negative after it; none without a readable `exp`.
    remaining_s: Option<i64>,
    signature_checked: bool,
    accepted: bool,
    reasons: Vec<String>,
}

/// Inspects the token and writes what it found to stdout.
///
/// # Errors
/// The token cannot be read, or would be refused: exit code 1.
pub fn run(args: &InspectArgs, output: Output) -> Result<(), Failure> {
    let token = read_token(&args.token)?;
    let no_token = |error: TokenError| {
        let remedy = "give the token whole: three parts with dots between";
        token_failure(format!("the token cannot be read: {error}"), remedy)
    };
    let kid = Jws::parse(token.expose()).map_err(no_token)?.header.kid;
    let keys = args.policy.keys(kid.as_deref())?;
    let found = inspect(token.expose(), keys.as_ref(), &args.policy.policy(), unix_now())
        .map_err(no_token)?;
    output.event(&found)?;
    output.page(describe(&found))?;
    match found.reasons.as_slice() {
        [] => Ok(()),
        [reason] => Err(refused(&format!("the token would be refused: {reason}"))),
        [first, others @ ..] => Err(refused(&format!(
            "the token would be refused for {} reasons: {first}; {}",
            others.len() + 1,
            others.join("; ")
        ))),
    }
}

fn refused(message: &str) -> Failure {
    token_failure(
        message,
        "fetch a fresh one with `orion-peer token fetch`; for a wrong signature check --secret",
    )
}

fn read_token(text: &str) -> Result<SecretText, Failure> {
    let remedy = "give the token, @FILE, or - to read it from stdin";
    if text != "-" {
        return SecretText::parse_token(text)
            .map_err(|error| Failure::usage(format!("cannot read the token: {error}"), remedy));
    }
    let mut text = String::new();
    std::io::stdin().lock().take(MOST_STDIN).read_to_string(&mut text).map_err(|error| {
        Failure::usage(format!("cannot read the token from stdin: {error}"), remedy)
    })?;
    if text.trim().is_empty() {
        return Err(Failure::usage("there is no token on stdin", remedy));
    }
    SecretText::new(text.trim_start_matches('\u{feff}'))
        .bare()
        .map_err(|error| Failure::usage(format!("cannot read the token: {error}"), remedy))
}

fn inspect(
    token: &str,
    keys: Option<&SigningKeys>,
    policy: &Policy,
    now: u64,
) -> Result<Inspection, TokenError> {
    let shown = jwt::inspect_unverified(token)?;
    let reasons = reasons(token, &shown.claims, keys, policy, now)?;
    let exp = shown.claims.get("exp").and_then(seconds);
    Ok(Inspection {
        kind: "inspection",
        header: shown.header,
        claims: shown.claims,
        remaining_s: exp.map(|exp| {
            // The claim may be any number.
            i64::try_from(exp).unwrap_or(i64::MAX).saturating_sub_unsigned(now)
        }),
        signature_checked: keys.is_some(),
        accepted: reasons.is_empty(),
        reasons: reasons.iter().map(ToString::to_string).collect(),
    })
}

/// Every reason to refuse the token, none twice.
fn reasons(
    token: &str,
    claims: &Value,
    keys: Option<&SigningKeys>,
    policy: &Policy,
    now: u64,
) -> Result<Vec<TokenError>, TokenError> {
    let mut found: Vec<TokenError> = Vec::new();
    let mut note = |result: Result<(), TokenError>, times_count: bool| match result {
        Err(reason) if (times_count || !about_now(&reason)) && !found.contains(&reason) => {
            found.push(reason);
        }
        _ => {}
    };
    if let Some(keys) = keys {
        note(keys.verify(&Jws::parse(token)?), true);
    }
    for name in ["sub", "pairId", "exp"] {
        if claims.get(name).is_none_or(Value::is_null) {
            note(Err(TokenError::MissingClaim(name)), true);
        }
    }
    let exp = claims.get("exp").and_then(seconds).unwrap_or(now);
    let own_time = claims.get("iat").and_then(seconds).unwrap_or(exp.saturating_sub(1));
    let fresh = with_fresh_times(token, claims, now);
    let issuer = Policy { issuer: policy.issuer.clone(), audience: None };
    let audience = Policy { issuer: None, audience: policy.audience.clone() };
    let mut ask = |token: &str, policy: &Policy, time: u64| {
        note(jwt::check_unverified(token, policy, time).map(|_| ()), time == now);
    };
    ask(token, &Policy::default(), now);
    ask(token, &Policy::default(), own_time);
    ask(&fresh, &issuer, now);
    ask(&fresh, &audience, now);
    Ok(found)
}

/// The token with times that nothing can be said against, so that the other claims come to be judged.
fn with_fresh_times(token: &str, claims: &Value, now: u64) -> String {
    let mut claims = claims.clone();
    if let Value::Object(claims) = &mut claims {
        claims.remove("nbf");
        claims.insert("iat".to_owned(), now.into());
        claims.insert("exp".to_owned(), (now + 1).into());
    }
    let (header, _) = token.split_once('.').unwrap_or((token, ""));
    format!("{header}.{}.", URL_SAFE_NO_PAD.encode(claims.to_string()))
}

/// Whether a reason is about the moment of asking, and means nothing at another moment.
fn about_now(reason: &TokenError) -> bool {
    matches!(
        reason,
        TokenError::Expired(_) | TokenError::NotYetValid(_) | TokenError::IssuedInFuture(_)
    )
}

fn describe(found: &Inspection) -> String {
    let pretty = |value: &Value| serde_json::to_string_pretty(value).unwrap_or_default();
    let life = match found.remaining_s {
        None => "unknown: no exp".to_owned(),
        Some(left) => {
            let length = human::duration(Duration::from_secs(left.unsigned_abs()));
            if left > 0 { format!("{length} left") } else { format!("expired {length} ago") }
        }
    };
    let signature =
        if found.signature_checked { "checked" } else { "not checked: no --secret was given" };
    let mut lines = vec![
        format!("header     {}", pretty(&found.header)),
        format!("claims     {}", pretty(&found.claims)),
        format!("life       {life}"),
        format!("signature  {signature}"),
        format!("verdict    {}", if found.accepted { "accepted" } else { "refused" }),
    ];
    lines.extend(found.reasons.iter().map(|reason| format!("  - {}", printable(reason))));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        auth::{jws::Key, jwt::mint, secret::Secret},
        proto::claims::{Audience, Claims},
    };

    const NOW: u64 = 1_800_000_000;

    fn keys(secret: &str) -> SigningKeys {
        SigningKeys::new(vec![Key::hs256("k", &Secret::from(secret)).unwrap()]).unwrap()
    }

    fn claims() -> Claims {
        Claims {
            sub: "phone".into(),
            pair_id: "demo".into(),
            exp: NOW + 200,
            iat: Some(NOW - 100),
            nbf: None,
            iss: Some("orion".into()),
            aud: Some(Audience::One("signal".into())),
            jti: None,
        }
    }

    const RIGHT: &str = "0123456789abcdef0123456789abcdef";
    const OTHER: &str = "another secret of 32 bytes or so";

    #[test]
    fn a_good_token_is_accepted() {
        let keys = keys(RIGHT);
        let token = mint(&keys, &claims()).unwrap();
        let policy = Policy { issuer: Some("orion".into()), audience: Some("signal".into()) };
        let found = inspect(&token, Some(&keys), &policy, NOW).unwrap();
        assert!(found.accepted, "{found:?}");
        assert_eq!(found.remaining_s, Some(200));
        assert_eq!(found.claims["pairId"], "demo");
        assert_eq!(found.header["alg"], "HS256");
        assert!(describe(&found).contains("3 min 20 s left"), "{}", describe(&found));
    }

    #[test]
    fn without_a_secret_the_signature_is_said_to_be_unchecked() {
        let token = mint(&keys(RIGHT), &claims()).unwrap();
        let found = inspect(&token, None, &Policy::default(), NOW).unwrap();
        assert!(found.accepted && !found.signature_checked);
        assert!(describe(&found).contains("not checked"));
    }

    #[test]
    fn every_reason_is_told_once() {
        let claims = Claims { exp: NOW - 100, iat: Some(NOW - 1_000), ..claims() };
        let token = mint(&keys(RIGHT), &claims).unwrap();
        let policy = Policy { issuer: Some("else".into()), audience: Some("else".into()) };
        let found = inspect(&token, Some(&keys(OTHER)), &policy, NOW).unwrap();
        let has = |what: &str| found.reasons.iter().filter(|reason| reason.contains(what)).count();
        assert_eq!(has("signature does not match"), 1, "{:?}", found.reasons);
        assert_eq!(has("expired 100 s ago"), 1, "{:?}", found.reasons);
        assert_eq!(has("lives for 900 s"), 1, "{:?}", found.reasons);
        assert_eq!(has("issuer"), 1, "{:?}", found.reasons);
        assert_eq!(has("audience"), 1, "{:?}", found.reasons);
        assert_eq!(found.reasons.len(), 5, "{:?}", found.reasons);
    }

    #[test]
    fn missing_claims_are_all_named() {
        let keys = keys(RIGHT);
        let token = keys.sign(b"{}").unwrap();
        let found = inspect(&token, Some(&keys), &Policy::default(), NOW).unwrap();
        assert_eq!(found.reasons.len(), 3, "{:?}", found.reasons);
        assert_eq!(found.remaining_s, None);
    }

    #[test]
    fn numbers_of_a_token_may_be_any() {
        for (exp, left) in [
            (u64::MAX, i64::MAX - NOW as i64),
            (1 << 63, i64::MAX - NOW as i64),
            (0, -(NOW as i64)),
        ] {
            let claims = Claims { exp, iat: Some(u64::MAX), nbf: Some(u64::MAX), ..claims() };
            let token = mint(&keys(RIGHT), &claims).unwrap();
            let found = inspect(&token, None, &Policy::default(), NOW).unwrap();
            assert!(!found.accepted);
            assert_eq!(found.remaining_s, Some(left), "{exp}");
            assert_eq!(describe(&found).contains(" left"), left > 0, "{}", describe(&found));
        }
    }

    #[test]
    fn what_is_no_token_is_an_error() {
        assert!(inspect("not.a-token", None, &Policy::default(), NOW).is_err());
    }
}
