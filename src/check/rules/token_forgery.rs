//! Tokens that must be rejected at `GET /api/signal` (RFC 7519 §7.2, RFC 8725): forged ones, which need no
//! secret, and signed ones with invalid claims.

use serde_json::json;

use crate::{
    auth::unix_now,
    check::{
        finding::{CaseError, Finding, violation},
        forge::{Template, sign_with_foreign_key, with_bad_signature, with_claims_of},
        level::Need,
        rule::{Rule, Schedule},
        server::{HandshakeAttempt, Party, ServerUnderTest},
    },
    proto::claims::{LEEWAY_S, MAX_LIFETIME_S},
};

const SECRET: &[Need] = &[Need::JwtSecret];

const REJECTED: &str = "HTTP 401 (production: any rejection)";

const CHECK_EXPLICITLY: &str =
    "check this claim explicitly: JWT libraries do not check it by default";

/// A rule about tokens that must be rejected.
macro_rules! rejected {
    ($id:literal, $rule:literal, $remedy:expr, $case:expr) => {
        Rule::new($id, [$rule, REJECTED, $remedy], $case).schedule(Schedule::Room)
    };
}

/// The rules.
pub const RULES: &[Rule] = &[
    rejected!(
        "handshake.401-bad-signature",
        "A token with an invalid signature is rejected.",
        "verify the signature before using any claim",
        |server| Box::pin(bad_signature(server))
    )
    .production(),
    rejected!(
        "handshake.401-changed-claims",
        "A token whose claims were modified is rejected.",
        "verify the signature before using any claim",
        |server| Box::pin(changed_claims(server))
    )
    .production(),
    rejected!(
        "handshake.401-alg-none",
        "An unsigned token (alg `none`) is rejected.",
        "pin each key to one algorithm, and never take the algorithm from the token",
        |server| Box::pin(alg_none(server))
    )
    .production(),
    rejected!(
        "handshake.401-foreign-key",
        "A token signed with an unknown key is rejected.",
        "verify the signature with the server's own keys only",
        |server| Box::pin(foreign_key(server))
    )
    .production(),
    rejected!(
        "handshake.401-wrong-alg",
        "Each key is pinned to one algorithm: the same key with another algorithm is rejected.",
        "pin each key to one algorithm, and never take the algorithm from the token",
        |server| Box::pin(wrong_alg(server))
    )
    .needs(SECRET),
    rejected!(
        "handshake.401-expired",
        "A token more than 10 s (the leeway) past its exp is rejected.",
        "check exp, with at most 10 s of leeway; compare the clocks of both machines",
        |server| Box::pin(async {
            let past = unix_now() - 2 * LEEWAY_S;
            forged(server, |t| t.claim("iat", past - 60).claim("exp", past)).await
        })
    )
    .production()
    .needs(SECRET),
    rejected!(
        "handshake.401-lifetime",
        "A token with a lifetime of more than 300 s is rejected.",
        CHECK_EXPLICITLY,
        |server| Box::pin(async {
            let exp = unix_now() + 2 * MAX_LIFETIME_S;
            forged(server, |t| t.claim("exp", exp)).await
        })
    )
    .needs(SECRET),
    rejected!(
        "handshake.401-missing-claim",
        "A token without exp, sub or pairId is rejected.",
        CHECK_EXPLICITLY,
        |server| Box::pin(missing_claim(server))
    )
    .production()
    .needs(SECRET),
    rejected!(
        "handshake.401-nbf",
        "A token before its nbf is rejected.",
        CHECK_EXPLICITLY,
        |server| Box::pin(async {
            let nbf = unix_now() + 60;
            forged(server, |t| t.claim("nbf", nbf)).await
        })
    )
    .needs(SECRET),
    rejected!(
        "handshake.401-iat",
        "A token with an iat in the future is rejected.",
        CHECK_EXPLICITLY,
        |server| {
            Box::pin(async {
                let iat = unix_now() + 60;
                forged(server, |t| t.claim("iat", iat).claim("exp", iat + 200)).await
            })
        }
    )
    .needs(SECRET),
    rejected!(
        "handshake.401-crit",
        "A token with a `crit` header is rejected.",
        "reject every header with `crit`: no extensions are supported",
        |server| Box::pin(async {
            let crit = |t: Template| t.header("crit", json!(["x"])).header("x", json!(1));
            forged(server, crit).await
        })
    )
    .needs(SECRET),
    rejected!(
        "handshake.401-policy",
        "If iss and aud are configured, a token must name them.",
        "require iss and aud, and compare them",
        |server| Box::pin(policy(server))
    )
    .needs(&[Need::JwtSecret, Need::Policy]),
    Rule::new(
        "handshake.403-third-device",
        [
            "The device must be one of the pair's two devices.",
            "HTTP 403 (production: any rejection)",
            "look the pair up at the handshake, and compare sub with its two devices",
        ],
        |server| Box::pin(third_device(server)),
    )
    .production()
    .schedule(Schedule::Room)
    .needs(SECRET),
    Rule::new(
        "handshake.403-unknown-pair",
        [
            "The pair must be active.",
            "HTTP 403 (production: any rejection)",
            "look the pair up at the handshake",
        ],
        |server| Box::pin(unknown_pair(server)),
    )
    .production()
    .schedule(Schedule::Room)
    .needs(SECRET),
];

