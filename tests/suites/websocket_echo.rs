//! Echoes WebSocket messages at `/` for the cases of Autobahn's test suite. Frames are read and rejected, and sockets
//! closed, by the code of the signaling server, which itself echoes nothing.
//!
//! Listens on a free port of 127.0.0.1, and prints the address as its first line.

use std::{convert::Infallible, io};

use futures_util::{SinkExt, StreamExt};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header::{CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use orion_peer::signaling::server::websocket;
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::{Message, handshake::derive_accept_key};

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let connection = http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service_fn(upgrade))
            .with_upgrades();
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                eprintln!("{error}");
            }
        });
    }
}

async fn upgrade(mut request: Request<Incoming>) -> Result<Response<String>, Infallible> {
    let mut response = Response::new(String::new());
    let Some(key) = request.headers().get(SEC_WEBSOCKET_KEY) else {
        *response.status_mut() = StatusCode::UPGRADE_REQUIRED;
        return Ok(response);
    };
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = accept {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgraded.await {
            Ok(upgraded) => echo(TokioIo::new(upgraded)).await,
            Err(error) => eprintln!("{error}"),
        }
    });
    Ok(response)
}

async fn echo(io: TokioIo<hyper::upgrade::Upgraded>) {
    let (mut sink, mut stream) = websocket::accept(io).await.split();
    let end = loop {
        match stream.next().await {
            Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                if sink.send(message).await.is_err() {
                    break None;
                }
            }
            Some(Ok(Message::Close(_))) | None => break None,
            Some(Ok(_)) => {}
            Some(Err(error)) => break websocket::close_code(&error),
        }
    };
    let end = end.map(|code| (code, "the message is rejected"));
    websocket::say_goodbye(sink, stream, Vec::new(), end).await;
}
