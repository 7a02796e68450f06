//! The bounds of a connection, HTTP/2 and HTTP/1.1.

use std::time::Duration;

/// Limits of one connection. No flag sets them; tests draw small values.
#[derive(Clone, Debug)]
pub struct Wire {
    /// Bytes that a connection reads before others have their turn. Default 16 KiB: some 600 calls reset at once, or
    /// 1,200 of the smallest messages, which the counters below must tolerate.
    pub turn_bytes: usize,
    /// Unsent bytes at which reading stops. Default 256 KiB: a tick's responses (1,000 streams, 100 bytes each).
    pub pending_bytes: usize,
    /// HTTP/2 window of a stream, bytes. Default 1 MiB: with 64 KiB a larger put would wait for a round trip.
    pub stream_window_bytes: u32,
    /// HTTP/2 window of a connection, in bytes. Default 4 MiB.
    pub connection_window_bytes: u32,
    /// Headers of a request, bytes as HTTP/2 counts them, announced. Default 1 MiB. Up to four times as long get 431.
    pub headers_bytes: u32,
    /// Streams reset by the client before they were accepted; beyond, the connection ends (CVE-2023-44487). Default
    /// 2,048: more than fit into a turn, since a client may cancel thousands of calls at once during a disk stall.
    pub pending_resets: usize,
    /// Calls given up in a row before complete; beyond, turns wait [`Self::given_up_pause`]. Default 8,192: twice
    /// what was measured when deadlines pass during a pause.
    pub given_up: usize,
    /// How many of them are forgotten each second. Default 1,000.
    pub given_up_rate: usize,
    /// How long a client beyond that is not read from. Default 50 ms: 5,000 such calls a second, 1/20 of a core.
    pub given_up_pause: Duration,
    /// How long a new connection may take to show its protocol. Default two minutes: grpc-go's connection timeout.
    pub first_bytes: Duration,
    /// How long an HTTP/1.1 client may take to send a request's head. Default five minutes: etcd's `ReadHeaderTimeout`.
    pub http1_head: Duration,
    /// The head of an HTTP/1.1 request, and so the read buffer, bytes; longer: 431. Default 1 MiB:
    /// Go's `DefaultMaxHeaderBytes`.
    pub http1_head_bytes: usize,
    /// Headers of an HTTP/1.1 request. Default 1,024. Go bounds only their bytes; a number bounds the parser's table.
    pub http1_headers: usize,
    /// How long calls in flight may continue after shutdown began. Default 1.5 s: etcd's tests expect a quick stop.
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
