//! An offer before the peer is there is held, while the offerer is connected.

use super::signal::{candidate_text, leave, offer_text};
use crate::check::{
    rule::{Lane, Rule, Seen, broken},
    site::{Site, Who},
};

const fn in_room(rule: Rule) -> Rule {
    rule.lane(Lane::Room)
}

/// The rules.
pub const RULES: &[Rule] = &[
    in_room(Rule::new(
        "held.offer",
        [
            "An offer before the peer is there is held, and flushed when the peer joins.",
            "the offer at the Mac, which came later",
            "keep the offer while the offerer is connected",
        ],
        |site| Box::pin(offer(site)),
    )),
    in_room(Rule::new(
        "held.latest",
        [
            "Only the latest offer is held.",
            "one offer, the second of two",
            "let a new offer take the place of the held one",
        ],
        |site| Box::pin(latest(site)),
    )),
    in_room(Rule::new(
        "held.candidates",
        [
            "Candidates of the held offer are held with it, in order.",
            "the offer and then 10 candidates as they were sent",
            "keep candidates behind the offer",
        ],
        |site| Box::pin(candidates(site)),
    )),
    in_room(Rule::new(
        "held.64",
        [
            "At most 64 candidates are held.",
            "no more than 64 of 70",
            "bound what is held: it is memory that anyone with a token can fill",
        ],
        |site| Box::pin(at_most_64(site)),
    )),
    in_room(Rule::new(
        "held.offerer-left",
        [
            "What an offerer left behind is not held.",
            "nothing at the Mac that came after the phone had gone",
            "forget what is held when its sender leaves",
        ],
        |site| Box::pin(offerer_left(site)),
    )),
];

async fn offer(site: &Site) -> Seen {
    let mut phone = site.join(Who::Phone).await?;
    let text = offer_text(&site.pair().await?, &site.mark());
    phone.send(&text).await?;
    phone.read_for(site.config.patience.quiet).await;
    let mut mac = site.join(Who::Mac).await?;
    let came = mac.relayed().await?;
    leave(phone, mac).await;
    if came == text { Ok("it came".into()) } else { broken("something else came") }
}

async fn latest(site: &Site) -> Seen {
    let mut phone = site.join(Who::Phone).await?;
    let pair = site.pair().await?;
    let second = offer_text(&pair, &site.mark());
    phone.send(&offer_text(&pair, &site.mark())).await?;
    phone.send(&second).await?;
    phone.read_for(site.config.patience.quiet).await;
    let mut mac = site.join(Who::Mac).await?;
    if mac.relayed().await? != second {
        return broken("the older offer came");
    }
    mac.nothing_relayed().await?;
    leave(phone, mac).await;
    Ok("the second alone".into())
}

async fn candidates(site: &Site) -> Seen {
    let mut phone = site.join(Who::Phone).await?;
    let pair = site.pair().await?;
    let mut texts = vec![offer_text(&pair, &site.mark())];
    texts.extend((1..=10).map(|port| candidate_text(&pair, port)));
    for text in &texts {
        phone.send(text).await?;
    }
    phone.read_for(site.config.patience.quiet).await;
    let mut mac = site.join(Who::Mac).await?;
    for (at, text) in texts.iter().enumerate() {
        if mac.relayed().await? != *text {
            return broken(format!("message {} of {} is missing or moved", at + 1, texts.len()));
        }
    }
    leave(phone, mac).await;
    Ok("11 messages in order".into())
}

async fn at_most_64(site: &Site) -> Seen {
    let mut phone = site.join(Who::Phone).await?;
    let pair = site.pair().await?;
    phone.send(&offer_text(&pair, &site.mark())).await?;
    for port in 1..=70 {
        phone.send(&candidate_text(&pair, port)).await?;
    }
    phone.read_for(site.config.patience.quiet).await;
    let mut mac = site.join(Who::Mac).await?;
    mac.relayed().await?;
    let mut held = 0;
    mac.read_for(site.config.patience.quiet).await;
    while mac.take_relayed().is_some() {
        held += 1;
    }
    leave(phone, mac).await;
    match held {
        0 => broken("no candidate was held"),
        1..=64 => Ok(format!("{held} of 70")),
        _ => broken(format!("{held} of 70 were held")),
    }
}

async fn offerer_left(site: &Site) -> Seen {
    let mut phone = site.join(Who::Phone).await?;
    phone.send(&offer_text(&site.pair().await?, &site.mark())).await?;
    phone.close().await;
    let mut mac = site.join(Who::Mac).await?;
    mac.nothing_relayed().await?;
    mac.close().await;
    Ok("nothing came".into())
}
