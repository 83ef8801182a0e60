//! Requirements on the production server: relay messages in order, and only to the right device.

use serde_json::{Value, json};

use crate::check::{
    finding::{CaseError, Finding, violation},
    level::Need,
    rule::{Rule, Schedule},
    server::{Party, ServerUnderTest},
    socket::Socket,
};

/// A rule of level `production` that needs the pair's room.
const fn in_room(rule: Rule) -> Rule {
    rule.production().schedule(Schedule::Room)
}

/// The rules.
pub const RULES: &[Rule] = &[
    in_room(Rule::new(
        "signal.offer",
        [
            "An offer {t, pairId, sdp} from the phone reaches the Mac.",
            "the same t, pairId and sdp at the Mac",
            "relay messages to the other socket of the pair",
        ],
        |server| Box::pin(offer(server)),
    )),
    in_room(Rule::new(
        "signal.answer",
        [
            "An answer {t, pairId, sdp} from the Mac reaches the phone.",
            "the same t, pairId and sdp at the phone",
            "relay messages to the other socket of the pair",
        ],
        |server| Box::pin(answer(server)),
    )),
    in_room(Rule::new(
        "signal.ice",
        [
            "Candidates {candidate, sdpMid, sdpMLineIndex, usernameFragment?} are relayed in both directions.",
            "the same candidate object at the other device",
            "relay messages to the other socket of the pair",
        ],
        |server| Box::pin(ice(server)),
    )),
    in_room(Rule::new(
        "signal.end-of-candidates",
        [
            "End of candidates (`candidate: null`) is relayed.",
            "ice with candidate null at the other device",
            "accept null when validating `candidate`",
        ],
        |server| Box::pin(end_of_candidates(server)),
    )),
    in_room(Rule::new(
        "signal.order",
        [
            "Messages are relayed in order.",
            "an offer and 30 candidates in the order they were sent",
            "process the messages of a socket sequentially",
        ],
        |server| Box::pin(order(server)),
    )),
    in_room(Rule::new(
        "signal.glare",
        [
            "When both devices send offers, both offers are relayed.",
            "each device receives the other's offer",
            "relay offers in every state: the devices resolve glare (W3C perfect negotiation)",
        ],
        |server| Box::pin(glare(server)),
    )),
    in_room(Rule::new(
        "signal.no-echo",
        [
            "A message is relayed to the other device only.",
            "nothing is sent back to the sender",
            "do not relay messages to their sender",
        ],
        |server| Box::pin(no_echo(server)),
    )),
    in_room(Rule::new(
        "signal.wrong-pair",
        [
            "pairId is checked on every message; a message with another pairId is not relayed.",
            "nothing at the other device",
            "compare pairId with the token's before relaying a message",
        ],
        |server| Box::pin(wrong_pair(server)),
    )),
    in_room(Rule::new(
        "signal.isolation",
        [
            "Pairs are isolated: no message of one pair reaches another.",
            "nothing in the room of another pair, even if a message names its pairId",
            "look the receiver up by the token's pairId, never by the message's",
        ],
        |server| Box::pin(isolation(server)),
    ))
    .needs(&[Need::OtherPair]),
];

/// An offer as sent by a phone, with `mark` as its session name.
pub(super) fn offer_text(pair: &str, mark: &str) -> String {
    json!({"t": "offer", "pairId": pair, "sdp": sdp(mark)}).to_string()
}

/// SDP with `mark` as its session name.
pub(super) fn sdp(mark: &str) -> String {
    format!("v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns={mark}\r\nt=0 0\r\na=group:BUNDLE 0\r\n")
}

/// A candidate in a documentation network (RFC 5737), identified by its port.
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

/// Sends a message and expects its fields of the production contract to arrive.
pub(super) async fn reaches(
    from: &mut Socket,
    to: &mut Socket,
    text: &str,
) -> Result<(), CaseError> {
    from.send(text).await?;
    arrives(to, text).await
}

async fn arrives(to: &mut Socket, text: &str) -> Result<(), CaseError> {
    let sent: Value = serde_json::from_str(text).unwrap_or_default();
    let received = to.relayed_json().await?;
    for field in ["t", "pairId", "sdp", "candidate"] {
        if sent.get(field) != received.get(field) {
            return violation(format!("`{field}` differs from what was sent"));
        }
    }
    Ok(())
}

/// Closes both sockets.
pub(super) async fn leave(phone: Socket, mac: Socket) {
    tokio::join!(phone.close(), mac.close());
}

