//! The message schema beyond the production contract: relaying, rejections, and token renewal.

use serde_json::json;

use super::signal::{leave, offer_text, reaches, sdp};
use crate::{
    check::{
        finding::{CaseError, Finding, violation},
        forge::Template,
        rule::{Rule, Schedule},
        server::{Party, ServerUnderTest},
        socket::Socket,
    },
    proto::signaling::{MAX_MESSAGE_BYTES, fingerprint_digest},
};

const fn in_room(rule: Rule) -> Rule {
    rule.schedule(Schedule::Room)
}

/// The rules.
pub const RULES: &[Rule] = &[
    in_room(Rule::new(
        "signal.unchanged",
        [
            "The sender's text is relayed unchanged.",
            "byte-identical text, including spaces, escapes and unknown fields",
            "relay the received text; do not serialize the message again",
        ],
        |server| Box::pin(unchanged(server)),
    )),
    in_room(Rule::new(
        "signal.bye",
        [
            "bye is relayed, with or without a reason.",
            "bye at the other device",
            "relay `bye` like offer, answer and ice",
        ],
        |server| Box::pin(bye(server)),
    )),
    in_room(Rule::new(
        "signal.state",
        [
            "state is relayed if the server's hello lists it.",
            "state at the other device (not run when hello does not list it in `relays`)",
            "relay `state` like bye, or do not list it",
        ],
        |server| Box::pin(state(server)),
    )),
    in_room(Rule::new(
        "signal.candidate-before-offer",
        [
            "A candidate before the offer is relayed in order: the client buffers it.",
            "the candidate, then the offer",
            "do not track the negotiation in the server",
        ],
        |server| Box::pin(candidate_first(server)),
    )),
    in_room(Rule::new(
        "signal.64-kib",
        [
            "A message of 64 KiB is relayed.",
            "all 65536 bytes at the other device",
            "raise the message size limit in the server and in the proxy in front of it",
        ],
        |server| Box::pin(largest(server)),
    )),
    in_room(Rule::new(
        "signal.malformed",
        [
            "Messages that violate the schema are answered with `error` and not relayed; the socket stays open.",
            "error {code, message} for invalid JSON, an offer without sdp and ice without candidate",
            "validate every message before relaying it",
        ],
        |server| Box::pin(malformed(server)),
    )),
    in_room(Rule::new(
        "signal.unknown-type",
        [
            "An unknown `t` from a client is answered with `error` and not relayed.",
            "error {code, message}, nothing at the other device",
            "relay offer, answer, ice and bye only",
        ],
        |server| Box::pin(unknown_type(server)),
    )),
    in_room(Rule::new(
        "signal.server-only",
        [
            "Messages that only the server may send are rejected when a client sends them.",
            "error for hello, peer-joined and peer-left; nothing at the other device",
            "relay offer, answer, ice and bye only",
        ],
        |server| Box::pin(server_only(server)),
    )),
    in_room(Rule::new(
        "signal.auth",
        [
            "auth with a new token extends a live socket.",
            "auth-ok with the exp of the new token",
            "verify the token in `auth`, and answer with auth-ok",
        ],
        |server| Box::pin(auth(server)),
    )),
    in_room(Rule::new(
        "signal.auth-not-relayed",
        [
            "The token in auth is never relayed to the other device.",
            "nothing at the other device",
            "never relay `auth`",
        ],
        |server| Box::pin(auth_not_relayed(server)),
    )),
    in_room(Rule::new(
        "close.4500-bad-token",
        [
            "auth with an invalid token or a token of another device closes the socket.",
            "close code 4500 for both",
            "compare sub and pairId of the new token with the socket's",
        ],
        |server| Box::pin(bad_auth(server)),
    )),
];

async fn same_text(from: &mut Socket, to: &mut Socket, text: &str) -> Result<(), CaseError> {
    from.send(text).await?;
    if to.relayed().await? == text {
        Ok(())
    } else {
        violation("the relayed text differs from the sent one")
    }
}

async fn unchanged(server: &ServerUnderTest) -> Finding {
    let (mut phone, mut mac) = server.both().await?;
    let pair = json!(server.pair().await?).to_string();
    let offer = format!(
        "{{ \"sdp\" : \"v=0\\r\\n\\u00e9\\/é\", \"x\":[1.50,{{}}],\"pairId\":{pair} ,\"t\":\"offer\"}}"
    );
    same_text(&mut phone, &mut mac, &offer).await?;
    let ice = format!(
        "{{\"t\":\"ice\",\"pairId\":{pair},\"candidate\":{{\"candidate\":\"candidate:1 1 udp 1 192.0.2.1 9 typ host\", \"later\":true,\"sdpMid\":\"0\"}}}}"
    );
    same_text(&mut mac, &mut phone, &ice).await?;
    leave(phone, mac).await;
    Ok("byte-identical".into())
}

async fn bye(server: &ServerUnderTest) -> Finding {
    let (mut phone, mut mac) = server.both().await?;
    let pair = server.pair().await?;
    let texts = [
        json!({"t": "bye", "pairId": pair}),
        json!({"t": "bye", "pairId": pair, "reason": "check"}),
    ];
    for text in texts {
        phone.send(&text.to_string()).await?;
        if mac.relayed_json().await? != text {
            return violation("bye differs from what was sent");
        }
    }
    leave(phone, mac).await;
    Ok("received".into())
}

