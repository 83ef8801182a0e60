//! Input that no app sends but any client can: identifiers that a store cannot hold, host names
//! that merely resolve to this server, huge numbers, floods of frames, duplicate keys. Such input
//! is rejected and does not affect other clients.

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use super::signal::{leave, offer_text, reaches, sdp};
use crate::{
    auth::login::DEV_TOKEN,
    check::{
        finding::{CaseError, Finding, violation},
        level::Need,
        rule::{Rule, Schedule},
        server::{HandshakeAttempt, Party, ServerUnderTest},
        wire::{Answer, is_secure},
    },
    proto::signaling::close,
    types::is_loopback,
};

/// A name that never resolves (RFC 6761 §6.4).
const FOREIGN_HOST: &str = "orion-check.invalid";

/// Fragments in one burst that must exceed the limit.
const MANY_FRAGMENTS: usize = 600;

/// Maximum number of attempts for a rate-limited request.
const TRIES: u32 = 6;

/// The rules.
pub const RULES: &[Rule] = &[
    Rule::new(
        "token.400-control",
        [
            "An identifier that the store cannot hold is rejected as malformed, without affecting other requests.",
            "HTTP 400 for a NUL in deviceId or pairId, and HTTP 200 for the next valid request",
            "validate identifiers before querying the store; an error about a value (SQLSTATE \
             classes 22 and 23) is not an outage",
        ],
        |server| Box::pin(control_characters(server)),
    )
    .production()
    .schedule(Schedule::Exclusive)
    .needs(&[Need::TokenApi]),
    Rule::new(
        "handshake.421-host",
        [
            "A dev server accepts only requests for this machine's own names.",
            "HTTP 421 or 403 for another Host, from the token API and before the upgrade (not run \
             against other servers)",
            "compare Host with localhost and the loopback addresses, to prevent DNS rebinding",
        ],
        |server| Box::pin(foreign_host(server)),
    )
    .schedule(Schedule::Room),
    Rule::new(
        "signal.large-numbers",
        [
            "Numbers in messages may have any value.",
            "18446744073709551615 in an unknown field is relayed; the sockets stay open",
            "use checked arithmetic on numbers from clients",
        ],
        |server| Box::pin(large_numbers(server)),
    )
    .schedule(Schedule::Room),
    Rule::new(
        "signal.duplicate-keys",
        [
            "A message with a duplicate key is not relayed: two parsers may read it differently.",
            "nothing at the other device, and the next valid message arrives",
            "reject duplicate keys when parsing messages, because the text is relayed unchanged",
        ],
        |server| Box::pin(duplicate_keys(server)),
    )
    .schedule(Schedule::Room),
    Rule::new(
        "close.4004-fragments",
        [
            "Fragments of a message count against the flood limit.",
            "close code 4004 within a burst of 600 empty continuation frames",
            "count frames, not only complete messages",
        ],
        |server| Box::pin(fragments(server)),
    )
    .schedule(Schedule::Exclusive),
];

/// Sends one request; retries when rate-limited, but not when the server is down.
async fn request_token(
    server: &ServerUnderTest,
    login: &str,
    body: &str,
) -> Result<Answer, CaseError> {
    let mut tries = 1;
    loop {
        let answer = server.request_token(Some(login), body).await?;
        match answer.retry_after().filter(|_| answer.status == 429 && tries < TRIES) {
            Some(seconds) => sleep(Duration::from_secs(seconds.clamp(1, 10))).await,
            None => return Ok(answer),
        }
        tries += 1;
    }
}

async fn control_characters(server: &ServerUnderTest) -> Finding {
    let login = server.login(Party::Phone)?;
    let good = server.token_request_body(Party::Phone).to_string();
    let mut seen = String::new();
    for bad in [
        json!({"deviceId": "a\u{0}b"}),
        json!({"deviceId": server.id(Party::Phone), "pairId": "a\u{0}b"}),
    ] {
        seen =
            server.expect_no_token(&request_token(server, &login, &bad.to_string()).await?, 400)?;
        let after = request_token(server, &login, &good).await?;
        if after.status != 200 {
            return violation(format!("{} for the next valid request", after.summary()));
        }
    }
    Ok(seen)
}

