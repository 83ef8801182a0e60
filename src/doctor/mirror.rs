//! A socket that echoes what a relay forwards to it.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use tokio::{
    net::UdpSocket,
    task::{AbortHandle, JoinHandle},
    time::timeout_at,
};

/// Spawns a task with a socket that echoes everything received from `relayed`; until something
/// arrives, it sends packets there to open NATs.
pub(super) async fn mirror(local: IpAddr, relayed: SocketAddr) -> io::Result<AbortHandle> {
    let socket = UdpSocket::bind((local, 0)).await?;
    let task: JoinHandle<()> = tokio::spawn(async move {
        let mut buffer = vec![0; 2048];
        let mut met = false;
        loop {
            let next = Instant::now() + Duration::from_millis(100);
            match timeout_at(next.into(), socket.recv_from(&mut buffer)).await {
                Ok(Ok((length, from))) if from == relayed => {
                    met = true;
                    let _ = socket.send_to(&buffer[..length], from).await;
                }
                Ok(Ok(_)) => {}
                Ok(Err(_)) | Err(_) if met => {}
                Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(_) => drop(socket.send_to(b"open", relayed).await),
            }
        }
    });
    Ok(task.abort_handle())
}
