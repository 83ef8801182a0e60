//! `POST /api/auth/webrtc-token`: what a good answer holds, and who gets none.

use serde_json::{Value, json};

use crate::{
    auth::unix_now,
    check::{
        forge::{Template, with_bad_signature},
        rule::{Lane, Miss, Need, Rule, Seen, broken},
        site::{Site, Who},
    },
    proto::claims::{LEEWAY_S, MAX_LIFETIME_S},
};

const API: &[Need] = &[Need::TokenApi];

/// The rules.
pub const RULES: &[Rule] = &[
    Rule::new(
        "token.200",
        [
            "A login token and a deviceId of the user's pair get a signaling token.",
            "HTTP 200 with JSON {token}, a compact JWS, for the phone and for the Mac",
            "check that both devices are in one active pair of the logged-in user",
        ],
        |site| Box::pin(given(site)),
    )
    .production()
    .lane(Lane::First)
    .needs(API),
    Rule::new(
        "token.claims",
        [
            "The token's claims are sub = deviceId, pairId and exp, at most 300 s after iat.",
            "sub, pairId and exp as asked for, exp at most 300 s ahead",
            "set the claims where the token is signed; `orion-peer token inspect` shows them",
        ],
        |site| Box::pin(claims(site)),
    )
    .production()
    .needs(API),
    Rule::new(
        "token.other-claims",
        [
            "The token has iat and a jti of its own, iss and aud when they are configured, and a kid.",
            "iat, jti (different in two tokens), header kid; iss and aud as given by flag",
            "add the claims where the token is signed",
        ],
        |site| Box::pin(other_claims(site)),
    )
    .needs(API),
    Rule::new(
        "token.answer",
        [
            "The answer is {token, expiresAt, expiresIn: 300, pairId, iceServers}.",
            "expiresIn 300, expiresAt and pairId as in the token's claims, iceServers a list",
            "complete the answer of the token API",
        ],
        |site| Box::pin(answer(site)),
    )
    .needs(API),
    Rule::new(
        "token.ice-servers",
        [
            "iceServers are W3C RTCIceServer: urls, and username and credential where there is TURN.",
            "stun:, turn: and turns: URLs; TURN with username and credential",
            "look at the ICE servers that the token API adds",
        ],
        |site| Box::pin(ice_servers(site)),
    )
    .needs(API),
    Rule::new(
        "token.no-store",
        [
            "The answer is not cached.",
            "Cache-Control: no-store",
            "set the header on the route; a proxy or CDN may remove it",
        ],
        |site| Box::pin(no_store(site)),
    )
    .needs(API),
    Rule::new(
        "token.pair-id",
        [
            "A request may name the pair.",
            "with pairId, a token for that pair",
            "read `pairId` of the request",
        ],
        |site| Box::pin(named_pair(site)),
    )
    .needs(API),
    Rule::new(
        "token.401-no-login",
        [
            "Without a login token there is no signaling token.",
            "HTTP 401 {code, message} (production: any 4xx)",
            "check the login before anything else",
        ],
        |site| Box::pin(no_login(site)),
    )
    .production(),
    Rule::new(
        "token.401-bad-login",
        [
            "What is no login token is refused.",
            "HTTP 401 {code, message} (production: any 4xx)",
            "verify the login token",
        ],
        |site| Box::pin(bad_login(site)),
    )
    .production(),
    Rule::new(
        "token.401-forged-login",
        [
            "A login token that is not signed by the login service is refused.",
            "HTTP 401 for alg `none` and for a changed signature (production: any 4xx)",
            "verify the signature with the algorithm of the key, never with that of the token",
        ],
        |site| Box::pin(forged_login(site)),
    )
    .production(),
    Rule::new(
        "token.403-third-device",
        [
            "A device that is not in a pair of the user gets no token.",
            "HTTP 403 {code, message} (production: any 4xx)",
            "check the device against the active pairs of the user",
        ],
        |site| Box::pin(third_device(site)),
    )
    .production()
    .needs(API),
    Rule::new(
        "token.403-unknown-pair",
        [
            "There is no token for a pair that does not exist.",
            "HTTP 403 {code, message} (production: any 4xx)",
            "look the pair up before the token is signed",
        ],
        |site| Box::pin(unknown_pair(site)),
    )
    .production()
    .needs(API),
    Rule::new(
        "token.403-alike",
        [
            "One answer for `no such pair` and `not yours`: nobody learns which pairs exist.",
            "the same status and body for an unknown pair, another pair and a third device",
            "give both refusals one code and one message",
        ],
        |site| Box::pin(alike(site)),
    )
    .needs(API),
    Rule::new(
        "token.400-malformed",
        [
            "A request that is malformed is told so.",
            "HTTP 400 {code, message} for no JSON, no deviceId, a deviceId that is no text",
            "check the body before it is used",
        ],
        |site| Box::pin(malformed(site)),
    )
    .needs(API),
];

