//! `/healthz` and `/readyz`, for the kubelet.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Whether the process is ready.
#[derive(Clone, Default)]
pub struct Ready(Arc<AtomicBool>);

impl Ready {
    /// It is, from now on.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Answers on this port as long as the process lives.
pub async fn serve(port: u16) -> Result<Ready> {
    let listener =
        TcpListener::bind(("0.0.0.0", port)).await.with_context(|| format!("cannot listen on port {port}"))?;
    let ready = Ready::default();
    let answers = ready.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answers = answers.clone();
            tokio::spawn(async move {
                let _ = tokio::time::timeout(Duration::from_secs(5), answer(stream, &answers)).await;
            });
        }
    });
    Ok(ready)
}

async fn answer(mut stream: TcpStream, ready: &Ready) -> std::io::Result<()> {
    let mut head = [0; 1024];
    let len = stream.read(&mut head).await?;
    let is = |path: &str| head[..len].starts_with(format!("GET {path} ").as_bytes());
    let status = match () {
        () if is("/healthz") || is("/readyz") && ready.0.load(Ordering::Relaxed) => "200 OK",
        () if is("/readyz") => "503 Service Unavailable",
        () => "404 Not Found",
    };
    stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").as_bytes()).await
}
