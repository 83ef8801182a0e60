//! `POST /api/auth/webrtc-token`: contents of the response, and requests that must be rejected.

use serde_json::{Value, json};

use crate::{
    auth::unix_now,
    check::{
        finding::{CaseError, Finding, violation},
        forge::{Template, with_bad_signature},
        level::Need,
        rule::{Rule, Schedule},
        server::{Party, ServerUnderTest},
    },
    proto::claims::{LEEWAY_S, MAX_LIFETIME_S},
};

const API: &[Need] = &[Need::TokenApi];

/// The rules.
pub const RULES: &[Rule] = &[
    Rule::new(
        "token.200",
        [
            "A login token and a deviceId of the user's pair are exchanged for a signaling token.",
            "HTTP 200 with JSON {token}, a compact JWS, for both phone and Mac",
            "check that both devices belong to one active pair of the logged-in user",
        ],
        |server| Box::pin(issued(server)),
    )
    .production()
    .schedule(Schedule::First)
    .needs(API),
    Rule::new(
        "token.claims",
        [
            "The token's claims are sub = deviceId, pairId and exp, at most 300 s after iat.",
            "sub and pairId as requested, exp at most 300 s in the future",
            "set the claims when signing the token; `orion-peer token inspect` shows them",
        ],
        |server| Box::pin(claims(server)),
    )
    .production()
    .needs(API),
    Rule::new(
        "token.other-claims",
        [
            "The token has iat, a unique jti, a kid, and iss and aud if configured.",
            "iat, jti (different in two tokens), header kid; iss and aud as given by --issuer and --audience",
            "add the claims when signing the token",
        ],
        |server| Box::pin(other_claims(server)),
    )
    .needs(API),
    Rule::new(
        "token.answer",
        [
            "The response is {token, expiresAt, expiresIn: 300, pairId, iceServers}.",
            "expiresIn 300, expiresAt and pairId as in the token's claims, iceServers an array",
            "add the missing fields to the response of the token API",
        ],
        |server| Box::pin(answer(server)),
    )
    .needs(API),
    Rule::new(
        "token.ice-servers",
        [
            "iceServers are W3C RTCIceServer objects: urls; for TURN also username and credential.",
            "stun:, turn: and turns: URLs; TURN with username and credential",
            "check the ICE servers that the token API returns",
        ],
        |server| Box::pin(ice_servers(server)),
    )
    .needs(API),
    Rule::new(
        "token.no-store",
        [
            "The response must not be cached.",
            "Cache-Control: no-store",
            "set the header on the route; a proxy or CDN may remove it",
        ],
        |server| Box::pin(no_store(server)),
    )
    .needs(API),
    Rule::new(
        "token.pair-id",
        [
            "A request may name the pair.",
            "a request with pairId returns a token for that pair",
            "read `pairId` from the request",
        ],
        |server| Box::pin(named_pair(server)),
    )
    .needs(API),
    Rule::new(
        "token.401-no-login",
        [
            "Requests without a login token are rejected.",
            "HTTP 401 {code, message} (production: any 4xx)",
            "check the login token before anything else",
        ],
        |server| Box::pin(no_login(server)),
    )
    .production(),
    Rule::new(
        "token.401-bad-login",
        [
            "Malformed login tokens are rejected.",
            "HTTP 401 {code, message} (production: any 4xx)",
            "verify the login token",
        ],
        |server| Box::pin(bad_login(server)),
    )
    .production(),
    Rule::new(
        "token.401-forged-login",
        [
            "Login tokens that the login service did not sign are rejected.",
            "HTTP 401 for alg `none` and for a changed signature (production: any 4xx)",
            "verify the signature with the key's algorithm, never with the one the token names",
        ],
        |server| Box::pin(forged_login(server)),
    )
    .production(),
    Rule::new(
        "token.403-third-device",
        [
            "A device that is not in any of the user's pairs is rejected.",
            "HTTP 403 {code, message} (production: any 4xx)",
            "check the device against the user's active pairs",
        ],
        |server| Box::pin(third_device(server)),
    )
    .production()
    .needs(API),
    Rule::new(
        "token.403-unknown-pair",
        [
            "Requests for a pair that does not exist are rejected.",
            "HTTP 403 {code, message} (production: any 4xx)",
            "look the pair up before signing the token",
        ],
        |server| Box::pin(unknown_pair(server)),
    )
    .production()
    .needs(API),
    Rule::new(
        "token.403-alike",
        [
            "`No such pair` and `not your pair` get the same response, so that it does not reveal \
             which pairs exist.",
            "the same status and body for an unknown pair, another user's pair and a third device",
            "use the same code and message for both rejections",
        ],
        |server| Box::pin(same_response(server)),
    )
    .needs(API),
    Rule::new(
        "token.400-malformed",
        [
            "Malformed requests are answered with 400.",
            "HTTP 400 {code, message} for invalid JSON, a missing deviceId and a deviceId that is not a string",
            "validate the body before using it",
        ],
        |server| Box::pin(malformed(server)),
    )
    .needs(API),
];

