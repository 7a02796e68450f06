//! How fast files are written and read: a million keys of 17 bytes with values of 200.

use bbolt::{Limits, Measuring, Options, ReadError, Reader, Writer};
use std::fs::File;
use std::io::BufWriter;
use std::time::Instant;

const KEYS: u64 = 1_000_000;

fn key(n: u64) -> [u8; 17] {
    let mut key = [b'_'; 17];
    key[..8].copy_from_slice(&n.to_be_bytes());
    key[9..].fill(0);
    key
}

#[test]
#[ignore = "a measurement: see the head of main.rs"]
#[expect(clippy::print_stdout, clippy::cast_precision_loss, reason = "a measurement for people")]
fn speed() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("db");
    for round in 0..3 {
        let started = Instant::now();
        let mut measuring = Measuring::new(Options::DEFAULT).expect("good options");
        measuring.bucket(b"key").expect("a bucket");
        for n in 0..KEYS {
            measuring.entry(&key(n), 200).expect("in order");
        }
        let measured = measuring.finish().expect("an end");
        let rate = |name: &str, started: Instant| {
            let seconds = started.elapsed().as_secs_f64();
            let megabytes = measured.bytes() as f64 / 1e6;
            println!("{round} {name:12} {seconds:6.3} s {:7.0} MB/s", megabytes / seconds);
        };
        rate("measure", started);

        let started = Instant::now();
        put(std::io::sink(), &measured);
        rate("write (sink)", started);

        let started = Instant::now();
        put(BufWriter::with_capacity(1 << 18, File::create(&path).expect("a file")), &measured);
        rate("write (file)", started);

        let started = Instant::now();
        let reader = Reader::open(File::open(&path).expect("a file"), Limits::DEFAULT).expect("valid");
        let mut cursor = reader.bucket(b"key").expect("a search").expect("there").cursor();
        let mut count = 0;
        while cursor.next_entry().expect("an entry").is_some() {
            count += 1;
        }
        assert_eq!(count, KEYS);
        rate("cursor", started);

        let started = Instant::now();
        let summary = reader.walk(&mut |_| Ok::<_, ReadError>(())).expect("a walk");
        assert_eq!(summary.entries, KEYS);
        rate("walk", started);

        let started = Instant::now();
        let bytes = std::fs::read(&path).expect("a file");
        assert_eq!(bytes.len() as u64, measured.bytes());
        rate("read all", started);
    }
}

fn put(out: impl std::io::Write, measured: &bbolt::Measured) {
    let mut writer = Writer::new(out, measured).expect("an output");
    writer.bucket(b"key").expect("a bucket");
    let value = [7; 200];
    for n in 0..KEYS {
        writer.entry(&key(n), &value).expect("in order");
    }
    writer.finish().expect("an end");
}
