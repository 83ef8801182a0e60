//! Tokens that must be refused at `GET /api/signal` (RFC 7519 §7.2, RFC 8725): forged ones, which need no
//! secret, and signed ones with wrong claims.

use serde_json::json;

use crate::{
    auth::unix_now,
    check::{
        forge::{Template, sign_with_foreign_key, with_bad_signature, with_claims_of},
        rule::{Lane, Miss, Need, Rule, Seen, broken},
        site::{Knock, Site, Who},
    },
    proto::claims::{LEEWAY_S, MAX_LIFETIME_S},
};

const SECRET: &[Need] = &[Need::JwtSecret];

const REFUSED: &str = "HTTP 401 (production: any refusal)";

const BY_HAND: &str = "check this claim yourself: JWT libraries do not by default";

/// A rule of one sentence about tokens that are refused.
macro_rules! refused {
    ($id:literal, $rule:literal, $remedy:expr, $case:expr) => {
        Rule::new($id, [$rule, REFUSED, $remedy], $case).lane(Lane::Room)
    };
}

/// The rules.
pub const RULES: &[Rule] = &[
    refused!(
        "handshake.401-bad-signature",
        "A token with another signature is refused.",
        "verify the signature before a claim is used",
        |site| Box::pin(bad_signature(site))
    )
    .production(),
    refused!(
        "handshake.401-changed-claims",
        "A token whose claims were changed is refused.",
        "verify the signature before a claim is used",
        |site| Box::pin(changed_claims(site))
    )
    .production(),
    refused!(
        "handshake.401-alg-none",
        "A token without a signature (alg `none`) is refused.",
        "pin one algorithm to each key, and never take it from the token",
        |site| Box::pin(alg_none(site))
    )
    .production(),
    refused!(
        "handshake.401-foreign-key",
        "A token signed with another key is refused.",
        "verify the signature with the server's own keys only",
        |site| Box::pin(foreign_key(site))
    )
    .production(),
    refused!(
        "handshake.401-wrong-alg",
        "One algorithm is pinned to a key: the same key with another one is refused.",
        "pin one algorithm to each key, and never take it from the token",
        |site| Box::pin(wrong_alg(site))
    )
    .needs(SECRET),
    refused!(
        "handshake.401-expired",
        "A token past exp and 10 s of leeway is refused.",
        "check exp, with at most 10 s of leeway; compare the clocks of both machines",
        |site| Box::pin(async {
            let past = unix_now() - 2 * LEEWAY_S;
            forged(site, |t| t.claim("iat", past - 60).claim("exp", past)).await
        })
    )
    .production()
    .needs(SECRET),
    refused!(
        "handshake.401-lifetime",
        "A token that lives for more than 300 s is refused.",
        BY_HAND,
        |site| Box::pin(async {
            let exp = unix_now() + 2 * MAX_LIFETIME_S;
            forged(site, |t| t.claim("exp", exp)).await
        })
    )
    .needs(SECRET),
    refused!(
        "handshake.401-missing-claim",
        "A token without exp, sub or pairId is refused.",
        BY_HAND,
        |site| Box::pin(missing_claim(site))
    )
    .production()
    .needs(SECRET),
    refused!("handshake.401-nbf", "A token before its nbf is refused.", BY_HAND, |site| Box::pin(
        async {
            let nbf = unix_now() + 60;
            forged(site, |t| t.claim("nbf", nbf)).await
        }
    ))
    .needs(SECRET),
    refused!("handshake.401-iat", "A token issued in the future is refused.", BY_HAND, |site| {
        Box::pin(async {
            let iat = unix_now() + 60;
            forged(site, |t| t.claim("iat", iat).claim("exp", iat + 200)).await
        })
    })
    .needs(SECRET),
    refused!(
        "handshake.401-crit",
        "A token with a `crit` header is refused.",
        "refuse any header with `crit`: no extension is understood",
        |site| Box::pin(async {
            let crit = |t: Template| t.header("crit", json!(["x"])).header("x", json!(1));
            forged(site, crit).await
        })
    )
    .needs(SECRET),
    refused!(
        "handshake.401-policy",
        "Where iss and aud are configured, a token must name them.",
        "require iss and aud to be there, and compare them",
        |site| Box::pin(policy(site))
    )
    .needs(&[Need::JwtSecret, Need::Policy]),
    Rule::new(
        "handshake.403-third-device",
        [
            "The device must be one of the pair's two.",
            "HTTP 403 (production: any refusal)",
            "look the pair up at the handshake, and compare sub with its two devices",
        ],
        |site| Box::pin(third_device(site)),
    )
    .production()
    .lane(Lane::Room)
    .needs(SECRET),
    Rule::new(
        "handshake.403-unknown-pair",
        [
            "The pair must be active.",
            "HTTP 403 (production: any refusal)",
            "look the pair up at the handshake",
        ],
        |site| Box::pin(unknown_pair(site)),
    )
    .production()
    .lane(Lane::Room)
    .needs(SECRET),
];