async fn given(site: &Site) -> Seen {
    for who in [Who::Phone, Who::Mac] {
        let token = site.new_token(who).await?;
        if Template::of(&token).is_none() {
            return broken("`token` is no compact JWS of JSON");
        }
    }
    Ok("HTTP 200 with a token for both".into())
}

async fn fetched(site: &Site, who: Who) -> Result<(Value, Template), Miss> {
    let answer = site.fetch(who).await?.json();
    let template = answer["token"].as_str().and_then(Template::of);
    let template =
        template.ok_or_else(|| Miss::Broken("there is no token in the answer".into()))?;
    Ok((answer, template))
}

async fn claims(site: &Site) -> Seen {
    let mut pairs = Vec::new();
    let mut longest = 0;
    for who in [Who::Phone, Who::Mac] {
        let asked_at = unix_now();
        let (_, template) = fetched(site, who).await?;
        let claims = &template.claims;
        if claims["sub"] != site.id(who) {
            return broken("`sub` is not the deviceId that was asked for");
        }
        let Some(pair) = claims["pairId"].as_str().filter(|pair| !pair.is_empty()) else {
            return broken("there is no `pairId`");
        };
        if site.config.pair.as_ref().is_some_and(|wanted| wanted.as_str() != pair) {
            return broken("`pairId` is not the pair that was asked for");
        }
        pairs.push(pair.to_owned());
        let Some(exp) = claims["exp"].as_u64() else {
            return broken("`exp` is no number of seconds");
        };
        let issued = claims["iat"].as_u64().unwrap_or(asked_at + LEEWAY_S);
        let latest = issued.saturating_add(MAX_LIFETIME_S);
        if exp > latest {
            return broken(format!("the token lives {} s too long", exp - latest));
        }
        if exp.saturating_add(LEEWAY_S) < asked_at {
            return broken("the token is over already: compare the clocks");
        }
        longest = longest.max(exp.saturating_sub(asked_at));
    }
    if pairs[0] != pairs[1] {
        return broken("phone and Mac got tokens for different pairs");
    }
    Ok(format!("sub, pairId and exp, {longest} s ahead"))
}

async fn other_claims(site: &Site) -> Seen {
    let (_, first) = fetched(site, Who::Phone).await?;
    let (_, second) = fetched(site, Who::Phone).await?;
    let claims = &first.claims;
    if !claims["iat"].is_u64() {
        return broken("there is no `iat`");
    }
    if !claims["jti"].is_string() || claims["jti"] == second.claims["jti"] {
        return broken("there is no `jti`, or two tokens have the same");
    }
    if !first.header["kid"].is_string() {
        return broken("the header has no `kid`");
    }
    let named = |value: &Value, name: &str| match value {
        Value::Array(all) => all.iter().any(|one| one == name),
        one => one == name,
    };
    for (claim, wanted) in [("iss", &site.config.issuer), ("aud", &site.config.audience)] {
        if let Some(wanted) = wanted
            && !named(&claims[claim], wanted)
        {
            return broken(format!("`{claim}` does not name `{wanted}`"));
        }
    }
    Ok("iat, jti, kid".into())
}

async fn answer(site: &Site) -> Seen {
    let (answer, template) = fetched(site, Who::Phone).await?;
    if answer["expiresIn"] != MAX_LIFETIME_S {
        return broken(format!("expiresIn is {}", answer["expiresIn"]));
    }
    let exp = template.claims["exp"].as_i64().unwrap_or_default();
    let at = answer["expiresAt"].as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    if at.is_none_or(|at| at.as_second() != exp) {
        return broken("expiresAt is not the time of `exp`, RFC 3339");
    }
    if answer["pairId"] != template.claims["pairId"] {
        return broken("pairId is not the token's");
    }
    if !answer["iceServers"].is_array() {
        return broken("iceServers is no list");
    }
    Ok("all five fields".into())
}

