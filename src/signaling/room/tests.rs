//! The actions of a room for each event.

use super::*;

fn room() -> Room {
    Room::new("p".into(), Arc::default())
}

fn join(room: &mut Room, role: Role, conn: &str) -> Vec<String> {
    let device = if role == Role::Phone { "phone" } else { "mac" };
    shown(&room.join(role, &device.into(), &conn.into(), 9))
}

fn relay(room: &mut Room, role: Role, conn: &str, kind: Kind, text: &str) -> Relayed {
    room.relay(role, &conn.into(), kind, text.into()).0
}

/// Each action as a short text, `conn: action`, for comparison.
fn shown(actions: &[Action]) -> Vec<String> {
    let show = |action: &Action| match action {
        Action::Send { to, text } => {
            let message = Message::parse(text).unwrap();
            match message.body {
                Body::Hello { polite, peer_present, .. } => {
                    format!("{to}: hello polite={polite} peer={peer_present}")
                }
                Body::PeerLeft { reason, .. } => format!("{to}: left {reason:?}"),
                Body::PeerJoined { conn_id, .. } => format!("{to}: joined {conn_id}"),
                body => format!("{to}: {}", body.t()),
            }
        }
        Action::Flush { to, text } => format!("{to}: held {text}"),
        Action::Close { conn, code, .. } => format!("{conn}: close {code}"),
        Action::Bus(command) => panic!("a room without a bus returned {command:?}"),
        Action::Note(note) => panic!("a room without a bus returned {note:?}"),
    };
    actions.iter().map(show).collect()
}

#[test]
fn the_phone_is_impolite_and_each_device_is_notified_of_the_other() {
    let mut room = room();
    assert_eq!(join(&mut room, Role::Phone, "a"), ["a: hello polite=false peer=false"]);
    assert_eq!(join(&mut room, Role::Mac, "b"), ["b: hello polite=true peer=true", "a: joined b"]);
    let left = room.leave(Role::Phone, &"a".into(), LeaveReason::Timeout);
    assert_eq!(shown(&[left.unwrap()]), ["b: left Timeout"]);
    assert!(room.leave(Role::Mac, &"b".into(), LeaveReason::Closed).is_none());
    assert!(room.is_empty());
}

#[test]
fn a_newer_socket_takes_over_and_the_end_of_the_old_one_is_ignored() {
    let mut room = room();
    join(&mut room, Role::Phone, "a");
    join(&mut room, Role::Mac, "b");
    assert_eq!(
        join(&mut room, Role::Phone, "c"),
        ["a: close 4502", "b: left Replaced", "c: hello polite=false peer=true", "b: joined c"]
    );
    assert_eq!(relay(&mut room, Role::Phone, "a", Kind::Offer, "late"), Relayed::Stale);
    assert!(room.leave(Role::Phone, &"a".into(), LeaveReason::Closed).is_none());
    assert_eq!(relay(&mut room, Role::Phone, "c", Kind::Offer, "now"), Relayed::Delivered);
}

#[test]
fn the_latest_offer_and_its_candidates_are_held() {
    let mut room = room();
    join(&mut room, Role::Phone, "a");
    for (kind, text) in [
        (Kind::Ice, "early"),
        (Kind::Offer, "first"),
        (Kind::Ice, "of-first"),
        (Kind::Offer, "second"),
        (Kind::Ice, "of-second"),
    ] {
        assert_eq!(relay(&mut room, Role::Phone, "a", kind, text), Relayed::Held);
    }
    assert_eq!(relay(&mut room, Role::Phone, "a", Kind::Answer, "x"), Relayed::Dropped);
    let joined = join(&mut room, Role::Mac, "b");
    assert_eq!(joined[2..], ["b: held second", "b: held of-second"]);
    room.leave(Role::Mac, &"b".into(), LeaveReason::Closed);
    assert_eq!(join(&mut room, Role::Mac, "c").len(), 2, "nothing is flushed twice");
}

#[test]
fn candidates_sent_before_the_first_offer_are_delivered_before_it() {
    let mut room = room();
    join(&mut room, Role::Phone, "a");
    relay(&mut room, Role::Phone, "a", Kind::Ice, "early");
    relay(&mut room, Role::Phone, "a", Kind::Offer, "offer");
    assert_eq!(join(&mut room, Role::Mac, "b")[2..], ["b: held early", "b: held offer"]);
}

#[test]
fn held_messages_are_limited_and_discarded_with_the_senders_socket() {
    let mut room = room();
    join(&mut room, Role::Phone, "a");
    relay(&mut room, Role::Phone, "a", Kind::Offer, "offer");
    let held = (0..100)
        .filter(|_| relay(&mut room, Role::Phone, "a", Kind::Ice, "c") == Relayed::Held)
        .count();
    assert_eq!(held, 64);
    let big = "x".repeat(200 * 1024);
    assert_eq!(relay(&mut room, Role::Phone, "a", Kind::Offer, &big), Relayed::Held);
    assert_eq!(relay(&mut room, Role::Phone, "a", Kind::Ice, &big), Relayed::Dropped);
    join(&mut room, Role::Phone, "b");
    assert_eq!(join(&mut room, Role::Mac, "c").len(), 2, "the new socket has not sent an offer");
}

#[test]
fn bye_withdraws_a_held_offer() {
    let mut room = room();
    join(&mut room, Role::Phone, "a");
    relay(&mut room, Role::Phone, "a", Kind::Offer, "offer");
    relay(&mut room, Role::Phone, "a", Kind::Bye, "bye");
    assert_eq!(join(&mut room, Role::Mac, "b").len(), 2);
}

#[test]
fn state_is_relayed_only_to_a_present_peer() {
    let mut room = room();
    join(&mut room, Role::Phone, "a");
    relay(&mut room, Role::Phone, "a", Kind::Offer, "offer");
    assert_eq!(relay(&mut room, Role::Phone, "a", Kind::State, "state"), Relayed::Dropped);
    assert_eq!(join(&mut room, Role::Mac, "b")[2..], ["b: held offer"]);
    assert_eq!(relay(&mut room, Role::Mac, "b", Kind::State, "state"), Relayed::Delivered);
}

#[test]
fn revocation_notifies_and_closes_both_sockets() {
    let mut room = room();
    join(&mut room, Role::Phone, "a");
    join(&mut room, Role::Mac, "b");
    assert_eq!(
        shown(&room.revoke()),
        ["a: left Revoked", "a: close 4503", "b: left Revoked", "b: close 4503"]
    );
    assert!(room.is_empty());
}
