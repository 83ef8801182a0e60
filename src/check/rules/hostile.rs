//! What no app sends, and anybody may: identifiers that no store holds, names that only lead here, numbers
//! and frames without measure, keys that stand twice. It is refused, and costs nobody else anything.

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use super::signal::{leave, offer_text, reaches, sdp};
use crate::{
    auth::login::DEV_TOKEN,
    check::{
        rule::{Lane, Miss, Need, Rule, Seen, broken},
        site::{Knock, Site, Who},
        wire::{Answer, is_secure},
    },
    proto::signaling::close,
    types::is_loopback,
};

/// A name that leads nowhere (RFC 6761 §6.4).
const FOREIGN_HOST: &str = "orion-check.invalid";

/// Fragments at once that must have been too many.
const MANY_FRAGMENTS: usize = 600;

/// How often a request is made again that came too soon after the last.
const TRIES: u32 = 6;

/// The rules.
pub const RULES: &[Rule] = &[
    Rule::new(
        "token.400-control",
        [
            "An identifier that no store can hold is malformed, and keeps nobody else out.",
            "HTTP 400 for a NUL in deviceId or pairId, and HTTP 200 for the next good request",
            "check identifiers before a store is asked; an error about a value (SQLSTATE 22 and 23) is \
             no outage",
        ],
        |site| Box::pin(control_characters(site)),
    )
    .production()
    .lane(Lane::Alone)
    .needs(&[Need::TokenApi]),
    Rule::new(
        "handshake.421-host",
        [
            "A development server answers to this machine's names only.",
            "HTTP 421 or 403 for another Host, by the token API and before the upgrade (not run \
             against other servers)",
            "compare Host with localhost and the loopback addresses: DNS rebinding leads any page here",
        ],
        |site| Box::pin(foreign_host(site)),
    )
    .lane(Lane::Room),
    Rule::new(
        "signal.large-numbers",
        [
            "A number in a message may be any.",
            "18446744073709551615 in a field that is not known is relayed; the sockets stay",
            "compute with checks on what clients send",
        ],
        |site| Box::pin(large_numbers(site)),
    )
    .lane(Lane::Room),
    Rule::new(
        "signal.duplicate-keys",
        [
            "A message with a key twice reaches nobody: two parsers may read two messages.",
            "nothing at the other device, and the next good message arrives",
            "refuse duplicate keys where messages are parsed, as the text is relayed unchanged",
        ],
        |site| Box::pin(duplicate_keys(site)),
    )
    .lane(Lane::Room),
    Rule::new(
        "close.4004-fragments",
        [
            "Fragments of a message count as a flood does.",
            "close code 4004 within 600 empty continuation frames at once",
            "count frames, not only the messages they make",
        ],
        |site| Box::pin(fragments(site)),
    )
    .lane(Lane::Alone),
];

/// One request; waits where the server asks for it because of the rate, and never because it is down.
async fn ask(site: &Site, login: &str, body: &str) -> Result<Answer, Miss> {
    let mut tries = 1;
    loop {
        let answer = site.ask(Some(login), body).await?;
        match answer.retry_after().filter(|_| answer.status == 429 && tries < TRIES) {
            Some(seconds) => sleep(Duration::from_secs(seconds.clamp(1, 10))).await,
            None => return Ok(answer),
        }
        tries += 1;
    }
}

async fn control_characters(site: &Site) -> Seen {
    let login = site.login(Who::Phone)?;
    let good = site.token_request(Who::Phone).to_string();
    let mut seen = String::new();
    for bad in [
        json!({"deviceId": "a\u{0}b"}),
        json!({"deviceId": site.id(Who::Phone), "pairId": "a\u{0}b"}),
    ] {
        seen = site.no_token(&ask(site, &login, &bad.to_string()).await?, 400)?;
        let after = ask(site, &login, &good).await?;
        if after.status != 200 {
            return broken(format!("{} for a good request after it", after.summary()));
        }
    }
    Ok(seen)
}

