//! Events in the life of a socket: dead peers, expiry, restart, revocation.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use super::signal::leave;
use crate::{
    auth::unix_now,
    check::{
        finding::{CaseError, Finding, violation},
        forge::Template,
        level::Need,
        rule::{Rule, Schedule},
        server::{HandshakeAttempt, Party, ServerUnderTest},
        socket::Socket,
    },
    proto::{
        claims::{LEEWAY_S, MAX_LIFETIME_S},
        signaling::close,
    },
};

/// Lifetime of tokens that must expire during a case, seconds.
const SHORT_LIFETIME_S: u64 = 3;

/// Interval at which the effect of a revocation or restart is polled.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

const fn slow(rule: Rule) -> Rule {
    rule.slow().schedule(Schedule::Room)
}

/// The rules, in the order in which they run; revocation is last, because nothing works after it.
pub const RULES: &[Rule] = &[
    slow(Rule::new(
        "close.4002-no-pong",
        [
            "A dead peer is detected: a ping every 25 s, 10 s for the pong.",
            "close code 4002 and peer-left (timeout) within 35 s; a device that answers pings stays connected",
            "send pings from the server, and close the socket if no pong arrives",
        ],
        |server| Box::pin(dead_peer(server)),
    )),
    slow(Rule::new(
        "close.4001-expired",
        [
            "A socket is closed at most 25 s after its token expires.",
            "close code 4001 and peer-left (expired), not before exp and within 25 s after it",
            "enforce exp on live sockets; use --connect-only for servers that check at connect only",
        ],
        |server| Box::pin(expired(server)),
    ))
    .needs(&[Need::LiveExpiry]),
    slow(Rule::new(
        "signal.auth-renews",
        [
            "A socket whose token was renewed with auth stays open when the old token expires.",
            "still open 30 s after the first token's exp",
            "update the expiry of the socket when auth-ok is sent",
        ],
        |server| Box::pin(renewed(server)),
    ))
    .needs(&[Need::LiveExpiry, Need::JwtSecret]),
    Rule::new(
        "close.1012-restart",
        [
            "A server that restarts announces this with a close code and accepts the devices again \
             afterward.",
            "close code 1012 for both, then HTTP 101",
            "close sockets with 1012 on SIGTERM, before the process exits",
        ],
        |server| Box::pin(restart(server)),
    )
    .slow()
    .schedule(Schedule::Last)
    .needs(&[Need::RestartCommand]),
    Rule::new(
        "close.4503-revoked",
        [
            "The sockets of a revoked pair are closed within 30 s.",
            "peer-left (revoked) and close code 4503 for both",
            "poll whether the pairs of live sockets are active, or subscribe to changes",
        ],
        |server| Box::pin(revoked(server)),
    )
    .slow()
    .schedule(Schedule::Last)
    .needs(&[Need::RevokeCommand]),
    Rule::new(
        "handshake.403-revoked",
        [
            "A token issued before a revocation is rejected after it.",
            "HTTP 403 within 30 s (production: any rejection)",
            "look the pair up at the handshake, and cache it for at most 30 s",
        ],
        |server| Box::pin(revoked_handshake(server)),
    )
    .production()
    .slow()
    .schedule(Schedule::Last)
    .needs(&[Need::RevokeCommand]),
    Rule::new(
        "token.403-revoked",
        [
            "Token requests for a revoked pair are rejected.",
            "HTTP 403 {code, message} within 30 s (production: any 4xx)",
            "issue tokens for active pairs only",
        ],
        |server| Box::pin(revoked_token(server)),
    )
    .production()
    .slow()
    .schedule(Schedule::Last)
    .needs(&[Need::TokenApi, Need::RevokeCommand]),
];

async fn left_with(socket: &mut Socket, reason: &str, within: Duration) -> Result<(), CaseError> {
    let left = socket.server_message_within("peer-left", within).await?;
    if left["reason"] == reason {
        Ok(())
    } else {
        violation(format!("peer-left with reason {}", left["reason"]))
    }
}

async fn dead_peer(server: &ServerUnderTest) -> Finding {
    // Nothing reads the Mac's socket, so it answers no pings.
    let (mut phone, mut mac) = server.both().await?;
    let started = Instant::now();
    left_with(&mut phone, "timeout", server.config.timeouts.dead).await?;
    let after = started.elapsed().as_secs_f64();
    let seen = mac.closed_with(close::NO_PONG, server.config.timeouts.answer).await?;
    if mac.pings() == 0 {
        return violation(format!("{seen}, but no ping was received"));
    }
    phone.close().await;
    Ok(format!("{seen} after {after:.0} s"))
}

/// A token of the phone that expires soon, and its `exp`.
async fn short_token(server: &ServerUnderTest) -> Result<(String, u64), CaseError> {
    if server.signer.is_some() {
        let exp = unix_now() + SHORT_LIFETIME_S;
        let token = server.forge(Party::Phone, |t| t.claim("exp", exp)).await?;
        return Ok((token, exp));
    }
    let token = server.new_token(Party::Phone).await?;
    let exp = Template::of(&token).and_then(|template| template.claims["exp"].as_u64());
    Ok((token, exp.ok_or_else(|| CaseError::Violation("the token has no `exp`".into()))?))
}

