//! Limits: these cases flood, so they run last and alone.

use std::time::Duration;

use super::{
    signal::{candidate_text, leave, offer_text},
    strict::offer_of,
};
use crate::{
    check::{
        rule::{Lane, Miss, Need, Rule, Seen, broken},
        site::{Knock, Site, Who},
        wire::Answer,
    },
    proto::signaling::close,
};

/// Requests after which a rate limit must have shown.
const MANY_REQUESTS: usize = 300;

/// Messages at once that must have been too many.
const MANY_MESSAGES: usize = 600;

/// Size of the messages that fill a slow peer's queue, bytes.
const LARGE: usize = 60_000;

/// Large messages at once: within the burst of 100.
const LARGE_AT_ONCE: usize = 90;

/// Large messages after those, each as late as 20/s allow.
const LARGE_LATER: usize = 200;

const fn alone(rule: Rule) -> Rule {
    rule.lane(Lane::Alone)
}

/// The rules.
pub const RULES: &[Rule] = &[
    alone(Rule::new(
        "flood.burst-100",
        [
            "A burst of 100 messages is relayed.",
            "all 100 at the other device",
            "meter messages by a bucket of 100; do not let a burst overflow the peer's queue",
        ],
        |site| Box::pin(burst(site)),
    )),
    alone(Rule::new(
        "close.4004-flood",
        [
            "More than the burst is answered with `error`, and then ends the socket.",
            "error, then close code 4004, within 600 messages at once",
            "meter messages by socket: burst 100, then 20/s",
        ],
        |site| Box::pin(flood(site)),
    )),
    alone(Rule::new(
        "close.4003-slow",
        [
            "A peer that reads too slowly is closed, and holds nobody up.",
            "close code 4003 for it; the sender is read from all the time",
            "bound the queue of each socket (64 messages, 256 KiB), and never wait for it",
        ],
        |site| Box::pin(slow_peer(site)),
    )),
    alone(Rule::new(
        "flood.token-429",
        [
            "Too many token requests are told when to come back.",
            "HTTP 429 with Retry-After (not run when 300 requests meet no limit)",
            "add Retry-After, in seconds, to the 429",
        ],
        |site| Box::pin(token_requests(site)),
    ))
    .needs(&[Need::TokenApi]),
    alone(Rule::new(
        "flood.handshake-429",
        [
            "Too many handshakes are told when to come back.",
            "HTTP 429 with Retry-After (not run when 300 handshakes meet no limit)",
            "add Retry-After, in seconds, to the 429",
        ],
        |site| Box::pin(handshakes(site)),
    )),
];

async fn burst(site: &Site) -> Seen {
    let (mut phone, mut mac) = site.both().await?;
    let pair = site.pair().await?;
    let texts: Vec<String> = (1..=100).map(|port| candidate_text(&pair, port)).collect();
    let sending = async {
        for text in &texts {
            phone.send(text).await?;
        }
        Ok::<_, Miss>(())
    };
    let receiving = async {
        for at in 1..=texts.len() {
            let came = mac.relayed().await;
            came.map_err(|_| Miss::Broken(format!("message {at} of 100 did not come")))?;
        }
        Ok::<_, Miss>(())
    };
    let (sent, received) = tokio::join!(sending, receiving);
    sent.and(received)?;
    leave(phone, mac).await;
    Ok("all came".into())
}

async fn flood(site: &Site) -> Seen {
    // Alone in the room: an offer that takes the place of the last is no error.
    let mut phone = site.join(Who::Phone).await?;
    let text = offer_text(&site.pair().await?, &site.mark());
    for _ in 0..MANY_MESSAGES {
        if !phone.try_send(&text).await {
            break;
        }
    }
    let seen = phone.closed_with(close::RATE_LIMITED, site.config.patience.answer).await?;
    if phone.has_notice("error") { Ok(seen) } else { broken(format!("{seen}, without `error`")) }
}

async fn slow_peer(site: &Site) -> Seen {
    let token = site.token(Who::Mac).await?;
    let mut phone = site.join(Who::Phone).await?;
    let small = Knock { receive_buffer: Some(4096), ..Knock::with(token) };
    let mut mac = site.join_with(&small).await?;
    let text = offer_of(&site.pair().await?, LARGE);
    for sent in 0..LARGE_AT_ONCE + LARGE_LATER {
        phone.send(&text).await?;
        // After the burst at 16/s, below the 20/s that are allowed.
        let pause = if sent < LARGE_AT_ONCE { 1 } else { 60 };
        phone.read_for(Duration::from_millis(pause)).await;
        if phone.has_notice("peer-left") {
            break;
        }
    }
    if !phone.has_notice("peer-left") {
        return broken("the peer that does not read stays in the room");
    }
    // What was on its way comes first, 4 KB at a time.
    let seen = mac.closed_with(close::SLOW_CONSUMER, 4 * site.config.patience.answer).await?;
    phone.close().await;
    Ok(seen)
}

/// What the first 429 among many answers says.
fn limit(answer: &Answer) -> Option<Seen> {
    (answer.status == 429).then(|| match answer.retry_after() {
        Some(seconds) => Ok(format!("HTTP 429, Retry-After: {seconds}")),
        None => broken("HTTP 429 without Retry-After in seconds"),
    })
}

fn no_limit(what: &str) -> Seen {
    Err(Miss::NotRun(format!("{MANY_REQUESTS} {what} met no limit")))
}

async fn token_requests(site: &Site) -> Seen {
    let login = site.login(Who::Phone)?;
    let body = site.token_request(Who::Phone).to_string();
    for _ in 0..MANY_REQUESTS {
        if let Some(seen) = limit(&site.ask(Some(&login), &body).await?) {
            return seen;
        }
    }
    no_limit("token requests")
}

async fn handshakes(site: &Site) -> Seen {
    for _ in 0..MANY_REQUESTS {
        let (answer, _) = site.knock_once(&Knock::default()).await?;
        if let Some(seen) = limit(&answer) {
            return seen;
        }
    }
    no_limit("handshakes")
}
