//! `GET /api/signal`: how a token may be presented, and what is rejected before the upgrade.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout},
};

use crate::{
    check::{
        finding::{Finding, violation},
        level::Need,
        plan::TokenIn,
        rule::{Rule, Schedule},
        server::{HandshakeAttempt, NONCE, Party, ServerUnderTest},
        wire::{Request, connect, connect_tcp},
    },
    proto::signaling::{BEARER_SUBPROTOCOL, SUBPROTOCOL},
};

/// The rules.
pub const RULES: &[Rule] = &[
    Rule::new(
        "handshake.101",
        [
            "A valid token is accepted.",
            "HTTP 101 with the Sec-WebSocket-Accept of RFC 6455",
            "see the server's log; `orion-peer token inspect` shows the token's claims",
        ],
        |server| Box::pin(upgraded(server)),
    )
    .production()
    .schedule(Schedule::First),
    Rule::new(
        "handshake.subprotocol",
        [
            "The subprotocols `orion.v1, bearer.<jwt>` may carry the token; only orion.v1 is echoed.",
            "HTTP 101 with Sec-WebSocket-Protocol: orion.v1",
            "read the token from Sec-WebSocket-Protocol, and select orion.v1 in the response",
        ],
        |server| Box::pin(subprotocol(server)),
    )
    .schedule(Schedule::Room),
    Rule::new(
        "handshake.bearer-not-echoed",
        [
            "The subprotocol that carries the token is never echoed.",
            "a response that does not contain the token",
            "select the subprotocol by name, not the first or last one offered",
        ],
        |server| Box::pin(not_echoed(server)),
    )
    .production()
    .schedule(Schedule::Room),
    Rule::new(
        "handshake.query",
        [
            "`?token=` is accepted if the server allows it, and ignored otherwise.",
            "HTTP 101 or 401",
            "answer 401 if the query is not used",
        ],
        |server| Box::pin(query(server)),
    )
    .schedule(Schedule::Room),
    Rule::new(
        "handshake.401-no-token",
        [
            "Requests without a token are rejected.",
            "HTTP 401 (production: any rejection)",
            "check the token before the upgrade",
        ],
        |server| Box::pin(async { server.expect_rejected(&HandshakeAttempt::default(), 401).await }),
    )
    .production()
    .schedule(Schedule::Room),
    Rule::new(
        "handshake.401-garbage",
        [
            "Malformed tokens are rejected.",
            "HTTP 401 (production: any rejection)",
            "check the token before the upgrade",
        ],
        |server| Box::pin(garbage(server)),
    )
    .production()
    .schedule(Schedule::Room),
    Rule::new(
        "handshake.403-origin",
        [
            "An Origin header, if present, must be on the server's list.",
            "HTTP 403 for https://orion-check.invalid",
            "compare Origin with a list of allowed origins, character by character",
        ],
        |server| Box::pin(origin(server)),
    )
    .schedule(Schedule::Room),
    Rule::new(
        "handshake.426",
        [
            "A request without an upgrade is answered with 426 Upgrade Required.",
            "HTTP 426 with Upgrade: websocket",
            "check the upgrade headers first",
        ],
        |server| Box::pin(no_upgrade(server)),
    ),
    Rule::new(
        "handshake.slow-header",
        [
            "A client has 5 s to send the request header.",
            "the connection is closed when the header stays incomplete",
            "set a header timeout in the server or in the proxy in front of it",
        ],
        |server| Box::pin(slow_header(server)),
    )
    .slow(),
    Rule::new(
        "handshake.slow-tls",
        [
            "A client has 5 s for the TLS handshake.",
            "the connection is closed when no ClientHello arrives",
            "set a TLS handshake timeout in the server or in the proxy in front of it",
        ],
        |server| Box::pin(slow_tls(server)),
    )
    .slow()
    .needs(&[Need::Tls]),
];

async fn upgraded(server: &ServerUnderTest) -> Finding {
    let token = server.token(Party::Phone).await?;
    let answer = server.handshake_and_close(&HandshakeAttempt::with(token)).await?;
    if answer.status != 101 {
        return violation(answer.summary());
    }
    match answer.header("sec-websocket-accept") {
        Some(accept) if accept == NONCE[1] => Ok("HTTP 101".into()),
        _ => violation("HTTP 101 with a wrong or missing Sec-WebSocket-Accept"),
    }
}