async fn issued(server: &ServerUnderTest) -> Finding {
    for party in [Party::Phone, Party::Mac] {
        let token = server.new_token(party).await?;
        if Template::of(&token).is_none() {
            return violation("`token` is not a compact JWS of JSON objects");
        }
    }
    Ok("HTTP 200 with a token for both".into())
}

async fn fetched(server: &ServerUnderTest, party: Party) -> Result<(Value, Template), CaseError> {
    let answer = server.fetch(party).await?.json();
    let template = answer["token"].as_str().and_then(Template::of);
    let template =
        template.ok_or_else(|| CaseError::Violation("the response has no token".into()))?;
    Ok((answer, template))
}

async fn claims(server: &ServerUnderTest) -> Finding {
    let mut pairs = Vec::new();
    let mut lifetime = 0;
    for party in [Party::Phone, Party::Mac] {
        let requested_at = unix_now();
        let (_, template) = fetched(server, party).await?;
        let claims = &template.claims;
        if claims["sub"] != server.id(party) {
            return violation("`sub` is not the requested deviceId");
        }
        let Some(pair) = claims["pairId"].as_str().filter(|pair| !pair.is_empty()) else {
            return violation("`pairId` is missing");
        };
        if server.config.pair.as_ref().is_some_and(|wanted| wanted.as_str() != pair) {
            return violation("`pairId` is not the requested pair");
        }
        pairs.push(pair.to_owned());
        let Some(exp) = claims["exp"].as_u64() else {
            return violation("`exp` is not a number of seconds");
        };
        let issued = claims["iat"].as_u64().unwrap_or(requested_at + LEEWAY_S);
        let latest = issued.saturating_add(MAX_LIFETIME_S);
        if exp > latest {
            return violation(format!("the token is valid for {} s too long", exp - latest));
        }
        if exp.saturating_add(LEEWAY_S) < requested_at {
            return violation("the token has already expired: compare the clocks");
        }
        lifetime = lifetime.max(exp.saturating_sub(requested_at));
    }
    if pairs[0] != pairs[1] {
        return violation("phone and Mac got tokens for different pairs");
    }
    Ok(format!("sub, pairId and exp, {lifetime} s in the future"))
}

async fn other_claims(server: &ServerUnderTest) -> Finding {
    let (_, first) = fetched(server, Party::Phone).await?;
    let (_, second) = fetched(server, Party::Phone).await?;
    let claims = &first.claims;
    if !claims["iat"].is_u64() {
        return violation("`iat` is missing");
    }
    if !claims["jti"].is_string() || claims["jti"] == second.claims["jti"] {
        return violation("`jti` is missing, or the same in two tokens");
    }
    if !first.header["kid"].is_string() {
        return violation("the header has no `kid`");
    }
    let named = |value: &Value, name: &str| match value {
        Value::Array(all) => all.iter().any(|one| one == name),
        one => one == name,
    };
    for (claim, wanted) in [("iss", &server.config.issuer), ("aud", &server.config.audience)] {
        if let Some(wanted) = wanted
            && !named(&claims[claim], wanted)
        {
            return violation(format!("`{claim}` does not name `{wanted}`"));
        }
    }
    Ok("iat, jti, kid".into())
}

async fn answer(server: &ServerUnderTest) -> Finding {
    let (answer, template) = fetched(server, Party::Phone).await?;
    if answer["expiresIn"] != MAX_LIFETIME_S {
        return violation(format!("expiresIn is {}", answer["expiresIn"]));
    }
    let exp = template.claims["exp"].as_i64().unwrap_or_default();
    let at = answer["expiresAt"].as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    if at.is_none_or(|at| at.as_second() != exp) {
        return violation("expiresAt is not the time of `exp`, RFC 3339");
    }
    if answer["pairId"] != template.claims["pairId"] {
        return violation("pairId is not the token's");
    }
    if !answer["iceServers"].is_array() {
        return violation("iceServers is not an array");
    }
    Ok("all five fields".into())
}

