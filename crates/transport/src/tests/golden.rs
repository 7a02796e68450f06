//! Captured traffic of two etcd members (`tests/golden-peer`), decoded and encoded again.
//!
//! Every response is parsed, every stream decoded in pieces of several sizes, compared line by line with what etcd's own
//! types made of it, encoded again and compared byte by byte. Every message in a POST is decoded and encoded again.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::PathBuf};

use bytes::BytesMut;
use prost::Message as _;
use proto::raftpb::Message;

use crate::{
    Limits,
    chunk::ChunkDecoder,
    codec::{Bounds, Decoder, Encoder, Frame, Kind},
    dial::parse_head,
    headers,
    server::stream_path,
};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden-peer/capture")
}

/// A request: line, headers, body.
struct Request {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

fn requests(mut bytes: &[u8]) -> Vec<Request> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut parsed = httparse::Request::new(&mut fields);
        let Ok(httparse::Status::Complete(head)) = parsed.parse(bytes) else {
            panic!("a request cut in its head")
        };
        let headers: BTreeMap<_, _> = parsed
            .headers
            .iter()
            .map(|h| (h.name.to_lowercase(), String::from_utf8(h.value.to_vec()).unwrap()))
            .collect();
        let length = headers.get("content-length").map_or(0, |n| n.parse().unwrap());
        let (method, path) = (parsed.method.unwrap().to_owned(), parsed.path.unwrap().to_owned());
        found.push(Request { method, path, headers, body: bytes[head..head + length].to_vec() });
        bytes = &bytes[head + length..];
    }
    found
}

/// The lines of a capture's `.txt` for one message, in the recorder's form.
fn describe(word: &str, m: &Message, lines: &mut Vec<String>) {
    let mut context = String::new();
    for byte in m.context() {
        write!(context, "{byte:02x}").unwrap();
    }
    lines.push(format!(
        "{word} type={} to={:x} from={:x} term={} logterm={} index={} commit={} reject={} hint={} context={context} \
         vote={:x} entries={}",
        m.r#type.unwrap_or(0),
        m.to(),
        m.from(),
        m.term(),
        m.log_term(),
        m.index(),
        m.commit(),
        m.reject(),
        m.reject_hint(),
        m.vote(),
        m.entries.len()
    ));
    for e in &m.entries {
        lines.push(format!(
            "  entry {} {} {} {}",
            e.index(),
            e.term(),
            e.r#type.unwrap_or(0),
            e.data().len()
        ));
    }
}

/// The same lines of the `.txt`, without the data's hash.
fn expected(name: &str) -> Vec<String> {
    let text = fs::read_to_string(folder().join(format!("{name}.txt"))).unwrap();
    let is_message = |line: &&str| {
        ["full ", "append ", "message ", "beat", "  entry "].iter().any(|word| line.starts_with(word))
    };
    text.lines()
        .filter(is_message)
        .map(|line| match line.strip_prefix("  entry ") {
            Some(entry) => format!("  entry {}", entry.rsplit_once(' ').unwrap().0),
            None => line.to_owned(),
        })
        .collect()
}

/// One stream: from the response's bytes to lines, through every size of piece, and back to the same payload.
fn check_stream(name: &str, kind: Kind, local: u64, remote: u64, response: &[u8]) -> usize {
    let mut body = BytesMut::from(response);
    let head = parse_head(&mut body, 16 << 10).unwrap().expect("a whole head");
    assert_eq!(head.status, 200, "{name}");
    assert_eq!(headers::version(&head.headers, &headers::SERVER_VERSION), Some((3, 7)));
    let mut payload = BytesMut::new();
    ChunkDecoder::default().feed(&body, &mut payload).unwrap();

    let mut frames = Vec::new();
    for piece in [1, 7, 1000, usize::MAX] {
        let (mut chunks, mut decoder) =
            (ChunkDecoder::default(), Decoder::new(kind, local, remote, Bounds::new(&Limits::default())));
        let (mut input, mut found) = (BytesMut::new(), Vec::new());
        for part in body.chunks(piece.min(body.len())) {
            chunks.feed(part, &mut input).unwrap();
            while let Some(frame) = decoder.decode(&mut input).unwrap() {
                found.push(frame);
            }
        }
        payload.truncate(payload.len() - input.len()); // a frame that the recording cut
        assert!(frames.is_empty() || frames == found, "{name} in pieces of {piece}");
        frames = found;
    }

    let (mut encoder, mut out, mut lines) = (Encoder::new(kind), BytesMut::new(), Vec::new());
    for frame in &frames {
        let at = out.len();
        match frame {
            Frame::Heartbeat => {
                encoder.heartbeat(&mut out);
                lines.push("beat".to_owned());
            }
            Frame::Message(message) => {
                encoder.encode(message, &mut out);
                let word = match (kind, out[at]) {
                    (Kind::Message, _) => "message",
                    (Kind::MsgApp, 1) => "append",
                    (Kind::MsgApp, _) => "full",
                };
                describe(word, message, &mut lines);
            }
        }
    }
    assert!(out == payload, "{name}: encoded again, {} bytes against {}", out.len(), payload.len());
    assert_eq!(lines, expected(name), "{name}");
    frames.len()
}

