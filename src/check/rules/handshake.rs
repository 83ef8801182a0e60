//! `GET /api/signal`: how a token may be shown, and what is refused before the upgrade.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout},
};

use crate::{
    check::{
        plan::TokenIn,
        rule::{Lane, Need, Rule, Seen, broken},
        site::{Knock, NONCE, Site, Who},
        wire::{Request, connect, connect_tcp},
    },
    proto::signaling::{BEARER_SUBPROTOCOL, SUBPROTOCOL},
};

/// The rules.
pub const RULES: &[Rule] = &[
    Rule::new(
        "handshake.101",
        [
            "A good token is let in.",
            "HTTP 101 with the Sec-WebSocket-Accept of RFC 6455",
            "see the server's log; `orion-peer token inspect` shows what the token says",
        ],
        |site| Box::pin(upgraded(site)),
    )
    .production()
    .lane(Lane::First),
    Rule::new(
        "handshake.subprotocol",
        [
            "The token may come by the subprotocols `orion.v1, bearer.<jwt>`; only orion.v1 is echoed.",
            "HTTP 101 with Sec-WebSocket-Protocol: orion.v1",
            "read the token from Sec-WebSocket-Protocol, and answer with orion.v1",
        ],
        |site| Box::pin(subprotocol(site)),
    )
    .lane(Lane::Room),
    Rule::new(
        "handshake.bearer-not-echoed",
        [
            "The subprotocol with the token is never echoed.",
            "an answer without the token in it",
            "choose the subprotocol by name, not the first or last one asked for",
        ],
        |site| Box::pin(not_echoed(site)),
    )
    .production()
    .lane(Lane::Room),
    Rule::new(
        "handshake.query",
        [
            "`?token=` is taken when the server allows it, and is no token at all otherwise.",
            "HTTP 101 or 401",
            "answer 401 where the query is not read",
        ],
        |site| Box::pin(query(site)),
    )
    .lane(Lane::Room),
    Rule::new(
        "handshake.401-no-token",
        [
            "Without a token there is no socket.",
            "HTTP 401 (production: any refusal)",
            "check the token before the upgrade",
        ],
        |site| Box::pin(async { site.refused(&Knock::default(), 401).await }),
    )
    .production()
    .lane(Lane::Room),
    Rule::new(
        "handshake.401-garbage",
        [
            "What is no token is refused.",
            "HTTP 401 (production: any refusal)",
            "check the token before the upgrade",
        ],
        |site| Box::pin(garbage(site)),
    )
    .production()
    .lane(Lane::Room),
    Rule::new(
        "handshake.403-origin",
        [
            "When there is an Origin it must be on the server's list.",
            "HTTP 403 for https://orion-check.invalid",
            "hold the Origin against a list, letter by letter",
        ],
        |site| Box::pin(origin(site)),
    )
    .lane(Lane::Room),
    Rule::new(
        "handshake.426",
        [
            "A request without the upgrade is told to upgrade.",
            "HTTP 426 with Upgrade: websocket",
            "check the upgrade's headers first",
        ],
        |site| Box::pin(no_upgrade(site)),
    ),
    Rule::new(
        "handshake.slow-header",
        [
            "A client has 5 s for the header.",
            "the connection is closed when half a header stays half",
            "set a header time-out in the server or the proxy before it",
        ],
        |site| Box::pin(slow_header(site)),
    )
    .slow(),
    Rule::new(
        "handshake.slow-tls",
        [
            "A client has 5 s for TLS.",
            "the connection is closed when no ClientHello comes",
            "set a TLS time-out in the server or the proxy before it",
        ],
        |site| Box::pin(slow_tls(site)),
    )
    .slow()
    .needs(&[Need::Tls]),
];

async fn upgraded(site: &Site) -> Seen {
    let token = site.token(Who::Phone).await?;
    let answer = site.knock_and_leave(&Knock::with(token)).await?;
    if answer.status != 101 {
        return broken(answer.summary());
    }
    match answer.header("sec-websocket-accept") {
        Some(accept) if accept == NONCE[1] => Ok("HTTP 101".into()),
        _ => broken("HTTP 101 with a wrong Sec-WebSocket-Accept, or none"),
    }
}

