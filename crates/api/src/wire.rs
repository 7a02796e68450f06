//! The bounds of a connection, HTTP/2 and HTTP/1.1.

use std::time::Duration;

/// What one connection may take. Flags set none of it; tests draw it small.
#[derive(Clone, Debug)]
pub struct Wire {
    /// Bytes that a connection reads before its streams and other connections have their turn. Default 16 KiB: some 600
    /// calls that are reset at once, or 1,200 of the smallest messages, which the counters below must bear; a large put
    /// takes its own time anyway.
    pub turn_bytes: usize,
    /// Bytes that wait to be written; beyond them nothing is read from the client either. Default 256 KiB: a tick's answers
    /// on one connection (1,000 streams with 100-byte answers).
    pub pending_bytes: usize,
    /// What a client may send on one stream before it is read, in bytes. Default 1 MiB: with the protocol's 64 KiB every
    /// larger put would wait for a round trip.
    pub stream_window_bytes: u32,
    /// The same for all streams of a connection, in bytes. Default 4 MiB.
    pub connection_window_bytes: u32,
    /// Headers of one request, in bytes, as HTTP/2 counts them. Default 1 MiB: what HTTP/1.1 may have too. Clients are told
    /// and keep to it; what is longer, up to four times as long, is answered with 431 on its stream.
    pub headers_bytes: u32,
    /// Streams that a client has reset before we have looked at them; beyond it the connection ends (CVE-2023-44487).
    /// Default 2,048: more than fit in what a turn reads and the frame that it ends in, so that a client that cancels
    /// thousands of calls at once (deadlines passing while a disk stalls) is never taken for an attacker.
    pub pending_resets: usize,
    /// Calls that a client begins and gives up before they are whole, in a row. Default 8,192: twice what deadlines that pass
    /// during a pause were seen to do. Then [`Self::given_up_pause`] comes before each turn.
    pub given_up: usize,
    /// So many of them are forgotten in a second. Default 1,000.
    pub given_up_rate: usize,
    /// How long nothing is read from who does more. Default 50 ms: some 5,000 of them in a second, a twentieth of a core.
    pub given_up_pause: Duration,
    /// How long a new connection may take to say what it speaks. Default two minutes: grpc-go's connection timeout.
    pub first_bytes: Duration,
    /// How long an HTTP/1.1 client may take for a request's head. Default five minutes: etcd's `ReadHeaderTimeout`.
    pub http1_head: Duration,
    /// The head of a request over HTTP/1.1, in bytes, and so what a connection may buffer. Default 1 MiB: Go's
    /// `DefaultMaxHeaderBytes`. What is longer is answered with 431.
    pub http1_head_bytes: usize,
    /// Headers of a request over HTTP/1.1. Go counts only their bytes; a number bounds the table they are parsed into.
    /// Default 1,024.
    pub http1_headers: usize,
    /// How long calls in flight may go on once the server goes down. Default 1.5 s: etcd's tests expect a member to stop
    /// soon.
    pub drain: Duration,
}

impl Default for Wire {
    fn default() -> Self {
        Self {
            turn_bytes: 16 << 10,
            pending_bytes: 256 << 10,
            stream_window_bytes: 1 << 20,
            connection_window_bytes: 4 << 20,
            headers_bytes: 1 << 20,
            pending_resets: 2_048,
            given_up: 8_192,
            given_up_rate: 1_000,
            given_up_pause: Duration::from_millis(50),
            first_bytes: Duration::from_mins(2),
            http1_head: Duration::from_mins(5),
            http1_head_bytes: 1 << 20,
            http1_headers: 1_024,
            drain: Duration::from_millis(1_500),
        }
    }
}