fn is_rejection(answer: &Answer) -> bool {
    matches!(answer.status, 403 | 421)
}

async fn foreign_host(server: &ServerUnderTest) -> Finding {
    let not_run = |why: &str| Err(CaseError::NotRun(why.to_owned()));
    let config = &server.config;
    if !is_loopback(&config.signal) || !is_loopback(&config.token_url) {
        return not_run("the server is not on this machine");
    }
    if is_secure(&config.signal) || is_secure(&config.token_url) {
        return not_run("with TLS, the certificate determines the server's names");
    }
    let body = server.token_request_body(Party::Phone).to_string();
    if request_token(server, DEV_TOKEN, &body).await?.status != 200 {
        return not_run("not a dev server: it does not accept the login token `dev`");
    }
    let answer = server.request_token_as(Some(DEV_TOKEN), &body, Some(FOREIGN_HOST)).await?;
    if !is_rejection(&answer) {
        return violation(format!("the token API: {}", answer.summary()));
    }
    let token = server.token(Party::Phone).await?;
    let attempt = HandshakeAttempt { host: Some(FOREIGN_HOST), ..HandshakeAttempt::with(token) };
    let answer = server.handshake_and_close(&attempt).await?;
    if is_rejection(&answer) { Ok(answer.summary()) } else { violation(answer.summary()) }
}

async fn large_numbers(server: &ServerUnderTest) -> Finding {
    let (mut phone, mut mac) = server.both().await?;
    let pair = server.pair().await?;
    let quoted = json!(pair).to_string();
    let text = format!(
        r#"{{"t":"offer","pairId":{quoted},"sdp":"v=0","a":18446744073709551615,"b":-9223372036854775808}}"#
    );
    reaches(&mut phone, &mut mac, &text).await?;
    // In a field that has a meaning, the server may reject the number or leave that to the
    // receiver.
    let index = format!(
        r#"{{"t":"ice","pairId":{quoted},"candidate":{{"candidate":"","sdpMLineIndex":18446744073709551615}}}}"#
    );
    phone.send(&index).await?;
    let mark = server.unique_text();
    phone.send(&offer_text(&pair, &mark)).await?;
    let mut received = mac.relayed_json().await?;
    if received["t"] == "ice" {
        received = mac.relayed_json().await?;
    }
    leave(phone, mac).await;
    if received["sdp"] == sdp(&mark) {
        Ok("relayed, sockets open".into())
    } else {
        violation("the next valid message did not arrive")
    }
}

async fn duplicate_keys(server: &ServerUnderTest) -> Finding {
    let (mut phone, mut mac) = server.both().await?;
    let pair = server.pair().await?;
    let quoted = json!(pair).to_string();
    for bad in [
        format!(r#"{{"t":"offer","pairId":{quoted},"sdp":"v=0","sdp":"v=1"}}"#),
        format!(r#"{{"t":"offer","t":"bye","pairId":{quoted},"sdp":"v=0"}}"#),
    ] {
        phone.send(&bad).await?;
    }
    let mark = server.unique_text();
    phone.send(&offer_text(&pair, &mark)).await?;
    let received = mac.relayed_json().await?;
    leave(phone, mac).await;
    if received["sdp"] == sdp(&mark) {
        Ok("not relayed".into())
    } else {
        violation("a message with a duplicate key was relayed")
    }
}

async fn fragments(server: &ServerUnderTest) -> Finding {
    /// A text frame and a continuation frame, both without FIN (RFC 6455 §5.2).
    const BEGIN: u8 = 0x01;
    const CONTINUE: u8 = 0x00;
    let mut phone = server.join(Party::Phone).await?;
    phone.send_raw(BEGIN, b"").await?;
    for _ in 0..MANY_FRAGMENTS {
        if phone.send_raw(CONTINUE, b"").await.is_err() {
            break;
        }
    }
    phone.closed_with(close::RATE_LIMITED, server.config.timeouts.answer).await
}