async fn subprotocol(server: &ServerUnderTest) -> Finding {
    let attempt = HandshakeAttempt {
        token_in: Some(TokenIn::Subprotocol),
        ..HandshakeAttempt::with(server.token(Party::Phone).await?)
    };
    let answer = server.handshake_and_close(&attempt).await?;
    if answer.status != 101 {
        return violation(answer.summary());
    }
    match answer.header("sec-websocket-protocol") {
        Some(SUBPROTOCOL) => Ok("HTTP 101 with orion.v1".into()),
        Some(other) if other.contains(BEARER_SUBPROTOCOL) => {
            // Reported by the rule handshake.bearer-not-echoed.
            Ok("HTTP 101".into())
        }
        Some(_) => violation("HTTP 101 with a subprotocol other than orion.v1"),
        None => violation("HTTP 101 without a subprotocol: browsers close the connection"),
    }
}

async fn not_echoed(server: &ServerUnderTest) -> Finding {
    let token = server.token(Party::Phone).await?;
    let signature = token.rsplit('.').next().unwrap_or_default().to_owned();
    let attempt =
        HandshakeAttempt { token_in: Some(TokenIn::Subprotocol), ..HandshakeAttempt::with(token) };
    let answer = server.handshake_and_close(&attempt).await?;
    if !signature.is_empty() && answer.contains(&signature) {
        return violation(format!("the response contains the token, HTTP {}", answer.status));
    }
    Ok(answer.summary())
}

async fn query(server: &ServerUnderTest) -> Finding {
    let token = server.token(Party::Phone).await?;
    let attempt =
        HandshakeAttempt { token_in: Some(TokenIn::Query), ..HandshakeAttempt::with(token) };
    let answer = server.handshake_and_close(&attempt).await?;
    match answer.status {
        101 | 401 => Ok(answer.summary()),
        _ => violation(answer.summary()),
    }
}

async fn garbage(server: &ServerUnderTest) -> Finding {
    let mut seen = String::new();
    for token in ["nonsense", "a.b.c", "e30.e30.e30", ".."] {
        seen = server.expect_rejected(&HandshakeAttempt::with(token), 401).await?;
    }
    Ok(seen)
}

async fn origin(server: &ServerUnderTest) -> Finding {
    let token = server.token(Party::Phone).await?;
    let attempt = HandshakeAttempt {
        origin: Some("https://orion-check.invalid"),
        ..HandshakeAttempt::with(token)
    };
    server.expect_rejected(&attempt, 403).await
}

async fn no_upgrade(server: &ServerUnderTest) -> Finding {
    let url = &server.config.signal;
    let request = Request::new("GET", url)
        .header("Authorization", &format!("Bearer {}", server.token(Party::Phone).await?))
        .header("Connection", "close");
    let connected = connect(url, &server.config.trust, None).await;
    let Ok(mut stream) = connected else { return violation("cannot connect") };
    let answer = request.exchange(&mut stream).await?;
    let upgrade = answer.header("upgrade").unwrap_or_default().to_ascii_lowercase();
    match answer.status {
        426 if upgrade.contains("websocket") => Ok(answer.summary()),
        426 => violation("HTTP 426 without Upgrade: websocket"),
        _ => violation(answer.summary()),
    }
}

async fn slow_header(server: &ServerUnderTest) -> Finding {
    let url = &server.config.signal;
    let connected = connect(url, &server.config.trust, None).await;
    let Ok(mut stream) = connected else { return violation("cannot connect") };
    let half = format!("GET {} HTTP/1.1\r\nHost: orion", url.path());
    if stream.write_all(half.as_bytes()).await.is_err() || stream.flush().await.is_err() {
        return violation("the connection broke while sending the header");
    }
    closed_in_time(server, &mut stream).await
}

async fn slow_tls(server: &ServerUnderTest) -> Finding {
    match connect_tcp(&server.config.signal, None).await {
        Ok(mut stream) => closed_in_time(server, &mut stream).await,
        Err(error) => violation(format!("cannot connect: {error}")),
    }
}

/// Expects the server to close the connection in time.
async fn closed_in_time(
    server: &ServerUnderTest,
    stream: &mut (impl tokio::io::AsyncRead + Unpin),
) -> Finding {
    let (within, started) = (server.config.timeouts.handshake, Instant::now());
    let mut rest = [0; 1024];
    // A reset ends the connection, too.
    let end = async { while matches!(stream.read(&mut rest).await, Ok(read) if read > 0) {} };
    let waited = || started.elapsed().as_secs_f64();
    match timeout(within, end).await {
        Ok(()) => Ok(format!("closed after {:.1} s", waited())),
        Err(_) => violation(format!("still open after {:.1} s", waited())),
    }
}
