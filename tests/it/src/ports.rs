//! Ports that nobody else here will take.
//!
//! Asking the kernel for port 0 gives a port of the ephemeral range, which any outgoing
//! connection may occupy while a killed server is down. So ports come from below that range, and
//! a lock file each keeps other test processes away for as long as the [`Port`] lives.

use std::{
    fmt,
    fs::{self, File},
    net::TcpListener,
    process,
    sync::atomic::{AtomicU16, Ordering},
};

use anyhow::{Context as _, bail};

/// Below Linux' ephemeral ports (32768) and below 20000, where etcd's own suite begins.
const FIRST: u16 = 12_000;
const COUNT: u16 = 8_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A TCP port on 127.0.0.1, ours until dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Takes a free one.
    pub fn free() -> anyhow::Result<Self> {
        let locks = std::env::temp_dir().join("quorate-ports");
        fs::create_dir_all(&locks).with_context(|| format!("cannot create {}", locks.display()))?;
        let start = u16::try_from(process::id() % u32::from(COUNT)).expect("less than COUNT");
        for _ in 0..COUNT {
            let step = NEXT.fetch_add(1, Ordering::Relaxed);
            let number = FIRST + (start.wrapping_mul(7).wrapping_add(step)) % COUNT;
            let lock = File::create(locks.join(number.to_string()))
                .with_context(|| format!("cannot write in {}", locks.display()))?;
            if lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Ok(Self { number, _lock: lock });
            }
        }
        bail!("no free port between {FIRST} and {}", FIRST + COUNT)
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number.fmt(f)
    }
}
