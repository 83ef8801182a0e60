//! Messages from the server itself: hello, peer-joined and peer-left.

use serde_json::Value;

use super::signal::leave;
use crate::check::{
    finding::{CaseError, Finding, violation},
    forge::Template,
    rule::{Rule, Schedule},
    server::{Party, ServerUnderTest},
    socket::Socket,
};

const fn in_room(rule: Rule) -> Rule {
    rule.schedule(Schedule::Room)
}

/// The rules.
pub const RULES: &[Rule] = &[
    in_room(Rule::new(
        "signal.hello",
        [
            "The first message on a socket is hello {connId, deviceId, polite, peerPresent, exp}.",
            "hello first, with deviceId and exp as in the token",
            "send hello before anything else",
        ],
        |server| Box::pin(hello(server)),
    )),
    in_room(Rule::new(
        "signal.polite",
        [
            "The sender's role is impolite, the receiver's polite (W3C perfect negotiation).",
            "polite false for the phone, true for the Mac",
            "take the role from the pair, not from the order of joining",
        ],
        |server| Box::pin(polite(server)),
    )),
    in_room(Rule::new(
        "signal.peer-present",
        [
            "hello indicates whether the other device is connected.",
            "peerPresent false for the first device to join, true for the second",
            "set peerPresent from the room's state when a device joins",
        ],
        |server| Box::pin(peer_present(server)),
    )),
    in_room(Rule::new(
        "signal.peer-joined",
        [
            "When the other device joins or rejoins, peer-joined {deviceId, connId} is sent.",
            "peer-joined with the connId from its hello, a new one each time",
            "notify the pair's other socket when a device joins",
        ],
        |server| Box::pin(peer_joined(server)),
    )),
    in_room(Rule::new(
        "signal.peer-left",
        [
            "When the other device closes its socket, peer-left {deviceId, reason: closed} is sent.",
            "peer-left with reason closed",
            "notify the pair's other socket when a device leaves",
        ],
        |server| Box::pin(peer_left(server)),
    )),
    in_room(Rule::new(
        "signal.peer-left-reset",
        [
            "A connection that breaks without a close frame counts as closed.",
            "peer-left with reason closed",
            "treat the end of the TCP connection as the end of the socket",
        ],
        |server| Box::pin(peer_left_reset(server)),
    )),
];

async fn hello_message(socket: &mut Socket) -> Result<Value, CaseError> {
    socket.server_message("hello").await
}

async fn hello(server: &ServerUnderTest) -> Finding {
    let token = server.token(Party::Phone).await?;
    let exp = Template::of(&token).map(|template| template.claims["exp"].clone());
    let mut phone = server.join(Party::Phone).await?;
    let hello = hello_message(&mut phone).await?;
    if phone.first() != Some("hello") {
        return violation("hello is not the first message");
    }
    if hello["deviceId"] != server.id(Party::Phone) || hello["pairId"] != server.pair().await? {
        return violation("hello names a different device or pair");
    }
    if Some(&hello["exp"]) != exp.as_ref() {
        return violation("`exp` is not the token's");
    }
    if !hello["connId"].is_string() || !hello["polite"].is_boolean() {
        return violation("`connId` or `polite` is missing");
    }
    phone.close().await;
    Ok("hello was first".into())
}

async fn polite(server: &ServerUnderTest) -> Finding {
    let mut mac = server.join(Party::Mac).await?;
    let mut phone = server.join(Party::Phone).await?;
    let roles =
        [&hello_message(&mut phone).await?["polite"], &hello_message(&mut mac).await?["polite"]]
            .map(Clone::clone);
    leave(phone, mac).await;
    match roles {
        [Value::Bool(false), Value::Bool(true)] => Ok("as expected".into()),
        [phone, mac] => violation(format!("phone {phone}, Mac {mac}")),
    }
}

async fn peer_present(server: &ServerUnderTest) -> Finding {
    let mut seen = Vec::new();
    for order in [[Party::Phone, Party::Mac], [Party::Mac, Party::Phone]] {
        let mut first = server.join(order[0]).await?;
        let mut second = server.join(order[1]).await?;
        seen.push(hello_message(&mut first).await?["peerPresent"].clone());
        seen.push(hello_message(&mut second).await?["peerPresent"].clone());
        leave(first, second).await;
    }
    if seen == [false, true, false, true] {
        Ok("as expected".into())
    } else {
        violation(format!("peerPresent was {seen:?}"))
    }
}

async fn peer_joined(server: &ServerUnderTest) -> Finding {
    let mut phone = server.join(Party::Phone).await?;
    let mut conns = Vec::new();
    for _ in 0..2 {
        let mut mac = server.join(Party::Mac).await?;
        let hello = hello_message(&mut mac).await?;
        let joined = phone.server_message("peer-joined").await?;
        if joined["deviceId"] != server.id(Party::Mac) || joined["connId"] != hello["connId"] {
            return violation("peer-joined names a different device or socket");
        }
        conns.push(joined["connId"].clone());
        mac.close().await;
    }
    phone.close().await;
    if conns[0] == conns[1] {
        violation("two sockets had the same connId")
    } else {
        Ok("twice".into())
    }
}

async fn left(phone: &mut Socket, server: &ServerUnderTest, reason: &str) -> Finding {
    let left = phone.server_message("peer-left").await?;
    if left["deviceId"] != server.id(Party::Mac) || left["reason"] != reason {
        return violation(format!("peer-left with reason {}", left["reason"]));
    }
    Ok(format!("peer-left, {reason}"))
}

async fn peer_left(server: &ServerUnderTest) -> Finding {
    let (mut phone, mac) = server.both().await?;
    mac.close().await;
    let seen = left(&mut phone, server, "closed").await?;
    phone.close().await;
    Ok(seen)
}

async fn peer_left_reset(server: &ServerUnderTest) -> Finding {
    let (mut phone, mac) = server.both().await?;
    drop(mac);
    let seen = left(&mut phone, server, "closed").await?;
    phone.close().await;
    Ok(seen)
}