async fn offer(server: &ServerUnderTest) -> Finding {
    let (mut phone, mut mac) = server.both().await?;
    reaches(&mut phone, &mut mac, &offer_text(&server.pair().await?, &server.unique_text()))
        .await?;
    leave(phone, mac).await;
    Ok("received".into())
}

async fn answer(server: &ServerUnderTest) -> Finding {
    let (mut phone, mut mac) = server.both().await?;
    let pair = server.pair().await?;
    reaches(&mut phone, &mut mac, &offer_text(&pair, &server.unique_text())).await?;
    let text =
        json!({"t": "answer", "pairId": pair, "sdp": sdp(&server.unique_text())}).to_string();
    reaches(&mut mac, &mut phone, &text).await?;
    leave(phone, mac).await;
    Ok("received".into())
}

async fn ice(server: &ServerUnderTest) -> Finding {
    let (mut phone, mut mac) = server.both().await?;
    let pair = server.pair().await?;
    reaches(&mut phone, &mut mac, &offer_text(&pair, &server.unique_text())).await?;
    reaches(&mut phone, &mut mac, &candidate_text(&pair, 1)).await?;
    reaches(&mut mac, &mut phone, &candidate_text(&pair, 2)).await?;
    leave(phone, mac).await;
    Ok("all received".into())
}

async fn end_of_candidates(server: &ServerUnderTest) -> Finding {
    let (mut phone, mut mac) = server.both().await?;
    let pair = server.pair().await?;
    reaches(&mut phone, &mut mac, &offer_text(&pair, &server.unique_text())).await?;
    let text = json!({"t": "ice", "pairId": pair, "candidate": null}).to_string();
    reaches(&mut phone, &mut mac, &text).await?;
    leave(phone, mac).await;
    Ok("received".into())
}

async fn order(server: &ServerUnderTest) -> Finding {
    let (mut phone, mut mac) = server.both().await?;
    let pair = server.pair().await?;
    let mut texts = vec![offer_text(&pair, &server.unique_text())];
    texts.extend((1..=30).map(|port| candidate_text(&pair, port)));
    for text in &texts {
        phone.send(text).await?;
    }
    for (at, text) in texts.iter().enumerate() {
        if arrives(&mut mac, text).await.is_err() {
            return violation(format!(
                "message {} of {} is missing or out of order",
                at + 1,
                texts.len()
            ));
        }
    }
    leave(phone, mac).await;
    Ok("31 messages in order".into())
}

async fn glare(server: &ServerUnderTest) -> Finding {
    let (mut phone, mut mac) = server.both().await?;
    let pair = server.pair().await?;
    let (from_phone, from_mac) =
        (offer_text(&pair, &server.unique_text()), offer_text(&pair, &server.unique_text()));
    phone.send(&from_phone).await?;
    mac.send(&from_mac).await?;
    arrives(&mut mac, &from_phone).await?;
    arrives(&mut phone, &from_mac).await?;
    leave(phone, mac).await;
    Ok("both received".into())
}

async fn no_echo(server: &ServerUnderTest) -> Finding {
    let (mut phone, mut mac) = server.both().await?;
    reaches(&mut phone, &mut mac, &offer_text(&server.pair().await?, &server.unique_text()))
        .await?;
    phone.nothing_relayed().await?;
    leave(phone, mac).await;
    Ok("not echoed".into())
}

async fn wrong_pair(server: &ServerUnderTest) -> Finding {
    let (mut phone, mut mac) = server.both().await?;
    phone.send(&offer_text("orion-check-another-pair", &server.unique_text())).await?;
    mac.nothing_relayed().await?;
    leave(phone, mac).await;
    Ok("not relayed".into())
}

async fn isolation(server: &ServerUnderTest) -> Finding {
    let Some(other_pair) = server.config.other.as_ref().map(|other| other.pair.as_str()) else {
        return Err(CaseError::NotRun(Need::OtherPair.reason().into()));
    };
    let mut other = server.join(Party::Other).await?;
    let (mut phone, mut mac) = server.both().await?;
    reaches(&mut phone, &mut mac, &offer_text(&server.pair().await?, &server.unique_text()))
        .await?;
    // The server may close the sender's socket.
    phone.try_send(&offer_text(other_pair, &server.unique_text())).await;
    other.nothing_relayed().await?;
    leave(phone, mac).await;
    other.close().await;
    Ok("isolated".into())
}
