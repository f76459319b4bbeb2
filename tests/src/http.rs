//! One plain HTTP request, to see what really serves.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The body that `GET http://127.0.0.1:<port><path>` answers with.
///
/// # Errors
/// When nobody answers in time, or the answer is no 200.
pub async fn get(port: u16, path: &str) -> Result<String> {
    let answer = timeout(ANSWER_TIMEOUT, exchange(port, path)).await.context("no answer in time")??;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer has no head")?;
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        bail!("port {port} answers {status}");
    }
    Ok(body.trim().to_owned())
}

async fn exchange(port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