fn is_refusal(answer: &Answer) -> bool {
    matches!(answer.status, 403 | 421)
}

async fn foreign_host(site: &Site) -> Seen {
    let not_run = |why: &str| Err(Miss::NotRun(why.to_owned()));
    let config = &site.config;
    if !is_loopback(&config.signal) || !is_loopback(&config.token_url) {
        return not_run("the server is not on this machine");
    }
    if is_secure(&config.signal) || is_secure(&config.token_url) {
        return not_run("with TLS the certificate says which names are the server's");
    }
    let body = site.token_request(Who::Phone).to_string();
    if ask(site, DEV_TOKEN, &body).await?.status != 200 {
        return not_run("not a development server: it does not take the login token `dev`");
    }
    let answer = site.ask_as(Some(DEV_TOKEN), &body, Some(FOREIGN_HOST)).await?;
    if !is_refusal(&answer) {
        return broken(format!("the token API: {}", answer.summary()));
    }
    let token = site.token(Who::Phone).await?;
    let knock = Knock { host: Some(FOREIGN_HOST), ..Knock::with(token) };
    let answer = site.knock_and_leave(&knock).await?;
    if is_refusal(&answer) { Ok(answer.summary()) } else { broken(answer.summary()) }
}

async fn large_numbers(site: &Site) -> Seen {
    let (mut phone, mut mac) = site.both().await?;
    let pair = site.pair().await?;
    let quoted = json!(pair).to_string();
    let text = format!(
        r#"{{"t":"offer","pairId":{quoted},"sdp":"v=0","a":18446744073709551615,"b":-9223372036854775808}}"#
    );
    reaches(&mut phone, &mut mac, &text).await?;
    // Where the number has a meaning it may be refused, or be the receiver's to refuse.
    let index = format!(
        r#"{{"t":"ice","pairId":{quoted},"candidate":{{"candidate":"","sdpMLineIndex":18446744073709551615}}}}"#
    );
    phone.send(&index).await?;
    let mark = site.mark();
    phone.send(&offer_text(&pair, &mark)).await?;
    let mut came = mac.relayed_json().await?;
    if came["t"] == "ice" {
        came = mac.relayed_json().await?;
    }
    leave(phone, mac).await;
    if came["sdp"] == sdp(&mark) {
        Ok("relayed, and the sockets stay".into())
    } else {
        broken("the next good message did not come")
    }
}

async fn duplicate_keys(site: &Site) -> Seen {
    let (mut phone, mut mac) = site.both().await?;
    let pair = site.pair().await?;
    let quoted = json!(pair).to_string();
    for bad in [
        format!(r#"{{"t":"offer","pairId":{quoted},"sdp":"v=0","sdp":"v=1"}}"#),
        format!(r#"{{"t":"offer","t":"bye","pairId":{quoted},"sdp":"v=0"}}"#),
    ] {
        phone.send(&bad).await?;
    }
    let mark = site.mark();
    phone.send(&offer_text(&pair, &mark)).await?;
    let came = mac.relayed_json().await?;
    leave(phone, mac).await;
    if came["sdp"] == sdp(&mark) {
        Ok("not relayed".into())
    } else {
        broken("a message with a key twice was relayed")
    }
}

async fn fragments(site: &Site) -> Seen {
    /// A text frame without FIN, and a continuation frame without (RFC 6455 §5.2).
    const BEGIN: u8 = 0x01;
    const CONTINUE: u8 = 0x00;
    let mut phone = site.join(Who::Phone).await?;
    phone.send_raw(BEGIN, b"").await?;
    for _ in 0..MANY_FRAGMENTS {
        if phone.send_raw(CONTINUE, b"").await.is_err() {
            break;
        }
    }
    phone.closed_with(close::RATE_LIMITED, site.config.patience.answer).await
}
