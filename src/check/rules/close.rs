//! Close codes for client errors, and for a device that connects twice.

use serde_json::json;

use super::{
    schema::offer_of,
    signal::{leave, offer_text, reaches},
};
use crate::{
    check::{
        finding::{Finding, violation},
        rule::{Rule, Schedule},
        server::{Party, ServerUnderTest},
    },
    proto::signaling::{MAX_MESSAGE_BYTES, close},
};

/// Number of bad messages after which a socket must have been closed.
const MAX_BAD_MESSAGES: usize = 60;

const fn in_room(rule: Rule) -> Rule {
    rule.schedule(Schedule::Room)
}

/// The rules.
pub const RULES: &[Rule] = &[
    in_room(Rule::new(
        "close.1002-protocol",
        [
            "A frame that violates RFC 6455 closes the socket.",
            "close code 1002 for a reserved opcode",
            "map errors of the WebSocket library to close codes: many libraries send none by default",
        ],
        |server| Box::pin(bad_frame(server, 0x83, b"", close::PROTOCOL_ERROR)),
    )),
    in_room(Rule::new(
        "close.1003-binary",
        [
            "Binary frames are not accepted.",
            "close code 1003",
            "close with 1003 when a binary frame is received",
        ],
        |server| Box::pin(binary(server)),
    )),
    in_room(Rule::new(
        "close.1007-utf8",
        [
            "A text frame that is not UTF-8 closes the socket.",
            "close code 1007",
            "map errors of the WebSocket library to close codes: many libraries send none by default",
        ],
        |server| Box::pin(bad_frame(server, 0x81, b"\xff\xfe\xfd", close::INVALID_UTF8)),
    )),
    in_room(Rule::new(
        "close.1009-too-big",
        [
            "Text frames are at most 64 KiB.",
            "close code 1009 for 64 KiB plus one byte",
            "read slightly past the limit before closing: unread data resets the connection",
        ],
        |server| Box::pin(too_big(server)),
    )),
    in_room(Rule::new(
        "close.4501-wrong-pair",
        [
            "A message with a pairId other than the token's closes the socket.",
            "close code 4501",
            "compare pairId with the token's on every message",
        ],
        |server| Box::pin(wrong_pair(server)),
    )),
    in_room(Rule::new(
        "close.4502-replaced",
        [
            "A newer socket of the same device replaces the older one.",
            "close code 4502 for the older one, peer-left (replaced) for the other device",
            "close the older socket when the same device joins",
        ],
        |server| Box::pin(replaced(server)),
    )),
    in_room(Rule::new(
        "close.newest-wins",
        [
            "A newer socket takes precedence over a half-open one, even after that one is cleaned up.",
            "messages reach the newer socket before and after the end of the older one",
            "compare connId before removing a device from the room",
        ],
        |server| Box::pin(newest_wins(server)),
    )),
    in_room(Rule::new(
        "close.4504-schema",
        [
            "Repeated schema errors close the socket.",
            "close code 4504 within 60 bad messages",
            "count schema errors per socket",
        ],
        |server| Box::pin(schema_errors(server)),
    )),
];

async fn bad_frame(server: &ServerUnderTest, first: u8, payload: &[u8], code: u16) -> Finding {
    let mut phone = server.join(Party::Phone).await?;
    phone.send_raw(first, payload).await?;
    phone.closed_with(code, server.config.timeouts.answer).await
}

async fn binary(server: &ServerUnderTest) -> Finding {
    let mut phone = server.join(Party::Phone).await?;
    phone.send_binary(b"binary").await?;
    phone.closed_with(close::UNSUPPORTED_DATA, server.config.timeouts.answer).await
}

async fn too_big(server: &ServerUnderTest) -> Finding {
    let mut phone = server.join(Party::Phone).await?;
    let text = offer_of(&server.pair().await?, MAX_MESSAGE_BYTES + 1);
    // Sending may fail; only the close code matters.
    phone.try_send(&text).await;
    phone.closed_with(close::TOO_BIG, server.config.timeouts.answer).await
}

async fn wrong_pair(server: &ServerUnderTest) -> Finding {
    let mut phone = server.join(Party::Phone).await?;
    phone.send(&offer_text("orion-check-another-pair", &server.unique_text())).await?;
    phone.closed_with(close::WRONG_PAIR, server.config.timeouts.answer).await
}

async fn replaced(server: &ServerUnderTest) -> Finding {
    let (mut older, mut mac) = server.both().await?;
    let newer = server.join(Party::Phone).await?;
    let seen = older.closed_with(close::REPLACED, server.config.timeouts.answer).await?;
    let left = mac.server_message("peer-left").await?;
    leave(newer, mac).await;
    if left["reason"] == "replaced" {
        Ok(seen)
    } else {
        violation(format!("peer-left with reason {}", left["reason"]))
    }
}

async fn newest_wins(server: &ServerUnderTest) -> Finding {
    // Nothing is read from the older one, as if its network had failed.
    let (older, mut mac) = server.both().await?;
    let mut newer = server.join(Party::Phone).await?;
    let pair = server.pair().await?;
    reaches(&mut mac, &mut newer, &offer_text(&pair, &server.unique_text())).await?;
    drop(older);
    mac.read_for(server.config.timeouts.quiet).await;
    reaches(&mut mac, &mut newer, &offer_text(&pair, &server.unique_text())).await?;
    reaches(&mut newer, &mut mac, &offer_text(&pair, &server.unique_text())).await?;
    leave(newer, mac).await;
    Ok("the newer socket works".into())
}

async fn schema_errors(server: &ServerUnderTest) -> Finding {
    let mut phone = server.join(Party::Phone).await?;
    let bad = json!({"t": "offer", "pairId": server.pair().await?}).to_string();
    for _ in 0..MAX_BAD_MESSAGES {
        // Below the rate that counts as a flood.
        if !phone.try_send(&bad).await {
            break;
        }
        phone.read_for(server.config.timeouts.quiet / 20).await;
        if phone.end().is_some() {
            break;
        }
    }
    phone.closed_with(close::SCHEMA_ERRORS, server.config.timeouts.quiet).await
}
