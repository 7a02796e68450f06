//! Answers some of whose rows are still to be read. All members wait for the thread that applies, so only cheap reads
//! are done there ([`crate::Limits`]). For the others the entry keeps a [`View`] with its earlier writes and no later
//! ones, from which the answer's sender reads a piece at a time.

use crate::kv::wire;
use crate::{Fault, Later, Response, Stop, Unread};
use mvcc::{Answer, Effort};
use prost::Message as _;
use proto::etcdserverpb::response_op::Response as Op;
use proto::etcdserverpb::{DeleteRangeResponse, PutResponse, RangeResponse, TxnResponse};
use std::iter::Peekable;
use std::slice::Iter;

impl Unread {
    /// Memory besides the views, bytes.
    pub fn heap_len(&self) -> usize {
        let answer = match &self.answer {
            Response::Put(answer) => answer.encoded_len(),
            Response::DeleteRange(answer) => answer.encoded_len(),
            Response::Txn(answer) => answer.encoded_len(),
            _ => 0,
        };
        answer + size_of_val(&self.reads[..])
    }

    /// Does all deferred reads; ends as [`Stop::GivenUp`] if they exceed the budget.
    pub fn whole(&self, effort: &Effort<'_>) -> Result<Response, Stop> {
        effort.spend(self.reads.len() as u64, 0)?;
        let mut answer = self.answer.clone();
        let mut rest = self.reads.iter().peekable();
        let mut next = || rest.next().ok_or(UNLIKE_ANSWER)?.read(effort);
        match &mut answer {
            Response::Range(answer) => fill_range(answer, next()?),
            Response::Put(answer) => fill_put(answer, next()?),
            Response::DeleteRange(answer) => fill_delete(answer, next()?),
            Response::Txn(answer) => fill_txn(answer, &mut 0, &mut rest, effort)?,
            _ => return Err(UNLIKE_ANSWER),
        }
        if rest.next().is_some() { Err(UNLIKE_ANSWER) } else { Ok(answer) }
    }
}

const UNLIKE_ANSWER: Stop = Stop::Fault(Fault::Broken("reads were left for another answer"));

fn fill_txn(
    txn: &mut TxnResponse,
    op: &mut usize,
    rest: &mut Peekable<Iter<'_, Later>>,
    effort: &Effort<'_>,
) -> Result<(), Stop> {
    for response in &mut txn.responses {
        if let Some(Op::ResponseTxn(inner)) = &mut response.response {
            fill_txn(inner, op, rest, effort)?;
            continue;
        }
        if let Some(later) = rest.next_if(|later| later.op == *op) {
            let found = later.read(effort)?;
            match &mut response.response {
                Some(Op::ResponseRange(answer)) => fill_range(answer, found),
                Some(Op::ResponsePut(answer)) => fill_put(answer, found),
                Some(Op::ResponseDeleteRange(answer)) => fill_delete(answer, found),
                Some(Op::ResponseTxn(_)) | None => return Err(UNLIKE_ANSWER),
            }
        }
        *op += 1;
    }
    Ok(())
}

fn fill_range(answer: &mut RangeResponse, found: Answer) {
    let kvs = found.kvs.into_iter().map(wire).collect();
    *answer = RangeResponse { header: answer.header.take(), kvs, more: found.more, count: found.count };
}

fn fill_put(answer: &mut PutResponse, found: Answer) {
    answer.prev_kv = found.kvs.into_iter().next().map(wire);
}

fn fill_delete(answer: &mut DeleteRangeResponse, found: Answer) {
    answer.prev_kvs = found.kvs.into_iter().map(wire).collect();
}
