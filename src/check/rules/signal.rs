//! What the production site must do with messages: relay them, in order, to the right device only.

use serde_json::{Value, json};

use crate::check::{
    rule::{Lane, Miss, Need, Rule, Seen, broken},
    site::{Site, Who},
    socket::Socket,
};

/// A rule that needs the pair's room, in production, too.
const fn in_room(rule: Rule) -> Rule {
    rule.production().lane(Lane::Room)
}

/// The rules.
pub const RULES: &[Rule] = &[
    in_room(Rule::new(
        "signal.offer",
        [
            "An offer {t, pairId, sdp} of the phone reaches the Mac.",
            "the same t, pairId and sdp at the Mac",
            "relay messages to the other socket of the pair",
        ],
        |site| Box::pin(offer(site)),
    )),
    in_room(Rule::new(
        "signal.answer",
        [
            "An answer {t, pairId, sdp} of the Mac reaches the phone.",
            "the same t, pairId and sdp at the phone",
            "relay messages to the other socket of the pair",
        ],
        |site| Box::pin(answer(site)),
    )),
    in_room(Rule::new(
        "signal.ice",
        [
            "Candidates {candidate, sdpMid, sdpMLineIndex, usernameFragment?} are relayed both ways.",
            "the same candidate object at the other device",
            "relay messages to the other socket of the pair",
        ],
        |site| Box::pin(ice(site)),
    )),
    in_room(Rule::new(
        "signal.end-of-candidates",
        [
            "The end of candidates, `candidate: null`, is relayed.",
            "ice with candidate null at the other device",
            "take null where the candidate is checked",
        ],
        |site| Box::pin(end_of_candidates(site)),
    )),
    in_room(Rule::new(
        "signal.order",
        [
            "Messages are relayed in order.",
            "an offer and 30 candidates as they were sent",
            "handle the messages of a socket one after the other",
        ],
        |site| Box::pin(order(site)),
    )),
    in_room(Rule::new(
        "signal.glare",
        [
            "When both offer, both offers are relayed.",
            "each device gets the other's offer",
            "relay offers whatever came before: the devices settle glare (W3C perfect negotiation)",
        ],
        |site| Box::pin(glare(site)),
    )),
    in_room(Rule::new(
        "signal.no-echo",
        [
            "A message goes to the other device only.",
            "nothing comes back to the sender",
            "leave the sender out where messages are relayed",
        ],
        |site| Box::pin(no_echo(site)),
    )),
    in_room(Rule::new(
        "signal.wrong-pair",
        [
            "pairId is checked on every message: one with another pairId reaches nobody.",
            "nothing at the other device",
            "compare pairId with the token's before a message is relayed",
        ],
        |site| Box::pin(wrong_pair(site)),
    )),
    in_room(Rule::new(
        "signal.isolation",
        [
            "Pairs are apart: no message of one reaches the other.",
            "nothing in the room of another pair, also when its pairId is named",
            "find the receiver by the token's pairId, never by the message's",
        ],
        |site| Box::pin(isolation(site)),
    ))
    .needs(&[Need::OtherPair]),
];

/// An offer as a phone writes it, with a mark in its session name.
pub(super) fn offer_text(pair: &str, mark: &str) -> String {
    json!({"t": "offer", "pairId": pair, "sdp": sdp(mark)}).to_string()
}

/// SDP with a mark in its session name.
pub(super) fn sdp(mark: &str) -> String {
    format!("v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns={mark}\r\nt=0 0\r\na=group:BUNDLE 0\r\n")
}

/// A candidate of the documentation network, told apart by its port.
pub(super) fn candidate_text(pair: &str, port: usize) -> String {
    let candidate = format!("candidate:1 1 udp 2122260223 192.0.2.1 {port} typ host");
    json!({
        "t": "ice", "pairId": pair,
        "candidate": {
            "candidate": candidate, "sdpMid": "0", "sdpMLineIndex": 0, "usernameFragment": "orio",
        },
    })
    .to_string()
}

/// Sends a message and sees its bold fields arrive.
pub(super) async fn reaches(from: &mut Socket, to: &mut Socket, text: &str) -> Result<(), Miss> {
    from.send(text).await?;
    arrives(to, text).await
}

async fn arrives(to: &mut Socket, text: &str) -> Result<(), Miss> {
    let sent: Value = serde_json::from_str(text).unwrap_or_default();
    let came = to.relayed_json().await?;
    for field in ["t", "pairId", "sdp", "candidate"] {
        if sent.get(field) != came.get(field) {
            return broken(format!("`{field}` is not what was sent"));
        }
    }
    Ok(())
}

