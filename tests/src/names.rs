//! Names and ports that no other test has.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Result, bail};
use uuid::Uuid;

/// Below the ports that the kernel gives to outgoing connections, so that a free one stays free.
const PORT_MIN: u16 = 20_000;
const PORT_MAX: u16 = 32_000;

/// `prefix` and ten random hexadecimal digits; lower case, as Compose wants its projects.
pub fn unique(prefix: &str) -> String {
    let id = Uuid::now_v7().simple().to_string();
    format!("{prefix}-{}", &id[22..])
}

/// A port on which nobody listens. Each process begins elsewhere, since the tests run beside each other.
///
/// # Errors
/// When every port of the range is taken.
pub fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let range = PORT_MAX - PORT_MIN;
    let start = (std::process::id().wrapping_mul(41) % u32::from(range)) as u16;
    for _ in 0..range {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = PORT_MIN + (start + step % range) % range;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port between {PORT_MIN} and {PORT_MAX} is free")
}
