//! Requests of the store that etcd had before version 3. etcd 3.5 still writes two kinds of them to its log, instead of
//! requests of version 3: a member publishes its name and client URLs, and the leader the cluster's version. They are taken
//! as what etcd 3.6 makes of them (`v2ToV3Request` in `server/etcdserver/apply_v2.go`).

use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb::{InternalRaftRequest, RequestHeader};
use proto::membershippb;
use serde::Deserialize;

/// etcd's `etcdserverpb.Request`, as far as these two use it.
#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    method: String,
    #[prost(string, tag = "3")]
    path: String,
    #[prost(string, tag = "4")]
    value: String,
}

/// etcd's `membership.Attributes`. An empty field is left out.
#[derive(Deserialize)]
struct Attributes {
    #[serde(default)]
    name: String,
    #[serde(default, rename = "clientURLs")]
    client_urls: Vec<String>,
}

/// The request as one of version 3; `None` unless it is one of the two. No request of version 3 is: its third field would
/// be a message, and a path is none.
pub(crate) fn decode(data: &Bytes) -> Option<InternalRaftRequest> {
    let request = Request::decode(data.clone()).ok()?;
    if request.method != "PUT" || request.id == 0 {
        return None;
    }
    let header = Some(RequestHeader { id: request.id, ..Default::default() });
    if request.path == "/0/version" {
        let set = Some(membershippb::ClusterVersionSetRequest { ver: request.value });
        return Some(InternalRaftRequest { header, cluster_version_set: set, ..Default::default() });
    }
    let member = request.path.strip_prefix("/0/members/")?.strip_suffix("/attributes")?;
    let member_id = u64::from_str_radix(member, 16).ok()?;
    let Attributes { name, client_urls } = serde_json::from_str(&request.value).ok()?;
    let member_attributes = Some(membershippb::Attributes { name, client_urls });
    let set = Some(membershippb::ClusterMemberAttrSetRequest { member_id, member_attributes });
    Some(InternalRaftRequest { header, cluster_member_attr_set: set, ..Default::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As etcd 3.5 writes it: fields of no value are written, too (proto2).
    fn entry(method: &str, path: &str, value: &str) -> Bytes {
        let request = Request { id: 9, method: method.into(), path: path.into(), value: value.into() };
        let mut bytes = request.encode_to_vec();
        bytes.extend([0x28, 0, 0x32, 0, 0x38, 0, 0x48, 0, 0x50, 0, 0x58, 0, 0x60, 0, 0x68, 0]);
        bytes.extend([0x70, 0, 0x78, 0, 0x80, 1, 0]);
        bytes.into()
    }

    #[test]
    fn a_member_and_a_version_are_published_as_by_version_3() {
        let check = |path: &str, value: &str, expected: InternalRaftRequest| {
            let header = Some(RequestHeader { id: 9, ..Default::default() });
            let entry = entry("PUT", path, value);
            assert!(proto::deep::request(entry.clone()).is_err(), "{path} is no request of version 3");
            assert_eq!(decode(&entry), Some(InternalRaftRequest { header, ..expected }));
        };
        let version = Some(membershippb::ClusterVersionSetRequest { ver: "3.5.0".into() });
        let set = InternalRaftRequest { cluster_version_set: version, ..Default::default() };
        check("/0/version", "3.5.0", set);
        let attributes = |name: &str, urls: &[&str]| {
            let client_urls = urls.iter().map(|url| (*url).to_owned()).collect();
            let member_attributes = Some(membershippb::Attributes { name: name.into(), client_urls });
            let member_id = 0x8e9e_05c5_2164_694d;
            let set = Some(membershippb::ClusterMemberAttrSetRequest { member_id, member_attributes });
            InternalRaftRequest { cluster_member_attr_set: set, ..Default::default() }
        };
        let path = "/0/members/8e9e05c52164694d/attributes";
        let both = r#"{"name":"m0","clientURLs":["http://127.0.0.1:2379"]}"#;
        check(path, both, attributes("m0", &["http://127.0.0.1:2379"]));
        check(path, "{}", attributes("", &[]));
    }

    #[test]
    fn nothing_else_of_version_2_is_taken() {
        let path = "/0/members/1/attributes";
        let rest =
            [("DELETE", path, "{}"), ("PUT", path, "no JSON"), ("PUT", "/1/key", "v"), ("SYNC", "", "")];
        let members =
            [("PUT", "/0/members/x/attributes", "{}"), ("PUT", "/0/members/1/raftAttributes", "{}")];
        for (method, path, value) in rest.into_iter().chain(members) {
            assert!(decode(&entry(method, path, value)).is_none(), "{method} {path} {value}");
        }
    }
}