/// Remaining lifetime of a token with this `exp`, which may be any number the server chose.
fn remaining(exp: u64) -> Result<Duration, CaseError> {
    let seconds = exp.saturating_sub(unix_now());
    if seconds > MAX_LIFETIME_S + LEEWAY_S {
        return violation(format!("`exp` is {seconds} s in the future"));
    }
    Ok(Duration::from_secs(seconds))
}

async fn expired(server: &ServerUnderTest) -> Finding {
    let (token, exp) = short_token(server).await?;
    let mut phone = server.join_with(&HandshakeAttempt::with(token)).await?;
    let mut mac = server.join(Party::Mac).await?;
    let within = remaining(exp)? + server.config.timeouts.grace;
    // Both sockets are read: the Mac must keep answering pings.
    let (end, left) = tokio::join!(
        phone.closed_with(close::TOKEN_EXPIRED, within),
        left_with(&mut mac, "expired", within),
    );
    let seen = end?;
    if unix_now() < exp {
        return violation(format!("{seen}, {} s too early", exp - unix_now()));
    }
    left?;
    mac.close().await;
    Ok(format!("{seen} {} s after exp", unix_now() - exp))
}

async fn renewed(server: &ServerUnderTest) -> Finding {
    let (token, exp) = short_token(server).await?;
    let mut phone = server.join_with(&HandshakeAttempt::with(token)).await?;
    let fresh = server.token(Party::Phone).await?;
    let auth = json!({"t": "auth", "pairId": server.pair().await?, "token": fresh});
    phone.send(&auth.to_string()).await?;
    phone.server_message("auth-ok").await?;
    phone.read_for(remaining(exp)? + server.config.timeouts.grace).await;
    if let Some(end) = phone.end() {
        return violation(end.to_string());
    }
    phone.close().await;
    Ok(format!("open {} s after the first exp", unix_now().saturating_sub(exp)))
}

async fn restart(server: &ServerUnderTest) -> Finding {
    let (mut phone, mut mac) = server.both().await?;
    let within = server.config.timeouts.restart;
    let command = server.config.restart_command.as_deref().unwrap_or("false");
    let (ran, on_phone, on_mac) = tokio::join!(
        server.shell(command),
        phone.closed_with(close::RESTART, within),
        mac.closed_with(close::RESTART, within),
    );
    ran?;
    let seen = on_phone.and(on_mac)?;
    drop((phone, mac));
    let deadline = Instant::now() + within;
    loop {
        // The server's keys may have changed.
        server.forget_tokens().await;
        match server.join(Party::Phone).await {
            Ok(phone) => {
                phone.close().await;
                return Ok(format!("{seen}, then accepted again"));
            }
            Err(CaseError::Violation(why)) if Instant::now() > deadline => {
                return violation(format!("{seen}, but not accepted again: {why}"));
            }
            Err(CaseError::Violation(_)) => sleep(POLL_INTERVAL).await,
            Err(not_run) => return Err(not_run),
        }
    }
}

async fn revoked(server: &ServerUnderTest) -> Finding {
    let (mut phone, mut mac) = server.both().await?;
    server.revoke().await?;
    let (started, within) = (Instant::now(), server.config.timeouts.revocation);
    let (on_phone, on_mac) = tokio::join!(
        phone.closed_with(close::PAIR_REVOKED, within),
        mac.closed_with(close::PAIR_REVOKED, within),
    );
    let seen = on_phone.and(on_mac)?;
    let after = started.elapsed().as_secs_f64();
    for socket in [&mut phone, &mut mac] {
        if socket.take_server_message("peer-left").is_none_or(|left| left["reason"] != "revoked") {
            return violation(format!("{seen}, but no peer-left (revoked) before it"));
        }
    }
    leave(phone, mac).await;
    Ok(format!("{seen} after {after:.0} s"))
}

/// Polls until the server rejects a request or 30 s have elapsed.
async fn rejected_soon<F: Future<Output = Finding>>(
    server: &ServerUnderTest,
    check: impl Fn() -> F,
) -> Finding {
    server.revoke().await?;
    let deadline = Instant::now() + server.config.timeouts.revocation;
    loop {
        match check().await {
            Err(CaseError::Violation(_)) if Instant::now() < deadline => {
                sleep(POLL_INTERVAL.min(server.config.timeouts.quiet)).await;
            }
            seen => return seen,
        }
    }
}

async fn revoked_handshake(server: &ServerUnderTest) -> Finding {
    let token = server.token(Party::Phone).await?;
    rejected_soon(server, || async {
        server.expect_rejected(&HandshakeAttempt::with(token.clone()), 403).await
    })
    .await
}

async fn revoked_token(server: &ServerUnderTest) -> Finding {
    let login = server.login(Party::Phone)?;
    let body = server.token_request_body(Party::Phone).to_string();
    rejected_soon(server, || async {
        server.expect_no_token(&server.request_token_with_retries(Some(&login), &body).await?, 403)
    })
    .await
}
