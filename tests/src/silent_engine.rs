//! A Docker engine that takes every connection and never says a word.

use std::path::{Path, PathBuf};

use anyhow::Result;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

#[derive(Debug)]
pub struct SilentEngine {
    /// As `docker -H` takes it.
    pub host: String,
    socket: PathBuf,
    server: JoinHandle<()>,
}

impl SilentEngine {
    /// # Errors
    /// When the socket cannot be made.
    pub fn start(folder: &Path) -> Result<Self> {
        let socket = folder.join("silent.sock");
        let listener = UnixListener::bind(&socket)?;
        let server = tokio::spawn(async move {
            let mut taken = Vec::new();
            while let Ok((connection, _)) = listener.accept().await {
                taken.push(connection);
            }
        });
        Ok(Self { host: format!("unix://{}", socket.display()), socket, server })
    }
}

impl Drop for SilentEngine {
    fn drop(&mut self) {
        self.server.abort();
        // The folder goes anyway.
        let _ = std::fs::remove_file(&self.socket);
    }
}