async fn forged(server: &ServerUnderTest, change: impl FnOnce(Template) -> Template) -> Finding {
    let token = server.forge(Party::Phone, change).await?;
    server.expect_rejected(&HandshakeAttempt::with(token), 401).await
}

async fn bad_signature(server: &ServerUnderTest) -> Finding {
    let token = with_bad_signature(&server.token(Party::Phone).await?);
    server.expect_rejected(&HandshakeAttempt::with(token), 401).await
}

async fn changed_claims(server: &ServerUnderTest) -> Finding {
    let token = server.token(Party::Phone).await?;
    let Some(template) = Template::of(&token) else {
        return violation("the token is not a compact JWS of JSON objects");
    };
    let mac = template.claim("sub", server.id(Party::Mac));
    server.expect_rejected(&HandshakeAttempt::with(with_claims_of(&token, &mac)), 401).await
}

async fn valid_template(server: &ServerUnderTest) -> Result<Template, CaseError> {
    Ok(server.template(Party::Phone).await?.at(unix_now()))
}

async fn alg_none(server: &ServerUnderTest) -> Finding {
    let template = valid_template(server).await?;
    let mut seen = String::new();
    for alg in ["none", "None", "nOnE"] {
        seen = server.expect_rejected(&HandshakeAttempt::with(template.unsigned(alg)), 401).await?;
    }
    Ok(seen)
}

async fn foreign_key(server: &ServerUnderTest) -> Finding {
    let token = sign_with_foreign_key(&valid_template(server).await?)?;
    server.expect_rejected(&HandshakeAttempt::with(token), 401).await
}

async fn wrong_alg(server: &ServerUnderTest) -> Finding {
    let template = valid_template(server).await?;
    let Some(signer) = &server.signer else {
        return Err(CaseError::NotRun(Need::JwtSecret.reason().into()));
    };
    server.expect_rejected(&HandshakeAttempt::with(signer.sign_otherwise(&template)?), 401).await
}

async fn missing_claim(server: &ServerUnderTest) -> Finding {
    let mut seen = String::new();
    for claim in ["exp", "sub", "pairId"] {
        seen = forged(server, |t| t.without(claim)).await.map_err(|error| match error {
            CaseError::Violation(what) => CaseError::Violation(format!("without {claim}: {what}")),
            other @ CaseError::NotRun(_) => other,
        })?;
    }
    Ok(seen)
}

async fn policy(server: &ServerUnderTest) -> Finding {
    let mut seen = String::new();
    for (claim, wanted) in [("iss", &server.config.issuer), ("aud", &server.config.audience)] {
        if wanted.is_some() {
            forged(server, |t| t.without(claim)).await?;
            seen = forged(server, |t| t.claim(claim, "https://orion-check.invalid")).await?;
        }
    }
    Ok(seen)
}

async fn third_device(server: &ServerUnderTest) -> Finding {
    let token = server.forge(Party::Phone, |t| t.claim("sub", server.unique_text())).await?;
    server.expect_rejected(&HandshakeAttempt::with(token), 403).await
}

async fn unknown_pair(server: &ServerUnderTest) -> Finding {
    let pair = uuid::Uuid::new_v4().to_string();
    let token = server.forge(Party::Phone, |t| t.claim("pairId", pair)).await?;
    server.expect_rejected(&HandshakeAttempt::with(token), 403).await
}