async fn ice_servers(site: &Site) -> Seen {
    let (answer, _) = fetched(site, Who::Phone).await?;
    let servers = answer["iceServers"].as_array().cloned().unwrap_or_default();
    let (mut stun, mut turn) = (0, 0);
    for server in &servers {
        let urls: Vec<&str> = match &server["urls"] {
            Value::String(one) => vec![one],
            Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        if urls.is_empty() {
            return broken("a server has no urls");
        }
        for url in urls {
            match url.split(':').next() {
                Some("stun" | "stuns") => stun += 1,
                Some("turn" | "turns") => {
                    turn += 1;
                    if !["username", "credential"].iter().all(|key| server[*key].is_string()) {
                        return broken("a TURN server comes without username or credential");
                    }
                }
                _ => return broken("a URL is neither stun: nor turn: nor turns:"),
            }
        }
    }
    Ok(format!("{stun} STUN and {turn} TURN URLs"))
}

async fn no_store(site: &Site) -> Seen {
    let answer = site.fetch(Who::Phone).await?;
    match answer.header("cache-control") {
        Some(value) if value.to_ascii_lowercase().contains("no-store") => Ok(value.to_owned()),
        Some(value) => broken(format!("Cache-Control: {value}")),
        None => broken("no Cache-Control"),
    }
}

async fn named_pair(site: &Site) -> Seen {
    let pair = site.pair().await?;
    let body = json!({"deviceId": site.id(Who::Phone), "pairId": pair}).to_string();
    let answer = site.ask_politely(Some(&site.login(Who::Phone)?), &body).await?;
    let template = answer.json()["token"].as_str().and_then(Template::of);
    match template {
        Some(template) if template.claims["pairId"] == pair => Ok("a token for that pair".into()),
        Some(_) => broken("a token for another pair"),
        None => broken(answer.summary()),
    }
}

async fn no_login(site: &Site) -> Seen {
    let body = site.token_request(Who::Phone).to_string();
    site.no_token(&site.ask_politely(None, &body).await?, 401)
}

async fn bad_login(site: &Site) -> Seen {
    let body = site.token_request(Who::Phone).to_string();
    let mut seen = String::new();
    for login in ["orion-check-is-no-login", "a.b.c", "e30.e30.e30"] {
        seen = site.no_token(&site.ask_politely(Some(login), &body).await?, 401)?;
    }
    Ok(seen)
}

async fn forged_login(site: &Site) -> Seen {
    let body = site.token_request(Who::Phone).to_string();
    let real = site.login(Who::Phone).ok();
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
        seen = site.no_token(&site.ask_politely(Some(login), &body).await?, 401)?;
    }
    Ok(seen)
}

async fn refused_for(site: &Site, body: &Value) -> Seen {
    let answer = site.ask_politely(Some(&site.login(Who::Phone)?), &body.to_string()).await?;
    site.no_token(&answer, 403)
}

async fn third_device(site: &Site) -> Seen {
    let third = site.mark();
    refused_for(site, &json!({"deviceId": third})).await?;
    refused_for(site, &json!({"deviceId": third, "pairId": site.pair().await?})).await
}

async fn unknown_pair(site: &Site) -> Seen {
    let pair = uuid::Uuid::new_v4().to_string();
    refused_for(site, &json!({"deviceId": site.id(Who::Phone), "pairId": pair})).await
}

async fn alike(site: &Site) -> Seen {
    let login = site.login(Who::Phone)?;
    let unknown = uuid::Uuid::new_v4().to_string();
    let mut bodies = vec![
        json!({"deviceId": site.id(Who::Phone), "pairId": unknown}),
        json!({"deviceId": site.mark(), "pairId": site.pair().await?}),
    ];
    if let Some(other) = &site.config.other {
        bodies.push(json!({"deviceId": site.id(Who::Phone), "pairId": other.pair}));
    }
    let mut first = None;
    for body in bodies {
        let answer = site.ask_politely(Some(&login), &body.to_string()).await?;
        let told = (answer.status, answer.body.clone());
        if *first.get_or_insert_with(|| told.clone()) != told {
            return broken(format!("{} for one, another answer for the other", answer.summary()));
        }
    }
    Ok("the same answer to all".into())
}

async fn malformed(site: &Site) -> Seen {
    let login = site.login(Who::Phone)?;
    let mut seen = String::new();
    for body in ["", "{", "[]", "{}", r#"{"deviceId":7}"#, r#"{"deviceId":""}"#] {
        let answer = site.ask_politely(Some(&login), body).await?;
        seen = site.no_token(&answer, 400)?;
    }
    Ok(seen)
}