async fn forged(site: &Site, change: impl FnOnce(Template) -> Template) -> Seen {
    let token = site.forge(Who::Phone, change).await?;
    site.refused(&Knock::with(token), 401).await
}

async fn bad_signature(site: &Site) -> Seen {
    let token = with_bad_signature(&site.token(Who::Phone).await?);
    site.refused(&Knock::with(token), 401).await
}

async fn changed_claims(site: &Site) -> Seen {
    let token = site.token(Who::Phone).await?;
    let Some(template) = Template::of(&token) else {
        return broken("the token is no compact JWS of JSON");
    };
    let mac = template.claim("sub", site.id(Who::Mac));
    site.refused(&Knock::with(with_claims_of(&token, &mac)), 401).await
}

async fn good(site: &Site) -> Result<Template, Miss> {
    Ok(site.template(Who::Phone).await?.at(unix_now()))
}

async fn alg_none(site: &Site) -> Seen {
    let template = good(site).await?;
    let mut seen = String::new();
    for alg in ["none", "None", "nOnE"] {
        seen = site.refused(&Knock::with(template.unsigned(alg)), 401).await?;
    }
    Ok(seen)
}

async fn foreign_key(site: &Site) -> Seen {
    let token = sign_with_foreign_key(&good(site).await?)?;
    site.refused(&Knock::with(token), 401).await
}

async fn wrong_alg(site: &Site) -> Seen {
    let template = good(site).await?;
    let Some(signer) = &site.signer else {
        return Err(Miss::NotRun(Need::JwtSecret.reason().into()));
    };
    site.refused(&Knock::with(signer.sign_otherwise(&template)?), 401).await
}

async fn missing_claim(site: &Site) -> Seen {
    let mut seen = String::new();
    for claim in ["exp", "sub", "pairId"] {
        seen = forged(site, |t| t.without(claim)).await.map_err(|miss| match miss {
            Miss::Broken(what) => Miss::Broken(format!("without {claim}: {what}")),
            other @ Miss::NotRun(_) => other,
        })?;
    }
    Ok(seen)
}

async fn policy(site: &Site) -> Seen {
    let mut seen = String::new();
    for (claim, wanted) in [("iss", &site.config.issuer), ("aud", &site.config.audience)] {
        if wanted.is_some() {
            forged(site, |t| t.without(claim)).await?;
            seen = forged(site, |t| t.claim(claim, "https://orion-check.invalid")).await?;
        }
    }
    Ok(seen)
}

async fn third_device(site: &Site) -> Seen {
    let token = site.forge(Who::Phone, |t| t.claim("sub", site.mark())).await?;
    site.refused(&Knock::with(token), 403).await
}

async fn unknown_pair(site: &Site) -> Seen {
    let pair = uuid::Uuid::new_v4().to_string();
    let token = site.forge(Who::Phone, |t| t.claim("pairId", pair)).await?;
    site.refused(&Knock::with(token), 403).await
}
