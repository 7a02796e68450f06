//! The members as etcd 3.5 and 3.6 want them in `raftpb.Snapshot.data`: a dump of the store that etcd had before
//! version 3 (`server/etcdserver/api/v2store`). They read members and cluster version from it; 3.7 reads only rows.
//!
//! ```text
//! /0/members/<id>/raftAttributes   {"peerURLs":[…],"isLearner":true}
//! /0/members/<id>/attributes       {"name":…,"clientURLs":[…]}, once the member has published them
//! /0/removed_members/<id>          nothing
//! /0/version                       3.7.0
//! /1                               keys of clients of etcd 2: none
//! ```
//!
//! What a dump leaves out keeps the value that it has in the receiver's store, or a new node's zero: indexes and events,
//! which nobody asks for any more, and expiry, of which zero means never.

use crate::{Fault, Member, buckets, rows};
use engine::{Family, Rows};
use serde::Serialize;
use std::collections::BTreeMap;

/// The dump for these rows. Some 300 bytes a member; Go's JSON reads it whatever the order of its fields.
pub fn v2_store(rows: &dyn Rows) -> Result<Vec<u8>, Fault> {
    let (mut members, mut removed, mut cluster) = (Dir::new(), Dir::new(), Dir::new());
    for (id, json) in buckets::members(rows)? {
        let member: Member =
            serde_json::from_slice(&json).map_err(|error| rows::broken(rows::MEMBER, error))?;
        members.insert(text(id)?, Content::Dir(attributes(member)));
    }
    for (id, _) in buckets::removed(rows)? {
        removed.insert(text(id)?, Content::Value(String::new()));
    }
    cluster.insert("members".to_owned(), Content::Dir(members));
    cluster.insert("removed_members".to_owned(), Content::Dir(removed));
    if let Some(version) = rows.get(Family::Meta, rows::CLUSTER_VERSION)? {
        cluster.insert("version".to_owned(), Content::Value(text(version.to_vec())?));
    }
    let root =
        Dir::from([("0".to_owned(), Content::Dir(cluster)), ("1".to_owned(), Content::Dir(Dir::new()))]);
    let dump = Dump { root: node("/", Content::Dir(root)) };
    Ok(serde_json::to_vec(&dump).expect("strings and maps"))
}

type Dir = BTreeMap<String, Content>;

enum Content {
    Value(String),
    Dir(Dir),
}

/// etcd's `store`, as far as it is needed.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Dump {
    root: Node,
}

/// etcd's `node`, as far as it is needed.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    path: String,
    value: String,
    /// `None`, in JSON `null`: no directory.
    children: Option<BTreeMap<String, Node>>,
}

fn node(path: &str, content: Content) -> Node {
    let (value, children) = match content {
        Content::Value(value) => (value, None),
        Content::Dir(dir) => {
            let child = |(name, content): (String, Content)| {
                let path = format!("{}/{name}", path.trim_end_matches('/'));
                (name, node(&path, content))
            };
            (String::new(), Some(dir.into_iter().map(child).collect()))
        }
    };
    Node { path: path.to_owned(), value, children }
}

/// etcd's `membership.RaftAttributes`: what raft and its transport need.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RaftAttributes {
    #[serde(rename = "peerURLs")]
    peer_urls: Vec<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_learner: bool,
}

/// etcd's `membership.Attributes`: what a member says of itself.
#[derive(Serialize)]
struct Attributes {
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(rename = "clientURLs")]
    client_urls: Vec<String>,
}

fn attributes(member: Member) -> Dir {
    fn value(json: &impl Serialize) -> Content {
        Content::Value(serde_json::to_string(json).expect("strings and a flag"))
    }
    let Member { peer_urls, is_learner, name, client_urls, .. } = member;
    let mut dir =
        Dir::from([("raftAttributes".to_owned(), value(&RaftAttributes { peer_urls, is_learner }))]);
    // A name alone is the proposer's idea of it: a member that has one counts as started.
    if !client_urls.is_empty() {
        dir.insert("attributes".to_owned(), value(&Attributes { name, client_urls }));
    }
    dir
}

fn text(bytes: Vec<u8>) -> Result<String, Fault> {
    String::from_utf8(bytes).map_err(|error| rows::broken(rows::CLUSTER_VERSION, error))
}