async fn state(server: &ServerUnderTest) -> Finding {
    let (mut phone, mut mac) = server.both().await?;
    let hello = phone.take_server_message("hello").unwrap_or_default();
    if !hello["relays"].as_array().is_some_and(|relays| relays.iter().any(|t| t == "state")) {
        leave(phone, mac).await;
        return Err(CaseError::NotRun("`hello` does not list `state` in `relays`".into()));
    }
    let pair = server.pair().await?;
    let fingerprint = fingerprint_digest("sha-256 AB:CD");
    let texts = [
        json!({"t": "state", "pairId": pair, "connection": "new"}),
        json!({"t": "state", "pairId": pair, "connection": "alive", "fingerprint": fingerprint}),
    ];
    for text in texts {
        phone.send(&text.to_string()).await?;
        if mac.relayed_json().await? != text {
            return violation("state differs from what was sent");
        }
    }
    leave(phone, mac).await;
    Ok("received".into())
}

async fn candidate_first(server: &ServerUnderTest) -> Finding {
    let (mut phone, mut mac) = server.both().await?;
    let pair = server.pair().await?;
    reaches(&mut phone, &mut mac, &super::signal::candidate_text(&pair, 1)).await?;
    reaches(&mut phone, &mut mac, &offer_text(&pair, &server.unique_text())).await?;
    leave(phone, mac).await;
    Ok("in order".into())
}

/// An offer of exactly this many bytes.
pub(super) fn offer_of(pair: &str, bytes: usize) -> String {
    let empty = offer_text(pair, "");
    offer_text(pair, &"x".repeat(bytes.saturating_sub(empty.len())))
}

async fn largest(server: &ServerUnderTest) -> Finding {
    let (mut phone, mut mac) = server.both().await?;
    let text = offer_of(&server.pair().await?, MAX_MESSAGE_BYTES);
    same_text(&mut phone, &mut mac, &text).await?;
    leave(phone, mac).await;
    Ok(format!("{} bytes received", text.len()))
}

/// Sends invalid messages; expects an `error` for each, and only the next valid message to be
/// relayed.
async fn answered_with_error(server: &ServerUnderTest, bad: &[String]) -> Finding {
    let (mut phone, mut mac) = server.both().await?;
    let mut codes = Vec::new();
    for text in bad {
        phone.send(text).await?;
        let error = phone.server_message("error").await?;
        if !error["code"].is_string() || !error["message"].is_string() {
            return violation("`error` without code or message");
        }
        codes.push(error["code"].as_str().unwrap_or_default().to_owned());
    }
    let good = offer_text(&server.pair().await?, &server.unique_text());
    phone.send(&good).await?;
    if mac.relayed().await? != good {
        return violation("an invalid message was relayed");
    }
    let spoofed = mac.has_server_message("peer-left") || mac.has_server_message("peer-joined");
    leave(phone, mac).await;
    if spoofed {
        violation("a message only the server may send was relayed")
    } else {
        Ok(codes.join(", "))
    }
}

async fn malformed(server: &ServerUnderTest) -> Finding {
    let pair = server.pair().await?;
    let bad = [
        "{".to_owned(),
        json!({"t": "offer", "pairId": pair}).to_string(),
        json!({"t": "ice", "pairId": pair}).to_string(),
    ];
    answered_with_error(server, &bad).await
}

async fn unknown_type(server: &ServerUnderTest) -> Finding {
    let text = json!({"t": "orion-check", "pairId": server.pair().await?, "sdp": sdp("x")});
    let (mut phone, mut mac) = server.both().await?;
    phone.send(&text.to_string()).await?;
    phone.server_message("error").await?;
    mac.read_for(server.config.timeouts.quiet).await;
    let relayed = mac.has_server_message("orion-check");
    leave(phone, mac).await;
    if relayed { violation("relayed") } else { Ok("error, not relayed".into()) }
}

async fn server_only(server: &ServerUnderTest) -> Finding {
    let (pair, phone) = (server.pair().await?, server.id(Party::Phone));
    let bad = [
        json!({"t": "peer-left", "pairId": pair, "deviceId": phone, "reason": "closed"}),
        json!({"t": "peer-joined", "pairId": pair, "deviceId": phone, "connId": "c"}),
        json!({"t": "hello", "pairId": pair, "connId": "c", "deviceId": phone, "polite": true,
            "peerPresent": true, "exp": 1}),
    ];
    answered_with_error(server, &bad.map(|message| message.to_string())).await
}

async fn auth_text(server: &ServerUnderTest, token: &str) -> Result<String, CaseError> {
    Ok(json!({"t": "auth", "pairId": server.pair().await?, "token": token}).to_string())
}

async fn auth(server: &ServerUnderTest) -> Finding {
    let mut phone = server.join(Party::Phone).await?;
    let fresh = server.new_token(Party::Phone).await?;
    phone.send(&auth_text(server, &fresh).await?).await?;
    let ok = phone.server_message("auth-ok").await?;
    phone.close().await;
    let exp = Template::of(&fresh).map(|template| template.claims["exp"].clone());
    if Some(&ok["exp"]) == exp.as_ref() {
        Ok("auth-ok".into())
    } else {
        violation("auth-ok with an exp other than the new token's")
    }
}

async fn auth_not_relayed(server: &ServerUnderTest) -> Finding {
    let (mut phone, mut mac) = server.both().await?;
    let fresh = server.token(Party::Phone).await?;
    phone.send(&auth_text(server, &fresh).await?).await?;
    mac.read_for(server.config.timeouts.quiet).await;
    let relayed = mac.has_server_message("auth");
    leave(phone, mac).await;
    if relayed {
        violation("the token was relayed to the other device")
    } else {
        Ok("nothing".into())
    }
}

async fn bad_auth(server: &ServerUnderTest) -> Finding {
    let mut seen = String::new();
    for token in ["nonsense".to_owned(), server.token(Party::Mac).await?] {
        let mut phone = server.join(Party::Phone).await?;
        phone.send(&auth_text(server, &token).await?).await?;
        seen = phone.closed_with(4500, server.config.timeouts.answer).await?;
    }
    Ok(seen)
}
