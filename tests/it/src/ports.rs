//! Ports that nobody else here will take.
//!
//! Asking the kernel for port 0 gives a port of the ephemeral range, which any outgoing
//! connection may occupy while a killed server is down. So ports come from below that range, and
//! a lock file each keeps other test processes away for as long as the [`Port`] lives (the tests with
//! clientv3 take the same locks).
//!
//! Nobody listens on a port to see whether it is free: a child that another test starts in that moment would keep
//! the socket from its fork to its exec, and the server that gets the port would find it taken. The kernel's table
//! tells as well.

use std::{
    fmt,
    fs::{self, File},
    io, process,
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
            if lock.try_lock().is_ok()
                && !taken(number).context("cannot read the kernel's table of sockets")?
            {
                return Ok(Self { number, _lock: lock });
            }
        }
        bail!("no free port between {FIRST} and {}", FIRST + COUNT)
    }

    /// The number of the port.
    pub fn number(&self) -> u16 {
        self.number
    }
}

/// Whether a socket has this port as its own, as `/proc/net/tcp` shows them; one in `TIME_WAIT` keeps no server away.
fn taken(port: u16) -> io::Result<bool> {
    const TIME_WAIT: &str = "06";
    let local = format!(":{port:04X}");
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = match fs::read_to_string(table) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue, // a kernel without IPv6
            text => text?,
        };
        let taken = text.lines().any(|line| {
            let mut columns = line.split_whitespace().skip(1);
            columns.next().is_some_and(|address| address.ends_with(&local))
                && columns.nth(1).is_some_and(|state| state != TIME_WAIT)
        });
        if taken {
            return Ok(true);
        }
    }
    Ok(false)
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_port_is_taken_while_somebody_listens_on_it() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("its address").port();
        assert!(taken(port).expect("the table"));
        drop(listener);
        assert!(!taken(port).expect("the table"));
    }
}
