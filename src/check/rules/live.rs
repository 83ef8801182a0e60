//! What happens to a live socket over time: dead peers, expiry, restart, revocation.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use super::signal::leave;
use crate::{
    auth::unix_now,
    check::{
        forge::Template,
        rule::{Lane, Miss, Need, Rule, Seen, broken},
        site::{Knock, Site, Who},
        socket::Socket,
    },
    proto::{
        claims::{LEEWAY_S, MAX_LIFETIME_S},
        signaling::close,
    },
};

/// Life of the tokens made to see them expire, seconds.
const SHORT_S: u64 = 3;

/// Between two looks at whether a revocation or a restart shows.
const LOOK_EVERY: Duration = Duration::from_secs(1);

const fn slow(rule: Rule) -> Rule {
    rule.slow().lane(Lane::Room)
}

/// The rules, in the order in which they may run: nothing works after a revocation.
pub const RULES: &[Rule] = &[
    slow(Rule::new(
        "close.4002-no-pong",
        [
            "A dead peer is noticed: a ping every 25 s, 10 s for the pong.",
            "close code 4002 and peer-left (timeout) within 35 s; who answers pings stays",
            "ping from the server, and close the socket when no pong comes",
        ],
        |site| Box::pin(dead_peer(site)),
    )),
    slow(Rule::new(
        "close.4001-expired",
        [
            "A token that expires on a live socket ends it, 25 s later.",
            "close code 4001 and peer-left (expired), not before exp and within 25 s after it",
            "watch exp of live sockets; --connect-only is for servers that check at connect only",
        ],
        |site| Box::pin(expired(site)),
    ))
    .needs(&[Need::LiveExpiry]),
    slow(Rule::new(
        "signal.auth-renews",
        [
            "A socket whose token was renewed by auth outlasts the old one.",
            "still open 30 s after the first token's exp",
            "move the expiry of the socket when auth-ok is sent",
        ],
        |site| Box::pin(renewed(site)),
    ))
    .needs(&[Need::LiveExpiry, Need::JwtSecret]),
    Rule::new(
        "close.1012-restart",
        [
            "A server that restarts says so, and lets the devices in again.",
            "close code 1012 for both, then HTTP 101",
            "close sockets with 1012 on SIGTERM, before the process ends",
        ],
        |site| Box::pin(restart(site)),
    )
    .slow()
    .lane(Lane::Last)
    .needs(&[Need::RestartCommand]),
    Rule::new(
        "close.4503-revoked",
        [
            "A pair that is revoked is cut off at most 30 s later.",
            "peer-left (revoked) and close code 4503 for both",
            "look again and again whether the pairs of live sockets are active, or be told",
        ],
        |site| Box::pin(revoked(site)),
    )
    .slow()
    .lane(Lane::Last)
    .needs(&[Need::RevokeCommand]),
    Rule::new(
        "handshake.403-revoked",
        [
            "A token from before a revocation is worth nothing after it.",
            "HTTP 403 at most 30 s later (production: any refusal)",
            "look the pair up at the handshake, and cache it for 30 s at most",
        ],
        |site| Box::pin(revoked_handshake(site)),
    )
    .production()
    .slow()
    .lane(Lane::Last)
    .needs(&[Need::RevokeCommand]),
    Rule::new(
        "token.403-revoked",
        [
            "There is no token for a revoked pair.",
            "HTTP 403 {code, message} at most 30 s later (production: any 4xx)",
            "give tokens for active pairs only",
        ],
        |site| Box::pin(revoked_token(site)),
    )
    .production()
    .slow()
    .lane(Lane::Last)
    .needs(&[Need::TokenApi, Need::RevokeCommand]),
];

async fn left_with(socket: &mut Socket, reason: &str, within: Duration) -> Result<(), Miss> {
    let left = socket.notice_within("peer-left", within).await?;
    if left["reason"] == reason {
        Ok(())
    } else {
        broken(format!("peer-left with reason {}", left["reason"]))
    }
}

async fn dead_peer(site: &Site) -> Seen {
    // Nothing is read from the Mac, so no ping of it is answered.
    let (mut phone, mut mac) = site.both().await?;
    let begun = Instant::now();
    left_with(&mut phone, "timeout", site.config.patience.dead).await?;
    let after = begun.elapsed().as_secs_f64();
    let seen = mac.closed_with(close::NO_PONG, site.config.patience.answer).await?;
    if mac.pings() == 0 {
        return broken(format!("{seen}, but no ping came"));
    }
    phone.close().await;
    Ok(format!("{seen} after {after:.0} s"))
}

/// A token of the phone that is soon over, and its `exp`.
async fn short_token(site: &Site) -> Result<(String, u64), Miss> {
    if site.signer.is_some() {
        let exp = unix_now() + SHORT_S;
        let token = site.forge(Who::Phone, |t| t.claim("exp", exp)).await?;
        return Ok((token, exp));
    }
    let token = site.new_token(Who::Phone).await?;
    let exp = Template::of(&token).and_then(|template| template.claims["exp"].as_u64());
    Ok((token, exp.ok_or_else(|| Miss::Broken("the token has no `exp`".into()))?))
}