async fn subprotocol(site: &Site) -> Seen {
    let knock = Knock {
        token_in: Some(TokenIn::Subprotocol),
        ..Knock::with(site.token(Who::Phone).await?)
    };
    let answer = site.knock_and_leave(&knock).await?;
    if answer.status != 101 {
        return broken(answer.summary());
    }
    match answer.header("sec-websocket-protocol") {
        Some(SUBPROTOCOL) => Ok("HTTP 101 with orion.v1".into()),
        Some(other) if other.contains(BEARER_SUBPROTOCOL) => {
            // The other rule for it says so.
            Ok("HTTP 101".into())
        }
        Some(_) => broken("HTTP 101 with another subprotocol than orion.v1"),
        None => broken("HTTP 101 without a subprotocol: browsers give up"),
    }
}

async fn not_echoed(site: &Site) -> Seen {
    let token = site.token(Who::Phone).await?;
    let signature = token.rsplit('.').next().unwrap_or_default().to_owned();
    let knock = Knock { token_in: Some(TokenIn::Subprotocol), ..Knock::with(token) };
    let answer = site.knock_and_leave(&knock).await?;
    if !signature.is_empty() && answer.holds(&signature) {
        return broken(format!("the token comes back in the answer, HTTP {}", answer.status));
    }
    Ok(answer.summary())
}

async fn query(site: &Site) -> Seen {
    let token = site.token(Who::Phone).await?;
    let knock = Knock { token_in: Some(TokenIn::Query), ..Knock::with(token) };
    let answer = site.knock_and_leave(&knock).await?;
    match answer.status {
        101 | 401 => Ok(answer.summary()),
        _ => broken(answer.summary()),
    }
}

async fn garbage(site: &Site) -> Seen {
    let mut seen = String::new();
    for token in ["nonsense", "a.b.c", "e30.e30.e30", ".."] {
        seen = site.refused(&Knock::with(token), 401).await?;
    }
    Ok(seen)
}

async fn origin(site: &Site) -> Seen {
    let token = site.token(Who::Phone).await?;
    let knock = Knock { origin: Some("https://orion-check.invalid"), ..Knock::with(token) };
    site.refused(&knock, 403).await
}

async fn no_upgrade(site: &Site) -> Seen {
    let url = &site.config.signal;
    let request = Request::new("GET", url)
        .header("Authorization", &format!("Bearer {}", site.token(Who::Phone).await?))
        .header("Connection", "close");
    let connected = connect(url, &site.config.trust, None).await;
    let Ok(mut stream) = connected else { return broken("cannot connect") };
    let answer = request.exchange(&mut stream).await?;
    let upgrade = answer.header("upgrade").unwrap_or_default().to_ascii_lowercase();
    match answer.status {
        426 if upgrade.contains("websocket") => Ok(answer.summary()),
        426 => broken("HTTP 426 without Upgrade: websocket"),
        _ => broken(answer.summary()),
    }
}

async fn slow_header(site: &Site) -> Seen {
    let url = &site.config.signal;
    let connected = connect(url, &site.config.trust, None).await;
    let Ok(mut stream) = connected else { return broken("cannot connect") };
    let half = format!("GET {} HTTP/1.1\r\nHost: orion", url.path());
    if stream.write_all(half.as_bytes()).await.is_err() || stream.flush().await.is_err() {
        return broken("the connection broke while the header was sent");
    }
    cut_off(site, &mut stream).await
}

async fn slow_tls(site: &Site) -> Seen {
    match connect_tcp(&site.config.signal, None).await {
        Ok(mut stream) => cut_off(site, &mut stream).await,
        Err(error) => broken(format!("cannot connect: {error}")),
    }
}

/// Waits for the end of a connection.
async fn cut_off(site: &Site, stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Seen {
    let (within, begun) = (site.config.patience.handshake, Instant::now());
    let mut rest = [0; 1024];
    // A reset is an end, too.
    let end = async { while matches!(stream.read(&mut rest).await, Ok(read) if read > 0) {} };
    let waited = || begun.elapsed().as_secs_f64();
    match timeout(within, end).await {
        Ok(()) => Ok(format!("closed after {:.1} s", waited())),
        Err(_) => broken(format!("still open after {:.1} s", waited())),
    }
}
