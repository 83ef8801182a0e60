//! An offer sent before the other device has joined is held while the offerer is connected.

use super::signal::{candidate_text, leave, offer_text};
use crate::check::{
    finding::{Finding, violation},
    rule::{Rule, Schedule},
    server::{Party, ServerUnderTest},
};

const fn in_room(rule: Rule) -> Rule {
    rule.schedule(Schedule::Room)
}

/// The rules.
pub const RULES: &[Rule] = &[
    in_room(Rule::new(
        "held.offer",
        [
            "An offer sent before the other device joins is held, and delivered when it joins.",
            "the offer at the Mac, which joins later",
            "keep the offer while the offerer is connected",
        ],
        |server| Box::pin(offer(server)),
    )),
    in_room(Rule::new(
        "held.latest",
        [
            "Only the latest offer is held.",
            "of two offers, only the second",
            "replace the held offer with a newer one",
        ],
        |server| Box::pin(latest(server)),
    )),
    in_room(Rule::new(
        "held.candidates",
        [
            "Candidates of the held offer are held with it, in order.",
            "the offer, then 10 candidates in the order they were sent",
            "queue candidates after the held offer",
        ],
        |server| Box::pin(candidates(server)),
    )),
    in_room(Rule::new(
        "held.64",
        [
            "At most 64 candidates are held.",
            "at most 64 of 70",
            "limit the queue: anyone with a token can fill it",
        ],
        |server| Box::pin(at_most_64(server)),
    )),
    in_room(Rule::new(
        "held.offerer-left",
        [
            "A held offer is discarded when the offerer disconnects.",
            "nothing at the Mac, which joins after the phone has left",
            "discard held messages when their sender leaves",
        ],
        |server| Box::pin(offerer_left(server)),
    )),
];

async fn offer(server: &ServerUnderTest) -> Finding {
    let mut phone = server.join(Party::Phone).await?;
    let text = offer_text(&server.pair().await?, &server.unique_text());
    phone.send(&text).await?;
    phone.read_for(server.config.timeouts.quiet).await;
    let mut mac = server.join(Party::Mac).await?;
    let received = mac.relayed().await?;
    leave(phone, mac).await;
    if received == text { Ok("received".into()) } else { violation("received another message") }
}

async fn latest(server: &ServerUnderTest) -> Finding {
    let mut phone = server.join(Party::Phone).await?;
    let pair = server.pair().await?;
    let second = offer_text(&pair, &server.unique_text());
    phone.send(&offer_text(&pair, &server.unique_text())).await?;
    phone.send(&second).await?;
    phone.read_for(server.config.timeouts.quiet).await;
    let mut mac = server.join(Party::Mac).await?;
    if mac.relayed().await? != second {
        return violation("received the older offer");
    }
    mac.nothing_relayed().await?;
    leave(phone, mac).await;
    Ok("only the second".into())
}

async fn candidates(server: &ServerUnderTest) -> Finding {
    let mut phone = server.join(Party::Phone).await?;
    let pair = server.pair().await?;
    let mut texts = vec![offer_text(&pair, &server.unique_text())];
    texts.extend((1..=10).map(|port| candidate_text(&pair, port)));
    for text in &texts {
        phone.send(text).await?;
    }
    phone.read_for(server.config.timeouts.quiet).await;
    let mut mac = server.join(Party::Mac).await?;
    for (at, text) in texts.iter().enumerate() {
        if mac.relayed().await? != *text {
            return violation(format!(
                "message {} of {} is missing or out of order",
                at + 1,
                texts.len()
            ));
        }
    }
    leave(phone, mac).await;
    Ok("11 messages in order".into())
}

async fn at_most_64(server: &ServerUnderTest) -> Finding {
    let mut phone = server.join(Party::Phone).await?;
    let pair = server.pair().await?;
    phone.send(&offer_text(&pair, &server.unique_text())).await?;
    for port in 1..=70 {
        phone.send(&candidate_text(&pair, port)).await?;
    }
    phone.read_for(server.config.timeouts.quiet).await;
    let mut mac = server.join(Party::Mac).await?;
    mac.relayed().await?;
    let mut held = 0;
    mac.read_for(server.config.timeouts.quiet).await;
    while mac.take_relayed().is_some() {
        held += 1;
    }
    leave(phone, mac).await;
    match held {
        0 => violation("no candidate was held"),
        1..=64 => Ok(format!("{held} of 70")),
        _ => violation(format!("{held} of 70 were held")),
    }
}

async fn offerer_left(server: &ServerUnderTest) -> Finding {
    let mut phone = server.join(Party::Phone).await?;
    phone.send(&offer_text(&server.pair().await?, &server.unique_text())).await?;
    phone.close().await;
    let mut mac = server.join(Party::Mac).await?;
    mac.nothing_relayed().await?;
    mac.close().await;
    Ok("nothing received".into())
}
