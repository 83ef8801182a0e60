//! Close codes of what a client does wrong, and of a device that comes twice.

use serde_json::json;

use super::{
    signal::{leave, offer_text, reaches},
    strict::offer_of,
};
use crate::{
    check::{
        rule::{Lane, Rule, Seen, broken},
        site::{Site, Who},
    },
    proto::signaling::{MAX_MESSAGE_BYTES, close},
};

/// Bad messages after which a socket must have been closed.
const ENOUGH_BAD_MESSAGES: usize = 60;

const fn in_room(rule: Rule) -> Rule {
    rule.lane(Lane::Room)
}

/// The rules.
pub const RULES: &[Rule] = &[
    in_room(Rule::new(
        "close.1002-protocol",
        [
            "A frame that breaks the protocol ends the socket.",
            "close code 1002 for a reserved opcode",
            "map errors of the WebSocket library to close codes: many send none by default",
        ],
        |site| Box::pin(bad_frame(site, 0x83, b"", close::PROTOCOL_ERROR)),
    )),
    in_room(Rule::new(
        "close.1003-binary",
        [
            "Binary frames are not accepted.",
            "close code 1003",
            "close with 1003 where a binary frame is read",
        ],
        |site| Box::pin(binary(site)),
    )),
    in_room(Rule::new(
        "close.1007-utf8",
        [
            "A text frame that is not UTF-8 ends the socket.",
            "close code 1007",
            "map errors of the WebSocket library to close codes: many send none by default",
        ],
        |site| Box::pin(bad_frame(site, 0x81, b"\xff\xfe\xfd", close::INVALID_UTF8)),
    )),
    in_room(Rule::new(
        "close.1009-too-big",
        [
            "Text frames are at most 64 KiB.",
            "close code 1009 for one byte more",
            "read a little beyond the limit before closing: unread data resets the connection",
        ],
        |site| Box::pin(too_big(site)),
    )),
    in_room(Rule::new(
        "close.4501-wrong-pair",
        [
            "A message with another pairId than the token's ends the socket.",
            "close code 4501",
            "compare pairId with the token's on every message",
        ],
        |site| Box::pin(wrong_pair(site)),
    )),
    in_room(Rule::new(
        "close.4502-replaced",
        [
            "A newer socket of the same device replaces the older one.",
            "close code 4502 for the older one, peer-left (replaced) for the peer",
            "close the older socket when the same device joins",
        ],
        |site| Box::pin(replaced(site)),
    )),
    in_room(Rule::new(
        "close.newest-wins",
        [
            "The newer socket wins over a half-open one, also when that is cleaned up later.",
            "messages reach the newer socket before and after the end of the older one",
            "compare connId before a device is taken out of the room",
        ],
        |site| Box::pin(newest_wins(site)),
    )),
    in_room(Rule::new(
        "close.4504-schema",
        [
            "Repeated schema errors end the socket.",
            "close code 4504 within 60 bad messages",
            "count schema errors by socket",
        ],
        |site| Box::pin(schema_errors(site)),
    )),
];

async fn bad_frame(site: &Site, first: u8, payload: &[u8], code: u16) -> Seen {
    let mut phone = site.join(Who::Phone).await?;
    phone.send_raw(first, payload).await?;
    phone.closed_with(code, site.config.patience.answer).await
}

async fn binary(site: &Site) -> Seen {
    let mut phone = site.join(Who::Phone).await?;
    phone.send_binary(b"binary").await?;
    phone.closed_with(close::UNSUPPORTED_DATA, site.config.patience.answer).await
}

async fn too_big(site: &Site) -> Seen {
    let mut phone = site.join(Who::Phone).await?;
    let text = offer_of(&site.pair().await?, MAX_MESSAGE_BYTES + 1);
    // How it ends tells whether it was taken.
    phone.try_send(&text).await;
    phone.closed_with(close::TOO_BIG, site.config.patience.answer).await
}

async fn wrong_pair(site: &Site) -> Seen {
    let mut phone = site.join(Who::Phone).await?;
    phone.send(&offer_text("orion-check-another-pair", &site.mark())).await?;
    phone.closed_with(close::WRONG_PAIR, site.config.patience.answer).await
}

async fn replaced(site: &Site) -> Seen {
    let (mut older, mut mac) = site.both().await?;
    let newer = site.join(Who::Phone).await?;
    let seen = older.closed_with(close::REPLACED, site.config.patience.answer).await?;
    let left = mac.notice("peer-left").await?;
    leave(newer, mac).await;
    if left["reason"] == "replaced" {
        Ok(seen)
    } else {
        broken(format!("peer-left with reason {}", left["reason"]))
    }
}

async fn newest_wins(site: &Site) -> Seen {
    // Nothing is read from the older one, as if its network had gone.
    let (older, mut mac) = site.both().await?;
    let mut newer = site.join(Who::Phone).await?;
    let pair = site.pair().await?;
    reaches(&mut mac, &mut newer, &offer_text(&pair, &site.mark())).await?;
    drop(older);
    mac.read_for(site.config.patience.quiet).await;
    reaches(&mut mac, &mut newer, &offer_text(&pair, &site.mark())).await?;
    reaches(&mut newer, &mut mac, &offer_text(&pair, &site.mark())).await?;
    leave(newer, mac).await;
    Ok("the newer one works".into())
}

async fn schema_errors(site: &Site) -> Seen {
    let mut phone = site.join(Who::Phone).await?;
    let bad = json!({"t": "offer", "pairId": site.pair().await?}).to_string();
    for _ in 0..ENOUGH_BAD_MESSAGES {
        // Below the rate that is a flood.
        if !phone.try_send(&bad).await {
            break;
        }
        phone.read_for(site.config.patience.quiet / 20).await;
        if phone.end().is_some() {
            break;
        }
    }
    phone.closed_with(close::SCHEMA_ERRORS, site.config.patience.quiet).await
}
