//! `token inspect`: show a signaling token and all reasons to reject it.
//!
//! The rules are those of [`auth::jwt`](crate::auth::jwt), which stops at the first reason. To find all reasons, it is
//! called several times: signature separately from claims, times separately from issuer and audience, and the lifetime
//! as of the token's own time if the token is not valid now.

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
    text::printable,
};

/// Maximum number of bytes read from stdin.
const MAX_STDIN: u64 = 64 * 1024;

/// Parses a time claim, in seconds since the Unix epoch.
fn seconds(claim: &Value) -> Option<u64> {
    claims::whole(claim.as_number()?)
}

/// Flags of `token inspect`.
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// Token, @FILE, or - for stdin
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
    /// Seconds until `exp`, negative after it; `None` without a readable `exp`.
    remaining_s: Option<i64>,
    signature_checked: bool,
    accepted: bool,
    reasons: Vec<String>,
}

/// Inspects the token and writes the findings to stdout.
///
/// # Errors
/// The token cannot be read, or would be rejected: exit code 1.
pub fn run(args: &InspectArgs, output: Output) -> Result<(), Failure> {
    let token = read_token(&args.token)?;
    let unreadable = |error: TokenError| {
        let remedy = "pass the whole token: three parts separated by dots";
        token_failure(format!("the token cannot be read: {error}"), remedy)
    };
    let kid = Jws::parse(token.expose()).map_err(unreadable)?.header.kid;
    let keys = args.policy.keys(kid.as_deref())?;
    let found = inspect(token.expose(), keys.as_ref(), &args.policy.policy(), unix_now())
        .map_err(unreadable)?;
    output.event(&found)?;
    output.page(describe(&found))?;
    match found.reasons.as_slice() {
        [] => Ok(()),
        [reason] => Err(rejected(&format!("the token would be rejected: {reason}"))),
        [first, others @ ..] => Err(rejected(&format!(
            "the token would be rejected for {} reasons: {first}; {}",
            others.len() + 1,
            others.join("; ")
        ))),
    }
}

fn rejected(message: &str) -> Failure {
    token_failure(
        message,
        "fetch a new token with `orion-peer token fetch`; if the signature does not match, check --secret",
    )
}

fn read_token(text: &str) -> Result<SecretText, Failure> {
    let remedy = "pass the token, @FILE, or - to read it from stdin";
    if text != "-" {
        return SecretText::parse_token(text)
            .map_err(|error| Failure::usage(format!("cannot read the token: {error}"), remedy));
    }
    let mut text = String::new();
    std::io::stdin().lock().take(MAX_STDIN).read_to_string(&mut text).map_err(|error| {
        Failure::usage(format!("cannot read the token from stdin: {error}"), remedy)
    })?;
    if text.trim().is_empty() {
        return Err(Failure::usage("no token on stdin", remedy));
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
            // The claim may be any number, even beyond `i64`.
            i64::try_from(exp).unwrap_or(i64::MAX).saturating_sub_unsigned(now)
        }),
        signature_checked: keys.is_some(),
        accepted: reasons.is_empty(),
        reasons: reasons.iter().map(ToString::to_string).collect(),
    })
}

/// All reasons to reject the token, without duplicates.
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
    let mut check = |token: &str, policy: &Policy, time: u64| {
        note(jwt::check_unverified(token, policy, time).map(|_| ()), time == now);
    };
    check(token, &Policy::default(), now);
    check(token, &Policy::default(), own_time);
    check(&fresh, &issuer, now);
    check(&fresh, &audience, now);
    Ok(found)
}

/// The token with valid times, so that its other claims are checked.
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

/// Whether a reason depends on the current time.
fn about_now(reason: &TokenError) -> bool {
    matches!(
        reason,
        TokenError::Expired(_) | TokenError::NotYetValid(_) | TokenError::IssuedInFuture(_)
    )
}

fn describe(found: &Inspection) -> String {
    let pretty = |value: &Value| serde_json::to_string_pretty(value).unwrap_or_default();
    let validity = match found.remaining_s {
        None => "unknown: no exp".to_owned(),
        Some(left) => {
            let length = human::duration(Duration::from_secs(left.unsigned_abs()));
            if left > 0 { format!("valid for {length}") } else { format!("expired {length} ago") }
        }
    };
    let signature =
        if found.signature_checked { "checked" } else { "not checked (no --secret given)" };
    let mut lines = vec![
        format!("header     {}", pretty(&found.header)),
        format!("claims     {}", pretty(&found.claims)),
        format!("validity   {validity}"),
        format!("signature  {signature}"),
        format!("verdict    {}", if found.accepted { "accepted" } else { "rejected" }),
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
        assert!(describe(&found).contains("valid for 3 min 20 s"), "{}", describe(&found));
    }

    #[test]
    fn without_a_secret_the_signature_is_reported_as_not_checked() {
        let token = mint(&keys(RIGHT), &claims()).unwrap();
        let found = inspect(&token, None, &Policy::default(), NOW).unwrap();
        assert!(found.accepted && !found.signature_checked);
        assert!(describe(&found).contains("not checked"));
    }

    #[test]
    fn every_reason_is_listed_once() {
        let claims = Claims { exp: NOW - 100, iat: Some(NOW - 1_000), ..claims() };
        let token = mint(&keys(RIGHT), &claims).unwrap();
        let policy = Policy { issuer: Some("else".into()), audience: Some("else".into()) };
        let found = inspect(&token, Some(&keys(OTHER)), &policy, NOW).unwrap();
        let has = |what: &str| found.reasons.iter().filter(|reason| reason.contains(what)).count();
        assert_eq!(has("signature does not match"), 1, "{:?}", found.reasons);
        assert_eq!(has("expired 100 s ago"), 1, "{:?}", found.reasons);
        assert_eq!(has("valid for 900 s"), 1, "{:?}", found.reasons);
        assert_eq!(has("issuer"), 1, "{:?}", found.reasons);
        assert_eq!(has("audience"), 1, "{:?}", found.reasons);
        assert_eq!(found.reasons.len(), 5, "{:?}", found.reasons);
    }

    #[test]
    fn all_missing_claims_are_listed() {
        let keys = keys(RIGHT);
        let token = keys.sign(b"{}").unwrap();
        let found = inspect(&token, Some(&keys), &Policy::default(), NOW).unwrap();
        assert_eq!(found.reasons.len(), 3, "{:?}", found.reasons);
        assert_eq!(found.remaining_s, None);
    }

    #[test]
    fn claims_may_be_any_number() {
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
            assert_eq!(describe(&found).contains("valid for"), left > 0, "{}", describe(&found));
        }
    }

    #[test]
    fn text_that_is_not_a_token_is_an_error() {
        assert!(inspect("not.a-token", None, &Policy::default(), NOW).is_err());
    }
}