/// How long a token with this `exp` is good. The server may have said any number.
fn left(exp: u64) -> Result<Duration, Miss> {
    let seconds = exp.saturating_sub(unix_now());
    if seconds > MAX_LIFETIME_S + LEEWAY_S {
        return broken(format!("`exp` is {seconds} s ahead"));
    }
    Ok(Duration::from_secs(seconds))
}

async fn expired(site: &Site) -> Seen {
    let (token, exp) = short_token(site).await?;
    let mut phone = site.join_with(&Knock::with(token)).await?;
    let mut mac = site.join(Who::Mac).await?;
    let left = left(exp)?;
    let within = left + site.config.patience.grace;
    // Both are read from: the Mac has to answer pings meanwhile.
    let (end, told) = tokio::join!(
        phone.closed_with(close::TOKEN_EXPIRED, within),
        left_with(&mut mac, "expired", within),
    );
    let seen = end?;
    if unix_now() < exp {
        return broken(format!("{seen}, {} s too early", exp - unix_now()));
    }
    told?;
    mac.close().await;
    Ok(format!("{seen} {} s after exp", unix_now() - exp))
}

async fn renewed(site: &Site) -> Seen {
    let (token, exp) = short_token(site).await?;
    let mut phone = site.join_with(&Knock::with(token)).await?;
    let fresh = site.token(Who::Phone).await?;
    let auth = json!({"t": "auth", "pairId": site.pair().await?, "token": fresh});
    phone.send(&auth.to_string()).await?;
    phone.notice("auth-ok").await?;
    let left = left(exp)?;
    phone.read_for(left + site.config.patience.grace).await;
    if let Some(end) = phone.end() {
        return broken(end.to_string());
    }
    phone.close().await;
    Ok(format!("open {} s after the first exp", unix_now().saturating_sub(exp)))
}

async fn restart(site: &Site) -> Seen {
    let (mut phone, mut mac) = site.both().await?;
    let within = site.config.patience.restart;
    let command = site.config.restart_command.as_deref().unwrap_or("false");
    let (ran, on_phone, on_mac) = tokio::join!(
        site.shell(command),
        phone.closed_with(close::RESTART, within),
        mac.closed_with(close::RESTART, within),
    );
    ran?;
    let seen = on_phone.and(on_mac)?;
    drop((phone, mac));
    let deadline = Instant::now() + within;
    loop {
        // Its keys may be others now.
        site.forget_tokens().await;
        match site.join(Who::Phone).await {
            Ok(phone) => {
                phone.close().await;
                return Ok(format!("{seen}, and let in again"));
            }
            Err(Miss::Broken(why)) if Instant::now() > deadline => {
                return broken(format!("{seen}, but not let in again: {why}"));
            }
            Err(Miss::Broken(_)) => sleep(LOOK_EVERY).await,
            Err(not_run) => return Err(not_run),
        }
    }
}

async fn revoked(site: &Site) -> Seen {
    let (mut phone, mut mac) = site.both().await?;
    site.revoke().await?;
    let (begun, within) = (Instant::now(), site.config.patience.revocation);
    let (on_phone, on_mac) = tokio::join!(
        phone.closed_with(close::PAIR_REVOKED, within),
        mac.closed_with(close::PAIR_REVOKED, within),
    );
    let seen = on_phone.and(on_mac)?;
    let after = begun.elapsed().as_secs_f64();
    for socket in [&mut phone, &mut mac] {
        if socket.take_notice("peer-left").is_none_or(|left| left["reason"] != "revoked") {
            return broken(format!("{seen}, but no peer-left (revoked) before it"));
        }
    }
    leave(phone, mac).await;
    Ok(format!("{seen} after {after:.0} s"))
}

/// Looks again and again until a refusal shows, or 30 s are over.
async fn refused_soon<F: Future<Output = Seen>>(site: &Site, look: impl Fn() -> F) -> Seen {
    site.revoke().await?;
    let deadline = Instant::now() + site.config.patience.revocation;
    loop {
        match look().await {
            Err(Miss::Broken(_)) if Instant::now() < deadline => {
                sleep(LOOK_EVERY.min(site.config.patience.quiet)).await;
            }
            seen => return seen,
        }
    }
}

async fn revoked_handshake(site: &Site) -> Seen {
    let token = site.token(Who::Phone).await?;
    refused_soon(site, || async { site.refused(&Knock::with(token.clone()), 403).await }).await
}

async fn revoked_token(site: &Site) -> Seen {
    let login = site.login(Who::Phone)?;
    let body = site.token_request(Who::Phone).to_string();
    refused_soon(site, || async {
        site.no_token(&site.ask_politely(Some(&login), &body).await?, 403)
    })
    .await
}
