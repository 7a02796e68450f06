//! What a request of the log is answered with, by its type.

use crate::{Command, Kind, Response, Unread};
use proto::etcdserverpb as pb;
use proto::membershippb;

/// A request that may be proposed.
pub trait Request: Into<Command> {
    /// Which kind it is.
    const KIND: Kind;
    /// What it is answered with.
    type Answer: Answer;
}

/// What a request is answered with.
pub trait Answer: Sized {
    /// What an entry came to; `None` where that is the answer to another kind of request.
    fn of(response: Response) -> Option<Self>;

    /// The header, of which only the revision is filled in, where there is one.
    fn header(&mut self) -> Option<&mut Option<pb::ResponseHeader>>;
}

/// An answer that may have many rows.
#[derive(Clone, Debug, PartialEq)]
pub enum Rows<T> {
    /// With all of them.
    All(T),
    /// Some were more reading than an entry may do.
    Unread(Box<Unread>),
}

macro_rules! answers {
    ($($variant:ident($request:ty) = $answer:ty;)*) => {$(
        impl Request for $request {
            const KIND: Kind = Kind::$variant;
            type Answer = $answer;
        }

        impl Answer for $answer {
            fn of(response: Response) -> Option<Self> {
                if let Response::$variant(answer) = response { Some(answer) } else { None }
            }

            fn header(&mut self) -> Option<&mut Option<pb::ResponseHeader>> {
                Some(&mut self.header)
            }
        }
    )*};
}

macro_rules! answers_with_rows {
    ($($variant:ident($request:ty) = $answer:ty;)*) => {$(
        impl Request for $request {
            const KIND: Kind = Kind::$variant;
            type Answer = Rows<$answer>;
        }

        impl Answer for Rows<$answer> {
            fn of(response: Response) -> Option<Self> {
                match response {
                    Response::$variant(answer) => Some(Self::All(answer)),
                    Response::Unread(unread) => Some(Self::Unread(unread)),
                    _ => None,
                }
            }

            fn header(&mut self) -> Option<&mut Option<pb::ResponseHeader>> {
                match self {
                    Self::All(answer) => Some(&mut answer.header),
                    Self::Unread(unread) => match &mut unread.answer {
                        Response::$variant(answer) => Some(&mut answer.header),
                        _ => None,
                    },
                }
            }
        }
    )*};
}

answers! {
    Compaction(pb::CompactionRequest) = pb::CompactionResponse;
    LeaseGrant(pb::LeaseGrantRequest) = pb::LeaseGrantResponse;
    LeaseRevoke(pb::LeaseRevokeRequest) = pb::LeaseRevokeResponse;
    LeaseCheckpoint(pb::LeaseCheckpointRequest) = pb::LeaseCheckpointResponse;
    Alarm(pb::AlarmRequest) = pb::AlarmResponse;
}

answers_with_rows! {
    Range(pb::RangeRequest) = pb::RangeResponse;
    Put(pb::PutRequest) = pb::PutResponse;
    DeleteRange(pb::DeleteRangeRequest) = pb::DeleteRangeResponse;
    Txn(pb::TxnRequest) = pb::TxnResponse;
}

/// What members tell each other is applied, and that is all.
impl Answer for () {
    fn of(response: Response) -> Option<Self> {
        matches!(response, Response::Published).then_some(())
    }

    fn header(&mut self) -> Option<&mut Option<pb::ResponseHeader>> {
        None
    }
}

impl Request for membershippb::ClusterVersionSetRequest {
    const KIND: Kind = Kind::ClusterVersion;
    type Answer = ();
}

impl Request for membershippb::ClusterMemberAttrSetRequest {
    const KIND: Kind = Kind::MemberAttributes;
    type Answer = ();
}

impl Request for membershippb::DowngradeInfoSetRequest {
    const KIND: Kind = Kind::Downgrade;
    type Answer = ();
}

impl Response {
    /// The revision that its header says, 0 where it has none.
    pub fn revision(&self) -> i64 {
        let header = match self {
            Self::Range(answer) => &answer.header,
            Self::Put(answer) => &answer.header,
            Self::DeleteRange(answer) => &answer.header,
            Self::Txn(answer) => &answer.header,
            Self::Compaction(answer) => &answer.header,
            Self::LeaseGrant(answer) => &answer.header,
            Self::LeaseRevoke(answer) => &answer.header,
            Self::LeaseCheckpoint(answer) => &answer.header,
            Self::Alarm(answer) => &answer.header,
            Self::Unread(unread) => return unread.answer.revision(),
            Self::Published => return 0,
        };
        header.as_ref().map_or(0, |header| header.revision)
    }
}
