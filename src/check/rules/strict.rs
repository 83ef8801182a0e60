//! Messages to the letter: what is relayed besides the bold fields, what is refused, and how a token is
//! renewed.

use serde_json::json;

use super::signal::{leave, offer_text, reaches, sdp};
use crate::{
    check::{
        forge::Template,
        rule::{Lane, Miss, Rule, Seen, broken},
        site::{Site, Who},
        socket::Socket,
    },
    proto::signaling::{MAX_MESSAGE_BYTES, fingerprint_digest},
};

const fn in_room(rule: Rule) -> Rule {
    rule.lane(Lane::Room)
}

/// The rules.
pub const RULES: &[Rule] = &[
    in_room(Rule::new(
        "signal.unchanged",
        [
            "The sender's text is relayed unchanged.",
            "the same text, letter by letter: spaces, escapes, unknown fields",
            "relay the text that came, not what was made of it",
        ],
        |site| Box::pin(unchanged(site)),
    )),
    in_room(Rule::new(
        "signal.bye",
        [
            "bye is relayed, with or without a reason.",
            "bye at the other device",
            "relay `bye` as offer, answer and ice are",
        ],
        |site| Box::pin(bye(site)),
    )),
    in_room(Rule::new(
        "signal.state",
        [
            "state is relayed by a server whose hello lists it.",
            "state at the other device (not run when hello does not list it in `relays`)",
            "relay `state` as bye is, or do not list it",
        ],
        |site| Box::pin(state(site)),
    )),
    in_room(Rule::new(
        "signal.candidate-before-offer",
        [
            "A candidate before the offer is relayed in order: the client buffers it.",
            "the candidate, then the offer",
            "keep no state of the negotiation in the server",
        ],
        |site| Box::pin(candidate_first(site)),
    )),
    in_room(Rule::new(
        "signal.64-kib",
        [
            "A message of 64 KiB is relayed.",
            "all 65536 bytes at the other device",
            "raise the limit of messages in the server and the proxy before it",
        ],
        |site| Box::pin(largest(site)),
    )),
    in_room(Rule::new(
        "signal.malformed",
        [
            "What breaks the schema is answered with `error` and not relayed; the socket stays.",
            "error {code, message} for no JSON, an offer without sdp, ice without candidate",
            "check every message before it is relayed",
        ],
        |site| Box::pin(malformed(site)),
    )),
    in_room(Rule::new(
        "signal.unknown-type",
        [
            "An unknown `t` from a client is answered with `error` and not relayed.",
            "error {code, message}, nothing at the other device",
            "relay offer, answer, ice and bye only",
        ],
        |site| Box::pin(unknown_type(site)),
    )),
    in_room(Rule::new(
        "signal.server-only",
        [
            "What only the server says is refused from a client.",
            "error for hello, peer-joined and peer-left; nothing at the other device",
            "relay offer, answer, ice and bye only",
        ],
        |site| Box::pin(server_only(site)),
    )),
    in_room(Rule::new(
        "signal.auth",
        [
            "auth with a fresh token renews a live socket.",
            "auth-ok with the exp of the fresh token",
            "verify the token of `auth`, and answer with auth-ok",
        ],
        |site| Box::pin(auth(site)),
    )),
    in_room(Rule::new(
        "signal.auth-not-relayed",
        [
            "The token of auth is for the server alone.",
            "nothing at the other device",
            "never relay `auth`",
        ],
        |site| Box::pin(auth_not_relayed(site)),
    )),
    in_room(Rule::new(
        "close.4500-bad-token",
        [
            "auth with a bad token, or one of another device, ends the socket.",
            "close code 4500 for both",
            "compare sub and pairId of the fresh token with the socket's",
        ],
        |site| Box::pin(bad_auth(site)),
    )),
];

async fn same_text(from: &mut Socket, to: &mut Socket, text: &str) -> Result<(), Miss> {
    from.send(text).await?;
    if to.relayed().await? == text { Ok(()) } else { broken("the text was changed on its way") }
}

async fn unchanged(site: &Site) -> Seen {
    let (mut phone, mut mac) = site.both().await?;
    let pair = json!(site.pair().await?).to_string();
    let offer = format!(
        "{{ \"sdp\" : \"v=0\\r\\n\\u00e9\\/é\", \"x\":[1.50,{{}}],\"pairId\":{pair} ,\"t\":\"offer\"}}"
    );
    same_text(&mut phone, &mut mac, &offer).await?;
    let ice = format!(
        "{{\"t\":\"ice\",\"pairId\":{pair},\"candidate\":{{\"candidate\":\"candidate:1 1 udp 1 192.0.2.1 9 typ host\", \"later\":true,\"sdpMid\":\"0\"}}}}"
    );
    same_text(&mut mac, &mut phone, &ice).await?;
    leave(phone, mac).await;
    Ok("letter by letter".into())
}

async fn bye(site: &Site) -> Seen {
    let (mut phone, mut mac) = site.both().await?;
    let pair = site.pair().await?;
    let texts = [
        json!({"t": "bye", "pairId": pair}),
        json!({"t": "bye", "pairId": pair, "reason": "check"}),
    ];
    for text in texts {
        phone.send(&text.to_string()).await?;
        if mac.relayed_json().await? != text {
            return broken("bye is not what was sent");
        }
    }
    leave(phone, mac).await;
    Ok("it came".into())
}

