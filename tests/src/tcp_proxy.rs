//! Delays, slow lines and broken connections before any server: NATS, a registry, PostgreSQL. It stands for what a bad network does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::names;

/// Bytes that are passed on at once; small, so that a slow line is slow within one answer.
const CHUNK_BYTES: usize = 16 * 1024;

/// What the way to the server does, from the next byte on. The default passes everything on at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Weather {
    /// Each piece is this late, in both directions.
    pub delay: Duration,
    /// What comes from the server comes so slowly.
    pub bytes_per_s: Option<u64>,
    /// A connection breaks after so many bytes from the server.
    pub cut_after_bytes: Option<u64>,
    /// Nothing is passed on, and no connection breaks.
    pub is_still: bool,
    /// New connections are closed at once, and those that stand break.
    pub is_down: bool,
}

#[derive(Debug)]
pub struct TcpProxy {
    pub address: SocketAddr,
    weather: watch::Sender<Weather>,
    struck: Arc<AtomicU64>,
    server: JoinHandle<()>,
}

impl TcpProxy {
    /// # Errors
    /// When no port is free.
    pub async fn before(server: &str) -> Result<Self> {
        Self::at("127.0.0.1", server).await
    }

    /// As [`Self::before`], at this address of the machine.
    ///
    /// # Errors
    /// As [`Self::before`].
    pub async fn at(address: &str, server: &str) -> Result<Self> {
        let listener = TcpListener::bind((address, names::free_port()?)).await?;
        let address = listener.local_addr()?;
        let (weather, seen) = watch::channel(Weather::default());
        let struck = Arc::new(AtomicU64::new(0));
        let server = tokio::spawn(serve(listener, server.to_owned(), seen, Arc::clone(&struck)));
        Ok(Self { address, weather, struck, server })
    }

    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// How many pieces were late or slow, and how many connections were broken or held up.
    pub fn struck(&self) -> u64 {
        self.struck.load(Ordering::Relaxed)
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, server: String, weather: watch::Receiver<Weather>, struck: Arc<AtomicU64>) {
    // Its connections end with it.
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let (server, weather, struck) = (server.clone(), weather.clone(), Arc::clone(&struck));
        connections.spawn(async move {
            if weather.borrow().is_down {
                struck.fetch_add(1, Ordering::Relaxed);
                return;
            }
            // A server that is away is a connection that ends, as without a proxy.
            let Ok(upstream) = TcpStream::connect(&server).await else { return };
            let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), upstream.into_split());
            let down = pass(from_server, to_client, weather.clone(), Arc::clone(&struck), true);
            let up = pass(from_client, to_server, weather, struck, false);
            // Whichever way ends by force takes the other one along; a way that just has nothing more to say does not.
            tokio::select! {
                Passed::Broken = down => {}
                Passed::Broken = up => {}
                else => {}
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Passed {
    Ended,
    Broken,
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
    struck: Arc<AtomicU64>,
    is_from_server: bool,
) -> Passed {
    let mut piece = vec![0; CHUNK_BYTES];
    let mut passed = 0_u64;
    let strike = || struck.fetch_add(1, Ordering::Relaxed);
    loop {
        let read = tokio::select! {
            Ok(()) = weather.changed() => {
                if weather.borrow_and_update().is_down {
                    strike();
                    return Passed::Broken;
                }
                continue;
            }
            read = from.read(&mut piece) => read,
        };
        let read = match read {
            Ok(0) => {
                // The other side hears that this one has ended.
                let _ = to.shutdown().await;
                return Passed::Ended;
            }
            Ok(read) => read,
            Err(_) => return Passed::Broken,
        };
        let now = *weather.borrow_and_update();
        if now.is_still {
            strike();
            if weather.wait_for(|weather| !weather.is_still).await.is_err() {
                return Passed::Broken;
            }
        }
        let mut wait = now.delay;
        let mut keep = read;
        if is_from_server {
            if let Some(limit) = now.cut_after_bytes.filter(|limit| passed + read as u64 > *limit) {
                keep = usize::try_from(limit.saturating_sub(passed)).unwrap_or(0);
            }
            wait += now
                .bytes_per_s
                .map_or(Duration::ZERO, |rate| Duration::from_secs(1).mul_f64(read as f64 / rate as f64));
        }
        if !wait.is_zero() {
            strike();
            tokio::time::sleep(wait).await;
        }
        if to.write_all(&piece[..keep]).await.is_err() {
            return Passed::Broken;
        }
        passed += keep as u64;
        if keep < read {
            strike();
            return Passed::Broken;
        }
    }
}
