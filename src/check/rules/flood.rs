//! Rate limits: these cases flood the server, so they run late and alone.

use std::time::Duration;

use super::{
    schema::offer_of,
    signal::{candidate_text, leave, offer_text},
};
use crate::{
    check::{
        finding::{CaseError, Finding, violation},
        level::Need,
        rule::{Rule, Schedule},
        server::{HandshakeAttempt, Party, ServerUnderTest},
        wire::Answer,
    },
    proto::signaling::close,
};

/// Requests after which a rate limit must have taken effect.
const MANY_REQUESTS: usize = 300;

/// Messages in one burst that must exceed the limit.
const MANY_MESSAGES: usize = 600;

/// Size of the messages that fill a slow reader's queue, bytes.
const LARGE: usize = 60_000;

/// Large messages sent in one burst: within the burst limit of 100.
const LARGE_AT_ONCE: usize = 90;

/// Large messages after those, below the sustained limit of 20/s.
const LARGE_LATER: usize = 200;

const fn exclusive(rule: Rule) -> Rule {
    rule.schedule(Schedule::Exclusive)
}

/// The rules.
pub const RULES: &[Rule] = &[
    exclusive(Rule::new(
        "flood.burst-100",
        [
            "A burst of 100 messages is relayed.",
            "all 100 messages at the other device",
            "limit messages with a token bucket of 100; a burst must not overflow the peer's queue",
        ],
        |server| Box::pin(burst(server)),
    )),
    exclusive(Rule::new(
        "close.4004-flood",
        [
            "Messages beyond the burst are answered with `error`; then the socket is closed.",
            "error, then close code 4004, within a burst of 600 messages",
            "limit messages per socket: a burst of 100, then 20/s",
        ],
        |server| Box::pin(flood(server)),
    )),
    exclusive(Rule::new(
        "close.4003-slow",
        [
            "A slow reader is disconnected and does not block its peer.",
            "close code 4003 for the slow reader; the server keeps reading from the sender",
            "bound the queue of each socket (64 messages, 256 KiB), and never wait for space in it",
        ],
        |server| Box::pin(slow_peer(server)),
    )),
    exclusive(Rule::new(
        "flood.token-429",
        [
            "Excess token requests are answered with 429 and Retry-After.",
            "HTTP 429 with Retry-After (not run if 300 requests do not reach a limit)",
            "add Retry-After, in seconds, to the 429",
        ],
        |server| Box::pin(token_requests(server)),
    ))
    .needs(&[Need::TokenApi]),
    exclusive(Rule::new(
        "flood.handshake-429",
        [
            "Excess handshakes are answered with 429 and Retry-After.",
            "HTTP 429 with Retry-After (not run if 300 handshakes do not reach a limit)",
            "add Retry-After, in seconds, to the 429",
        ],
        |server| Box::pin(handshakes(server)),
    )),
];

async fn burst(server: &ServerUnderTest) -> Finding {
    let (mut phone, mut mac) = server.both().await?;
    let pair = server.pair().await?;
    let texts: Vec<String> = (1..=100).map(|port| candidate_text(&pair, port)).collect();
    let sending = async {
        for text in &texts {
            phone.send(text).await?;
        }
        Ok::<_, CaseError>(())
    };
    let receiving = async {
        for at in 1..=texts.len() {
            let received = mac.relayed().await;
            received
                .map_err(|_| CaseError::Violation(format!("message {at} of 100 did not arrive")))?;
        }
        Ok::<_, CaseError>(())
    };
    let (sent, received) = tokio::join!(sending, receiving);
    sent.and(received)?;
    leave(phone, mac).await;
    Ok("all received".into())
}

async fn flood(server: &ServerUnderTest) -> Finding {
    // Alone in the room: an offer that supersedes the previous one is not an error.
    let mut phone = server.join(Party::Phone).await?;
    let text = offer_text(&server.pair().await?, &server.unique_text());
    for _ in 0..MANY_MESSAGES {
        if !phone.try_send(&text).await {
            break;
        }
    }
    let seen = phone.closed_with(close::RATE_LIMITED, server.config.timeouts.answer).await?;
    if phone.has_server_message("error") {
        Ok(seen)
    } else {
        violation(format!("{seen}, without `error`"))
    }
}

async fn slow_peer(server: &ServerUnderTest) -> Finding {
    let token = server.token(Party::Mac).await?;
    let mut phone = server.join(Party::Phone).await?;
    let small = HandshakeAttempt { receive_buffer: Some(4096), ..HandshakeAttempt::with(token) };
    let mut mac = server.join_with(&small).await?;
    let text = offer_of(&server.pair().await?, LARGE);
    for sent in 0..LARGE_AT_ONCE + LARGE_LATER {
        phone.send(&text).await?;
        // After the burst: 16/s, below the allowed 20/s.
        let pause = if sent < LARGE_AT_ONCE { 1 } else { 60 };
        phone.read_for(Duration::from_millis(pause)).await;
        if phone.has_server_message("peer-left") {
            break;
        }
    }
    if !phone.has_server_message("peer-left") {
        return violation("the device that does not read stays in the room");
    }
    // Messages in flight arrive first, 4 KB at a time.
    let seen = mac.closed_with(close::SLOW_CONSUMER, 4 * server.config.timeouts.answer).await?;
    phone.close().await;
    Ok(seen)
}

/// The finding of the first 429 response; `None` for other responses.
fn limit(answer: &Answer) -> Option<Finding> {
    (answer.status == 429).then(|| match answer.retry_after() {
        Some(seconds) => Ok(format!("HTTP 429, Retry-After: {seconds}")),
        None => violation("HTTP 429 without Retry-After in seconds"),
    })
}

fn no_limit(what: &str) -> Finding {
    Err(CaseError::NotRun(format!("{MANY_REQUESTS} {what} did not reach a limit")))
}

async fn token_requests(server: &ServerUnderTest) -> Finding {
    let login = server.login(Party::Phone)?;
    let body = server.token_request_body(Party::Phone).to_string();
    for _ in 0..MANY_REQUESTS {
        if let Some(seen) = limit(&server.request_token(Some(&login), &body).await?) {
            return seen;
        }
    }
    no_limit("token requests")
}

async fn handshakes(server: &ServerUnderTest) -> Finding {
    for _ in 0..MANY_REQUESTS {
        let (answer, _) = server.handshake_once(&HandshakeAttempt::default()).await?;
        if let Some(seen) = limit(&answer) {
            return seen;
        }
    }
    no_limit("handshakes")
}
