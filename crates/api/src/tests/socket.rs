//! The buffering socket, against a real peer.

#![allow(clippy::unwrap_used, reason = "a test says so by failing")]

use super::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

async fn pair() -> (Socket, TcpStream, Arc<Flusher>) {
    pair_with(Wire::default()).await
}

async fn pair_with(wire: Wire) -> (Socket, TcpStream, Arc<Flusher>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let flusher = Arc::new(Flusher::default());
    tokio::spawn(Arc::clone(&flusher).run());
    let (stream, _) = listener.accept().await.unwrap();
    (Socket::new(stream, Seat::free(), &Arc::new(wire), Arc::clone(&flusher)), client, flusher)
}

/// More bytes than the kernel buffers for a client that reads nothing.
fn pattern() -> Vec<u8> {
    (0..32usize << 20).map(|i| (i % 251).to_le_bytes()[0]).collect()
}

#[tokio::test]
async fn the_writes_of_one_tick_are_gathered_and_leave_in_order() {
    let (mut socket, mut client, _) = pair().await;
    for piece in ["a", "bc", "", "def"] {
        socket.write_all(piece.as_bytes()).await.unwrap();
        socket.flush().await.unwrap();
    }
    let waiting = lock(&socket.outgoing.pending).waiting();
    assert_eq!(waiting, 6, "nothing leaves within the tick");
    let mut got = [0; 6];
    client.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"abcdef");
    let pending = lock(&socket.outgoing.pending);
    assert_eq!((pending.waiting(), pending.buffer.capacity()), (0, 0), "a quiet connection holds no buffer");
}

#[tokio::test]
async fn what_was_read_ahead_is_read_again() {
    let (mut socket, mut client, _) = pair().await;
    client.write_all(b"cd").await.unwrap();
    socket.unread(Bytes::from_static(b"ab"));
    let mut got = [0; 4];
    socket.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"abcd");
}

#[tokio::test]
async fn a_client_that_reads_nothing_stops_the_writer_at_the_limit() {
    let (mut socket, mut client, _) = pair().await;
    let sent = pattern();
    let expected = sent.clone();
    let writer = tokio::spawn(async move {
        // Pieces below and above `DIRECT_BYTES_MIN`.
        for (i, piece) in sent.chunks(50_000).enumerate() {
            for part in piece.chunks(if i % 2 == 0 { 700 } else { 50_000 }) {
                socket.write_all(part).await.unwrap();
            }
        }
        socket.shutdown().await.unwrap();
        let pending = lock(&socket.outgoing.pending);
        assert!(pending.buffer.capacity() <= 4 * Wire::default().pending_bytes);
    });
    sleep(Duration::from_millis(100)).await;
    assert!(!writer.is_finished(), "the writer waits for the client");
    let mut got = Vec::new();
    client.read_to_end(&mut got).await.unwrap();
    writer.await.unwrap();
    assert!(got == expected);
}

#[tokio::test]
async fn what_a_dropped_connection_left_is_still_sent() {
    let (mut socket, mut client, _) = pair().await;
    socket.write_all(b"goodbye").await.unwrap();
    drop(socket);
    let mut got = String::new();
    client.read_to_string(&mut got).await.unwrap();
    assert_eq!(got, "goodbye");
}

#[tokio::test]
async fn a_broken_connection_tells_the_writer() {
    let (mut socket, client, _) = pair().await;
    client.set_zero_linger().unwrap();
    drop(client);
    let failed = async {
        loop {
            if let Err(error) = socket.write_all(b"x").await {
                return error.kind();
            }
            sleep(Duration::from_millis(1)).await;
        }
    };
    let kind = tokio::time::timeout(Duration::from_secs(5), failed).await.unwrap();
    assert!(matches!(kind, io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset), "{kind}");
}

#[tokio::test]
async fn a_flush_by_hand_empties_everything() {
    let (mut socket, mut client, flusher) = pair().await;
    socket.write_all(b"x").await.unwrap();
    flusher.flush();
    assert_eq!(lock(&socket.outgoing.pending).waiting(), 0);
    let mut got = [0; 1];
    client.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"x");
}

#[tokio::test]
async fn who_gives_up_call_after_call_is_read_from_with_pauses() {
    let wire =
        Wire { given_up: 3, given_up_rate: 1, given_up_pause: Duration::from_millis(80), ..Wire::default() };
    let (mut socket, mut client, _) = pair_with(wire).await;
    let turn = socket.turn();
    let mut took = async |given_up: usize| {
        client.write_all(b"x").await.unwrap();
        (0..given_up).for_each(|_| turn.given_up());
        turn.begin();
        let begun = Instant::now();
        socket.read_exact(&mut [0]).await.unwrap();
        begun.elapsed() >= Duration::from_millis(80)
    };
    assert!(!took(0).await && !took(2).await, "a few are nothing");
    assert!(took(1).await && took(5).await);
    assert!(!took(0).await, "it has stopped");
}

#[tokio::test]
async fn a_turn_ends_and_others_have_theirs() {
    let (mut socket, mut client, _) = pair_with(Wire { turn_bytes: 10, ..Wire::default() }).await;
    client.write_all(&[0; 40]).await.unwrap();
    let (turn, mut first) = (socket.turn(), [0; 10]);
    socket.read_exact(&mut first).await.unwrap();
    let mut again = Box::pin(socket.read_u8());
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut again).await.is_err(), "its turn is over");
    turn.begin();
    again.await.unwrap();
}