/// Connections by number: dialler, addressee.
fn names() -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder())
        .unwrap()
        .filter_map(|entry| {
            entry.unwrap().file_name().to_str()?.strip_suffix(".request.bin").map(str::to_owned)
        })
        .collect();
    names.sort();
    names
}

#[test]
fn what_etcd_members_said_is_read_and_written_again_byte_for_byte() {
    let (mut streams, mut frames, mut posts) = (0, 0, 0);
    for name in names() {
        let request = fs::read(folder().join(format!("{name}.request.bin"))).unwrap();
        let response = fs::read(folder().join(format!("{name}.response.bin"))).unwrap();
        for request in requests(&request) {
            if request.path.starts_with("/raft/stream/") {
                let (kind, dialler) = stream_path(&request.path).unwrap();
                let remote = headers::parse_id(&request.headers["x-raft-to"]).unwrap();
                frames += check_stream(&name, kind, dialler, remote, &response);
                streams += 1;
            } else if request.method == "POST" && request.path == "/raft" {
                let message = Message::decode(&*request.body).unwrap();
                assert_eq!(message.encode_to_vec(), request.body, "{name}");
                posts += 1;
            }
        }
    }
    assert!(streams >= 4 && frames > 100, "{streams} streams, {frames} frames, {posts} posts");
}

#[test]
fn etcds_requests_pass_our_checks_and_carry_the_headers_that_we_send() {
    for name in names() {
        let bytes = fs::read(folder().join(format!("{name}.request.bin"))).unwrap();
        for request in requests(&bytes).into_iter().filter(|r| r.path.starts_with("/raft/stream/")) {
            let get = |name: &str| request.headers[name].clone();
            let identity = crate::Identity {
                member: headers::parse_id(&get("x-server-from")).unwrap(),
                cluster: headers::parse_id(&get("x-etcd-cluster-id")).unwrap(),
                peer_urls: get("x-peerurls").split(',').map(str::to_owned).collect(),
                version: get("x-server-version"),
            };
            let ours = headers::outgoing(&identity);
            assert_eq!(headers::check(&ours, &identity), Ok(()));
            for (name, value) in &ours {
                assert_eq!(request.headers[name.as_str()], value.to_str().unwrap(), "{name}");
            }
            assert_eq!(stream_path(&request.path).unwrap().1, identity.member);
        }
    }
}

#[test]
fn the_members_and_versions_of_the_capture_are_read() {
    let mut seen = 0;
    for name in names() {
        let request = fs::read(folder().join(format!("{name}.request.bin"))).unwrap();
        let response = fs::read(folder().join(format!("{name}.response.bin"))).unwrap();
        let mut rest = BytesMut::from(&response[..]);
        for request in requests(&request).into_iter().filter(|r| !r.path.starts_with("/raft/stream/")) {
            let Some(head) = parse_head(&mut rest, 16 << 10).unwrap() else { break };
            let length = headers::text(&head.headers, &http::header::CONTENT_LENGTH).parse().unwrap_or(0);
            let body = rest.split_to(length);
            match request.path.as_str() {
                "/members" => {
                    let members: Vec<types::Member> = serde_json::from_slice(&body).unwrap();
                    // Go ends the list with a line feed.
                    assert_eq!(
                        serde_json::to_string(&members).unwrap() + "\n",
                        String::from_utf8_lossy(&body)
                    );
                    seen += 1;
                }
                "/version" => {
                    let versions: crate::Versions = serde_json::from_slice(&body).unwrap();
                    assert_eq!(serde_json::to_string(&versions).unwrap(), String::from_utf8_lossy(&body));
                    seen += 1;
                }
                _ => {}
            }
        }
    }
    assert!(seen >= 2, "{seen} answers");
}