async fn state(site: &Site) -> Seen {
    let (mut phone, mut mac) = site.both().await?;
    let hello = phone.take_notice("hello").unwrap_or_default();
    if !hello["relays"].as_array().is_some_and(|relays| relays.iter().any(|t| t == "state")) {
        leave(phone, mac).await;
        return Err(Miss::NotRun("`hello` does not list `state` in `relays`".into()));
    }
    let pair = site.pair().await?;
    let fingerprint = fingerprint_digest("sha-256 AB:CD");
    let texts = [
        json!({"t": "state", "pairId": pair, "connection": "new"}),
        json!({"t": "state", "pairId": pair, "connection": "alive", "fingerprint": fingerprint}),
    ];
    for text in texts {
        phone.send(&text.to_string()).await?;
        if mac.relayed_json().await? != text {
            return broken("state is not what was sent");
        }
    }
    leave(phone, mac).await;
    Ok("it came".into())
}

async fn candidate_first(site: &Site) -> Seen {
    let (mut phone, mut mac) = site.both().await?;
    let pair = site.pair().await?;
    reaches(&mut phone, &mut mac, &super::signal::candidate_text(&pair, 1)).await?;
    reaches(&mut phone, &mut mac, &offer_text(&pair, &site.mark())).await?;
    leave(phone, mac).await;
    Ok("in order".into())
}

/// An offer of exactly this many bytes.
pub(super) fn offer_of(pair: &str, bytes: usize) -> String {
    let empty = offer_text(pair, "");
    offer_text(pair, &"x".repeat(bytes.saturating_sub(empty.len())))
}

async fn largest(site: &Site) -> Seen {
    let (mut phone, mut mac) = site.both().await?;
    let text = offer_of(&site.pair().await?, MAX_MESSAGE_BYTES);
    same_text(&mut phone, &mut mac, &text).await?;
    leave(phone, mac).await;
    Ok(format!("{} bytes came", text.len()))
}

/// Sends bad messages, sees an `error` for each, and that the next good one is the first to arrive.
async fn answered_with_error(site: &Site, bad: &[String]) -> Seen {
    let (mut phone, mut mac) = site.both().await?;
    let mut codes = Vec::new();
    for text in bad {
        phone.send(text).await?;
        let error = phone.notice("error").await?;
        if !error["code"].is_string() || !error["message"].is_string() {
            return broken("`error` without code or message");
        }
        codes.push(error["code"].as_str().unwrap_or_default().to_owned());
    }
    let good = offer_text(&site.pair().await?, &site.mark());
    phone.send(&good).await?;
    if mac.relayed().await? != good {
        return broken("a bad message was relayed");
    }
    let spoofed = mac.has_notice("peer-left") || mac.has_notice("peer-joined");
    leave(phone, mac).await;
    if spoofed {
        broken("a message only the server may send was relayed")
    } else {
        Ok(codes.join(", "))
    }
}

async fn malformed(site: &Site) -> Seen {
    let pair = site.pair().await?;
    let bad = [
        "{".to_owned(),
        json!({"t": "offer", "pairId": pair}).to_string(),
        json!({"t": "ice", "pairId": pair}).to_string(),
    ];
    answered_with_error(site, &bad).await
}

async fn unknown_type(site: &Site) -> Seen {
    let text = json!({"t": "orion-check", "pairId": site.pair().await?, "sdp": sdp("x")});
    let (mut phone, mut mac) = site.both().await?;
    phone.send(&text.to_string()).await?;
    phone.notice("error").await?;
    mac.read_for(site.config.patience.quiet).await;
    let relayed = mac.has_notice("orion-check");
    leave(phone, mac).await;
    if relayed { broken("it was relayed") } else { Ok("error, and not relayed".into()) }
}

async fn server_only(site: &Site) -> Seen {
    let (pair, phone) = (site.pair().await?, site.id(Who::Phone));
    let bad = [
        json!({"t": "peer-left", "pairId": pair, "deviceId": phone, "reason": "closed"}),
        json!({"t": "peer-joined", "pairId": pair, "deviceId": phone, "connId": "c"}),
        json!({"t": "hello", "pairId": pair, "connId": "c", "deviceId": phone, "polite": true,
            "peerPresent": true, "exp": 1}),
    ];
    answered_with_error(site, &bad.map(|message| message.to_string())).await
}

async fn auth_text(site: &Site, token: &str) -> Result<String, Miss> {
    Ok(json!({"t": "auth", "pairId": site.pair().await?, "token": token}).to_string())
}

async fn auth(site: &Site) -> Seen {
    let mut phone = site.join(Who::Phone).await?;
    let fresh = site.new_token(Who::Phone).await?;
    phone.send(&auth_text(site, &fresh).await?).await?;
    let ok = phone.notice("auth-ok").await?;
    phone.close().await;
    let exp = Template::of(&fresh).map(|template| template.claims["exp"].clone());
    if Some(&ok["exp"]) == exp.as_ref() {
        Ok("auth-ok".into())
    } else {
        broken("auth-ok with another exp than the fresh token's")
    }
}

async fn auth_not_relayed(site: &Site) -> Seen {
    let (mut phone, mut mac) = site.both().await?;
    let fresh = site.token(Who::Phone).await?;
    phone.send(&auth_text(site, &fresh).await?).await?;
    mac.read_for(site.config.patience.quiet).await;
    let relayed = mac.has_notice("auth");
    leave(phone, mac).await;
    if relayed { broken("the token was relayed to the other device") } else { Ok("nothing".into()) }
}

async fn bad_auth(site: &Site) -> Seen {
    let mut seen = String::new();
    for token in ["nonsense".to_owned(), site.token(Who::Mac).await?] {
        let mut phone = site.join(Who::Phone).await?;
        phone.send(&auth_text(site, &token).await?).await?;
        seen = phone.closed_with(4500, site.config.patience.answer).await?;
    }
    Ok(seen)
}
