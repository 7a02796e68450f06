//! The lower limit of the cost of a request: a tonic server on one thread that does nothing but answer.

use std::pin::Pin;

use anyhow::Context as _;
use bytes::Bytes;
use proto::{
    etcdserverpb::{
        CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
        PutResponse, RangeRequest, RangeResponse, RangeStreamResponse, ResponseHeader, TxnRequest,
        TxnResponse,
        kv_server::{Kv, KvServer},
    },
    mvccpb::KeyValue,
};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, transport::Server};

use crate::generator::Generator;

pub(crate) const READY: &str = "echo answers";

/// Serves on the port in the second argument until it is killed.
pub(crate) fn serve() -> anyhow::Result<()> {
    let port: u16 =
        std::env::args().nth(2).and_then(|port| port.parse().ok()).context("usage: bench echo PORT")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let incoming = tonic::transport::server::TcpIncoming::bind(([127, 0, 0, 1], port).into())
            .with_context(|| format!("port {port}"))?
            .with_nodelay(Some(true));
        println!("{READY}");
        let echo = Echo { value: Generator::value().into() };
        Server::builder().add_service(KvServer::new(echo)).serve_with_incoming(incoming).await?;
        Ok(())
    })
}

struct Echo {
    value: Bytes,
}

/// A header as long as a real one, with IDs of full width.
fn header() -> ResponseHeader {
    ResponseHeader {
        cluster_id: 0xcdf8_1818_e172_cdfa,
        member_id: 0x8e9e_05c5_2164_694d,
        revision: 1 << 20,
        raft_term: 2,
    }
}

#[tonic::async_trait]
impl Kv for Echo {
    type RangeStreamStream = Pin<Box<dyn Stream<Item = Result<RangeStreamResponse, Status>> + Send>>;

    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        let kv = KeyValue {
            key: request.into_inner().key,
            create_revision: 2,
            mod_revision: 2,
            version: 1,
            value: self.value.clone(),
            lease: 0,
        };
        Ok(Response::new(RangeResponse { header: Some(header()), kvs: vec![kv], more: false, count: 1 }))
    }

    async fn put(&self, _: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        Ok(Response::new(PutResponse { header: Some(header()), prev_kv: None }))
    }

    async fn range_stream(
        &self,
        _: Request<RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(not_here())
    }

    async fn delete_range(
        &self,
        _: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        Err(not_here())
    }

    async fn txn(&self, _: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        Err(not_here())
    }

    async fn compact(&self, _: Request<CompactionRequest>) -> Result<Response<CompactionResponse>, Status> {
        Err(not_here())
    }
}

fn not_here() -> Status {
    Status::unimplemented("the bare answerer answers Put and Range")
}