async fn ice_servers(server: &ServerUnderTest) -> Finding {
    let (answer, _) = fetched(server, Party::Phone).await?;
    let servers = answer["iceServers"].as_array().cloned().unwrap_or_default();
    let (mut stun, mut turn) = (0, 0);
    for server in &servers {
        let urls: Vec<&str> = match &server["urls"] {
            Value::String(one) => vec![one],
            Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        if urls.is_empty() {
            return violation("a server has no urls");
        }
        for url in urls {
            match url.split(':').next() {
                Some("stun" | "stuns") => stun += 1,
                Some("turn" | "turns") => {
                    turn += 1;
                    if !["username", "credential"].iter().all(|key| server[*key].is_string()) {
                        return violation("a TURN server has no username or credential");
                    }
                }
                _ => return violation("a URL has a scheme other than stun:, turn: or turns:"),
            }
        }
    }
    Ok(format!("{stun} STUN and {turn} TURN URLs"))
}

async fn no_store(server: &ServerUnderTest) -> Finding {
    let answer = server.fetch(Party::Phone).await?;
    match answer.header("cache-control") {
        Some(value) if value.to_ascii_lowercase().contains("no-store") => Ok(value.to_owned()),
        Some(value) => violation(format!("Cache-Control: {value}")),
        None => violation("no Cache-Control"),
    }
}

async fn named_pair(server: &ServerUnderTest) -> Finding {
    let pair = server.pair().await?;
    let body = json!({"deviceId": server.id(Party::Phone), "pairId": pair}).to_string();
    let answer =
        server.request_token_with_retries(Some(&server.login(Party::Phone)?), &body).await?;
    let template = answer.json()["token"].as_str().and_then(Template::of);
    match template {
        Some(template) if template.claims["pairId"] == pair => Ok("a token for that pair".into()),
        Some(_) => violation("a token for another pair"),
        None => violation(answer.summary()),
    }
}

async fn no_login(server: &ServerUnderTest) -> Finding {
    let body = server.token_request_body(Party::Phone).to_string();
    server.expect_no_token(&server.request_token_with_retries(None, &body).await?, 401)
}

async fn bad_login(server: &ServerUnderTest) -> Finding {
    let body = server.token_request_body(Party::Phone).to_string();
    let mut seen = String::new();
    for login in ["orion-check-is-no-login", "a.b.c", "e30.e30.e30"] {
        seen = server
            .expect_no_token(&server.request_token_with_retries(Some(login), &body).await?, 401)?;
    }
    Ok(seen)
}

async fn forged_login(server: &ServerUnderTest) -> Finding {
    let body = server.token_request_body(Party::Phone).to_string();
    let real = server.login(Party::Phone).ok();
    let template = real.as_deref().and_then(Template::of).unwrap_or_else(|| Template {
        header: json!({"alg": "none", "typ": "JWT"}),
        claims: json!({
            "sub": "00000000-0000-0000-0000-000000000000",
            "aud": "authenticated",
            "role": "authenticated",
            "iat": unix_now(),
            "exp": unix_now() + 300,
        }),
    });
    let mut forged: Vec<String> = ["none", "None", "NONE"].map(|a| template.unsigned(a)).into();
    forged.extend(real.filter(|real| Template::of(real).is_some()).map(|r| with_bad_signature(&r)));
    let mut seen = String::new();
    for login in &forged {
        seen = server
            .expect_no_token(&server.request_token_with_retries(Some(login), &body).await?, 401)?;
    }
    Ok(seen)
}

async fn rejected_for(server: &ServerUnderTest, body: &Value) -> Finding {
    let answer = server
        .request_token_with_retries(Some(&server.login(Party::Phone)?), &body.to_string())
        .await?;
    server.expect_no_token(&answer, 403)
}

async fn third_device(server: &ServerUnderTest) -> Finding {
    let third = server.unique_text();
    rejected_for(server, &json!({"deviceId": third})).await?;
    rejected_for(server, &json!({"deviceId": third, "pairId": server.pair().await?})).await
}

async fn unknown_pair(server: &ServerUnderTest) -> Finding {
    let pair = uuid::Uuid::new_v4().to_string();
    rejected_for(server, &json!({"deviceId": server.id(Party::Phone), "pairId": pair})).await
}

async fn same_response(server: &ServerUnderTest) -> Finding {
    let login = server.login(Party::Phone)?;
    let unknown = uuid::Uuid::new_v4().to_string();
    let mut bodies = vec![
        json!({"deviceId": server.id(Party::Phone), "pairId": unknown}),
        json!({"deviceId": server.unique_text(), "pairId": server.pair().await?}),
    ];
    if let Some(other) = &server.config.other {
        bodies.push(json!({"deviceId": server.id(Party::Phone), "pairId": other.pair}));
    }
    let mut first = None;
    for body in bodies {
        let answer = server.request_token_with_retries(Some(&login), &body.to_string()).await?;
        let response = (answer.status, answer.body.clone());
        if *first.get_or_insert_with(|| response.clone()) != response {
            return violation(format!(
                "{} for one request, a different response for another",
                answer.summary()
            ));
        }
    }
    Ok("the same response to all".into())
}

async fn malformed(server: &ServerUnderTest) -> Finding {
    let login = server.login(Party::Phone)?;
    let mut seen = String::new();
    for body in ["", "{", "[]", "{}", r#"{"deviceId":7}"#, r#"{"deviceId":""}"#] {
        let answer = server.request_token_with_retries(Some(&login), body).await?;
        seen = server.expect_no_token(&answer, 400)?;
    }
    Ok(seen)
}
