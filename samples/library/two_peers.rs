//! Connects two peers in one process, without a server, and sends one keyframe from one to the other.
//!
//!     cargo run --release --example two_peers

use std::{error::Error, sync::Arc, time::SystemTime};

use orion_peer::{
    media::{EncoderConfig, KeyframeEncoder, source::PatternSource},
    peer::{Peer, PeerConfig, PeerEvent, PeerRole},
};
use tokio::sync::mpsc;

/// Passes the candidates of one peer to the other, until the event for which `wanted` returns something.
async fn wait_for<T>(
    events: &mut mpsc::Receiver<PeerEvent>,
    other: &Peer,
    wanted: impl Fn(PeerEvent) -> Option<T>,
) -> Result<T, Box<dyn Error>> {
    while let Some(event) = events.recv().await {
        match event {
            PeerEvent::LocalCandidate(candidate) => other.add_candidate(candidate).await,
            event => {
                if let Some(found) = wanted(event) {
                    return Ok(found);
                }
            }
        }
    }
    Err("the peer was closed".into())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (sender, mut sender_events) = Peer::new(PeerConfig::new(PeerRole::Sender)).await?;
    let (receiver, mut receiver_events) = Peer::new(PeerConfig::new(PeerRole::Receiver)).await?;
    let sender = Arc::new(sender);

    // In an app, these two go through the signaling server.
    let offer = sender.create_offer().await?;
    let answer = receiver.accept_offer(offer).await?;
    sender.accept_answer(answer).await?;

    let received = tokio::spawn({
        let sender = Arc::clone(&sender);
        async move {
            let unit = wait_for(&mut receiver_events, &sender, |event| match event {
                PeerEvent::AccessUnit(received) => Some(received),
                _ => None,
            });
            unit.await.map_err(|error| error.to_string())
        }
    });
    // The control channel opens last.
    wait_for(&mut sender_events, &receiver, |event| {
        matches!(event, PeerEvent::ControlOpen).then_some(())
    })
    .await?;

    let frame = PatternSource::new(1280, 720)?.render(1, SystemTime::now());
    let keyframe = KeyframeEncoder::new(EncoderConfig::default())?.encode(&frame)?;
    let sent = keyframe.access_unit.data.clone();
    sender.send_access_unit(&keyframe.access_unit).await?;

    let unit = received.await??.unit;
    println!("received {} bytes, intact: {}", unit.data.len(), unit.data == sent);
    sender.close().await;
    receiver.close().await;
    Ok(())
}
