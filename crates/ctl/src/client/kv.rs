//! The calls of the KV service.

use super::{Client, Kind, RequestError};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::kv_client::KvClient;
use tokio::time::Instant;
use tonic::transport::Channel;

type Deadline = Option<Instant>;
type Called<A> = Result<A, RequestError>;

impl Client {
    /// The service on a connection, with the user's limit on the size of a response.
    pub(crate) fn kv(&self, channel: Channel) -> KvClient<Channel> {
        KvClient::new(channel).max_decoding_message_size(self.settings.receive_bytes_max)
    }

    pub(crate) async fn range(
        &self,
        deadline: Deadline,
        request: pb::RangeRequest,
    ) -> Called<pb::RangeResponse> {
        self.call(deadline, Kind::Read, request, async |c, q| self.kv(c).range(q).await).await
    }

    pub(crate) async fn put(&self, deadline: Deadline, request: pb::PutRequest) -> Called<pb::PutResponse> {
        self.call(deadline, Kind::Write, request, async |c, q| self.kv(c).put(q).await).await
    }

    pub(crate) async fn delete_range(
        &self,
        deadline: Deadline,
        request: pb::DeleteRangeRequest,
    ) -> Called<pb::DeleteRangeResponse> {
        self.call(deadline, Kind::Write, request, async |c, q| self.kv(c).delete_range(q).await).await
    }

    pub(crate) async fn txn(&self, deadline: Deadline, request: pb::TxnRequest) -> Called<pb::TxnResponse> {
        self.call(deadline, Kind::Write, request, async |c, q| self.kv(c).txn(q).await).await
    }

    pub(crate) async fn compact(
        &self,
        deadline: Deadline,
        request: pb::CompactionRequest,
    ) -> Called<pb::CompactionResponse> {
        self.call(deadline, Kind::Write, request, async |c, q| self.kv(c).compact(q).await).await
    }
}
