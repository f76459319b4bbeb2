//! A registry that misbehaves on purpose: it stands before the real one and answers as it is told.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::names;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// As the registry behind it.
    Honest,
    /// Manifests are not those that were asked for.
    Tampering,
    /// Layers are other bytes than those that were asked for.
    Spoiling,
    /// Nobody is let in.
    Denying,
}

#[derive(Debug)]
pub struct RegistryProxy {
    /// `address:port`, as in an image's name.
    pub address: String,
    mood: Arc<Mutex<Mood>>,
    server: JoinHandle<()>,
}

impl RegistryProxy {
    /// # Errors
    /// When no port is free.
    pub async fn before(upstream: &str) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", names::free_port()?)).await?;
        let address = listener.local_addr()?.to_string();
        let mood = Arc::new(Mutex::new(Mood::Honest));
        let server = tokio::spawn(serve(listener, upstream.to_owned(), mood.clone()));
        Ok(Self { address, mood, server })
    }

    pub fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap_or_else(PoisonError::into_inner) = mood;
    }

    /// From now on connections are refused.
    pub async fn stop(&mut self) {
        self.server.abort();
        // It ends by having been aborted; that is what was asked for.
        let _ = (&mut self.server).await;
    }
}

impl Drop for RegistryProxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, upstream: String, mood: Arc<Mutex<Mood>>) {
    while let Ok((client, _)) = listener.accept().await {
        let mood = *mood.lock().unwrap_or_else(PoisonError::into_inner);
        let upstream = upstream.clone();
        tokio::spawn(async move {
            // The engine tries TLS first and goes on in plain text when that is not understood.
            if let Err(error) = answer(client, &upstream, mood).await {
                eprintln!("registry proxy: {error:#}");
            }
        });
    }
}

/// One request per connection, without a body: enough for pulling and for looking up tags.
async fn answer(mut client: TcpStream, upstream: &str, mood: Mood) -> Result<()> {
    let head = read_head(&mut client).await?;
    let mut answer = match mood {
        Mood::Denying => DENIED.as_bytes().to_vec(),
        Mood::Honest | Mood::Tampering | Mood::Spoiling => ask(upstream, &head).await?,
    };
    if mood == Mood::Tampering && head.starts_with("GET") && head.contains("/manifests/") {
        tamper(&mut answer);
    }
    if mood == Mood::Spoiling
        && head.starts_with("GET")
        && head.contains("/blobs/")
        && let Some(last) = answer.last_mut()
    {
        *last = !*last;
    }
    client.write_all(&answer).await?;
    client.shutdown().await?;
    Ok(())
}

const DENIED: &str = "HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\nContent-Length: 71\r\n\
    Www-Authenticate: Basic realm=\"lab\"\r\nConnection: close\r\n\r\n\
    {\"errors\":[{\"code\":\"UNAUTHORIZED\",\"message\":\"authentication required\"}]}";

async fn read_head(client: &mut TcpStream) -> Result<String> {
    let mut reader = BufReader::new(client);
    let mut head = String::new();
    loop {
        let mut line = String::new();
        let read = reader.read_line(&mut line).await?;
        if read == 0 || line == "\r\n" {
            return Ok(head);
        }
        let is_connection = line.to_ascii_lowercase().starts_with("connection:");
        if !is_connection {
            head.push_str(&line);
        }
    }
}

async fn ask(upstream: &str, head: &str) -> Result<Vec<u8>> {
    let mut server = TcpStream::connect(upstream).await.context("the registry behind the proxy")?;
    server.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).await?;
    Ok(answer)
}

/// Changes one digit of the first digest in the body, and so not the body's length.
fn tamper(answer: &mut [u8]) {
    let position = |bytes: &[u8], needle: &[u8]| bytes.windows(needle.len()).position(|window| window == needle);
    let Some(body) = position(answer, b"\r\n\r\n") else { return };
    if let Some(digest) = position(&answer[body..], b"sha256:") {
        let digit = &mut answer[body + digest + "sha256:".len()];
        *digit = if *digit == b'0' { b'1' } else { b'0' };
    }
}
