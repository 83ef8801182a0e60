//! What the server itself says on a socket: hello, and who came and went.

use serde_json::Value;

use super::signal::leave;
use crate::check::{
    forge::Template,
    rule::{Lane, Miss, Rule, Seen, broken},
    site::{Site, Who},
    socket::Socket,
};

const fn in_room(rule: Rule) -> Rule {
    rule.lane(Lane::Room)
}

/// The rules.
pub const RULES: &[Rule] = &[
    in_room(Rule::new(
        "signal.hello",
        [
            "A socket first hears hello {connId, deviceId, polite, peerPresent, exp}.",
            "hello first, deviceId and exp as in the token",
            "send hello before anything else",
        ],
        |site| Box::pin(hello(site)),
    )),
    in_room(Rule::new(
        "signal.polite",
        [
            "The sender's role is impolite, the receiver's polite (W3C perfect negotiation).",
            "polite false for the phone, true for the Mac",
            "take the role from the pair, not from the order of joining",
        ],
        |site| Box::pin(polite(site)),
    )),
    in_room(Rule::new(
        "signal.peer-present",
        [
            "hello tells whether the other device is there.",
            "peerPresent false for the first to come, true for the second",
            "look at the room when a device joins it",
        ],
        |site| Box::pin(peer_present(site)),
    )),
    in_room(Rule::new(
        "signal.peer-joined",
        [
            "When the other device comes, or comes back, there is peer-joined {deviceId, connId}.",
            "peer-joined with the connId of its hello, a new one each time",
            "tell the other socket of the pair when a device joins",
        ],
        |site| Box::pin(peer_joined(site)),
    )),
    in_room(Rule::new(
        "signal.peer-left",
        [
            "When the other device closes its socket, there is peer-left {deviceId, reason: closed}.",
            "peer-left with reason closed",
            "tell the other socket of the pair when a device leaves",
        ],
        |site| Box::pin(peer_left(site)),
    )),
    in_room(Rule::new(
        "signal.peer-left-reset",
        [
            "A connection that breaks without a close frame is a socket that is gone.",
            "peer-left with reason closed",
            "treat the end of the connection as the end of the socket",
        ],
        |site| Box::pin(peer_left_reset(site)),
    )),
];

async fn greeted(socket: &mut Socket) -> Result<Value, Miss> {
    socket.notice("hello").await
}

async fn hello(site: &Site) -> Seen {
    let token = site.token(Who::Phone).await?;
    let exp = Template::of(&token).map(|template| template.claims["exp"].clone());
    let mut phone = site.join(Who::Phone).await?;
    let hello = greeted(&mut phone).await?;
    if phone.first() != Some("hello") {
        return broken("hello is not the first message");
    }
    if hello["deviceId"] != site.id(Who::Phone) || hello["pairId"] != site.pair().await? {
        return broken("hello names another device or pair");
    }
    if Some(&hello["exp"]) != exp.as_ref() {
        return broken("`exp` is not the token's");
    }
    if !hello["connId"].is_string() || !hello["polite"].is_boolean() {
        return broken("`connId` or `polite` is missing");
    }
    phone.close().await;
    Ok("hello came first".into())
}

async fn polite(site: &Site) -> Seen {
    let mut mac = site.join(Who::Mac).await?;
    let mut phone = site.join(Who::Phone).await?;
    let roles = [&greeted(&mut phone).await?["polite"], &greeted(&mut mac).await?["polite"]]
        .map(Clone::clone);
    leave(phone, mac).await;
    match roles {
        [Value::Bool(false), Value::Bool(true)] => Ok("as expected".into()),
        [phone, mac] => broken(format!("phone {phone}, Mac {mac}")),
    }
}

async fn peer_present(site: &Site) -> Seen {
    let mut seen = Vec::new();
    for order in [[Who::Phone, Who::Mac], [Who::Mac, Who::Phone]] {
        let mut first = site.join(order[0]).await?;
        let mut second = site.join(order[1]).await?;
        seen.push(greeted(&mut first).await?["peerPresent"].clone());
        seen.push(greeted(&mut second).await?["peerPresent"].clone());
        leave(first, second).await;
    }
    if seen == [false, true, false, true] {
        Ok("as expected".into())
    } else {
        broken(format!("peerPresent was {seen:?}"))
    }
}

async fn peer_joined(site: &Site) -> Seen {
    let mut phone = site.join(Who::Phone).await?;
    let mut conns = Vec::new();
    for _ in 0..2 {
        let mut mac = site.join(Who::Mac).await?;
        let hello = greeted(&mut mac).await?;
        let joined = phone.notice("peer-joined").await?;
        if joined["deviceId"] != site.id(Who::Mac) || joined["connId"] != hello["connId"] {
            return broken("peer-joined names another device or socket");
        }
        conns.push(joined["connId"].clone());
        mac.close().await;
    }
    phone.close().await;
    if conns[0] == conns[1] { broken("two sockets had one connId") } else { Ok("twice".into()) }
}

async fn left(phone: &mut Socket, site: &Site, reason: &str) -> Seen {
    let left = phone.notice("peer-left").await?;
    if left["deviceId"] != site.id(Who::Mac) || left["reason"] != reason {
        return broken(format!("peer-left with reason {}", left["reason"]));
    }
    Ok(format!("peer-left, {reason}"))
}

async fn peer_left(site: &Site) -> Seen {
    let (mut phone, mac) = site.both().await?;
    mac.close().await;
    let seen = left(&mut phone, site, "closed").await?;
    phone.close().await;
    Ok(seen)
}

async fn peer_left_reset(site: &Site) -> Seen {
    let (mut phone, mac) = site.both().await?;
    drop(mac);
    let seen = left(&mut phone, site, "closed").await?;
    phone.close().await;
    Ok(seen)
}