/// Closes both.
pub(super) async fn leave(phone: Socket, mac: Socket) {
    tokio::join!(phone.close(), mac.close());
}

async fn offer(site: &Site) -> Seen {
    let (mut phone, mut mac) = site.both().await?;
    reaches(&mut phone, &mut mac, &offer_text(&site.pair().await?, &site.mark())).await?;
    leave(phone, mac).await;
    Ok("it came".into())
}

async fn answer(site: &Site) -> Seen {
    let (mut phone, mut mac) = site.both().await?;
    let pair = site.pair().await?;
    reaches(&mut phone, &mut mac, &offer_text(&pair, &site.mark())).await?;
    let text = json!({"t": "answer", "pairId": pair, "sdp": sdp(&site.mark())}).to_string();
    reaches(&mut mac, &mut phone, &text).await?;
    leave(phone, mac).await;
    Ok("it came".into())
}

async fn ice(site: &Site) -> Seen {
    let (mut phone, mut mac) = site.both().await?;
    let pair = site.pair().await?;
    reaches(&mut phone, &mut mac, &offer_text(&pair, &site.mark())).await?;
    reaches(&mut phone, &mut mac, &candidate_text(&pair, 1)).await?;
    reaches(&mut mac, &mut phone, &candidate_text(&pair, 2)).await?;
    leave(phone, mac).await;
    Ok("they came".into())
}

async fn end_of_candidates(site: &Site) -> Seen {
    let (mut phone, mut mac) = site.both().await?;
    let pair = site.pair().await?;
    reaches(&mut phone, &mut mac, &offer_text(&pair, &site.mark())).await?;
    let text = json!({"t": "ice", "pairId": pair, "candidate": null}).to_string();
    reaches(&mut phone, &mut mac, &text).await?;
    leave(phone, mac).await;
    Ok("it came".into())
}

async fn order(site: &Site) -> Seen {
    let (mut phone, mut mac) = site.both().await?;
    let pair = site.pair().await?;
    let mut texts = vec![offer_text(&pair, &site.mark())];
    texts.extend((1..=30).map(|port| candidate_text(&pair, port)));
    for text in &texts {
        phone.send(text).await?;
    }
    for (at, text) in texts.iter().enumerate() {
        if arrives(&mut mac, text).await.is_err() {
            return broken(format!("message {} of {} is missing or moved", at + 1, texts.len()));
        }
    }
    leave(phone, mac).await;
    Ok("31 messages in order".into())
}

async fn glare(site: &Site) -> Seen {
    let (mut phone, mut mac) = site.both().await?;
    let pair = site.pair().await?;
    let (from_phone, from_mac) = (offer_text(&pair, &site.mark()), offer_text(&pair, &site.mark()));
    phone.send(&from_phone).await?;
    mac.send(&from_mac).await?;
    arrives(&mut mac, &from_phone).await?;
    arrives(&mut phone, &from_mac).await?;
    leave(phone, mac).await;
    Ok("both came".into())
}

async fn no_echo(site: &Site) -> Seen {
    let (mut phone, mut mac) = site.both().await?;
    reaches(&mut phone, &mut mac, &offer_text(&site.pair().await?, &site.mark())).await?;
    phone.nothing_relayed().await?;
    leave(phone, mac).await;
    Ok("nothing came back".into())
}

async fn wrong_pair(site: &Site) -> Seen {
    let (mut phone, mut mac) = site.both().await?;
    phone.send(&offer_text("orion-check-another-pair", &site.mark())).await?;
    mac.nothing_relayed().await?;
    leave(phone, mac).await;
    Ok("nothing was relayed".into())
}

async fn isolation(site: &Site) -> Seen {
    let Some(other_pair) = site.config.other.as_ref().map(|other| other.pair.as_str()) else {
        return Err(Miss::NotRun(Need::OtherPair.reason().into()));
    };
    let mut other = site.join(Who::Other).await?;
    let (mut phone, mut mac) = site.both().await?;
    reaches(&mut phone, &mut mac, &offer_text(&site.pair().await?, &site.mark())).await?;
    // It may cost the sender its socket.
    phone.try_send(&offer_text(other_pair, &site.mark())).await;
    other.nothing_relayed().await?;
    leave(phone, mac).await;
    other.close().await;
    Ok("nothing came through".into())
}
