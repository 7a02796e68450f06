//! Somebody between two members: a TCP forwarder that can cut connections wherever it likes, in the middle of a frame too.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use anyhow::Context as _;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// Bytes of one read.
const CHUNK_BYTES: usize = 16 << 10;

/// Forwards from one port of 127.0.0.1 to another until dropped.
#[derive(Debug)]
pub struct Between {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    /// Connections are cut after at most so many bytes in one direction; 0 = never.
    cut_within: AtomicUsize,
    cuts: AtomicU64,
    /// Whether connections live at all.
    open: watch::Sender<bool>,
}

impl Between {
    /// Listens on `from` and connects to `to` for each connection. `seed` decides where cuts fall.
    pub async fn start(from: u16, to: u16, seed: u64) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", from))
            .await
            .with_context(|| format!("cannot listen on port {from}"))?;
        let shared = Arc::new(Shared {
            cut_within: AtomicUsize::new(0),
            cuts: AtomicU64::new(0),
            open: watch::Sender::new(true),
        });
        let task = tokio::spawn(accept(listener, to, seed, Arc::clone(&shared)));
        Ok(Self { shared, task })
    }

    /// From now on each connection is cut within this many bytes; 0 = no more cuts.
    pub fn cut_within(&self, bytes: usize) {
        self.shared.cut_within.store(bytes, Relaxed);
    }

    /// How many connections it has cut in the middle.
    pub fn cuts(&self) -> u64 {
        self.shared.cuts.load(Relaxed)
    }

    /// Closed, it ends all connections and every new one at once.
    pub fn set_open(&self, open: bool) {
        self.shared.open.send_replace(open);
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.task.abort();
        self.set_open(false);
    }
}

async fn accept(listener: TcpListener, to: u16, seed: u64, shared: Arc<Shared>) {
    let mut random = SmallRng::seed_from_u64(seed);
    // Fails only when this process has no file descriptors left; then the test fails too.
    while let Ok((near, _)) = listener.accept().await {
        let random = SmallRng::seed_from_u64(random.random());
        tokio::spawn(carry(near, to, random, Arc::clone(&shared)));
    }
}

async fn carry(near: TcpStream, to: u16, mut random: SmallRng, shared: Arc<Shared>) {
    let mut open = shared.open.subscribe();
    if !*open.borrow() {
        return;
    }
    let Ok(far) = TcpStream::connect(("127.0.0.1", to)).await else { return };
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    let budgets = (random.random(), random.random());
    tokio::select! {
        () = pump(near_in, far_out, SmallRng::seed_from_u64(budgets.0), &shared) => {}
        () = pump(far_in, near_out, SmallRng::seed_from_u64(budgets.1), &shared) => {}
        _ = open.wait_for(|open| !*open) => {}
    }
}

/// One direction, until its end or the cut.
async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut random: SmallRng,
    shared: &Shared,
) {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut budget = None;
    loop {
        let Ok(length @ 1..) = from.read(&mut chunk).await else { return };
        budget = match (shared.cut_within.load(Relaxed), budget) {
            (0, _) => None,
            (within, None) => Some(random.random_range(1..=within)),
            (_, some) => some,
        };
        let length = match &mut budget {
            Some(left) if length > *left => {
                shared.cuts.fetch_add(1, Relaxed);
                // The part before the cut arrives; whether it can be written does not matter any more.
                let _ = to.write_all(&chunk[..*left]).await;
                return;
            }
            Some(left) => {
                *left -= length;
                length
            }
            None => length,
        };
        if to.write_all(&chunk[..length]).await.is_err() {
            return;
        }
    }
}
