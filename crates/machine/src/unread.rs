//! Answers of which some rows are still to be read.
//!
//! An entry is applied between two ticks of a thread that all members wait for, and its answer waits in memory until its
//! client takes it. But a transaction of a few bytes may ask for the whole store after its put. So what an entry reads
//! for its answer is read at once only where that is little ([`crate::Limits`]). Else the moment is kept, a [`View`] that
//! shows the writes before the read and none behind it, and whoever answers reads it then: a piece at a time, or not at
//! all where nobody waits any more.

use crate::{Fault, Response, Stop};
use mvcc::{Answer, Effort, Outline, Query, View};
use prost::Message as _;
use proto::etcdserverpb::response_op::Response as Op;
use proto::etcdserverpb::{DeleteRangeResponse, PutResponse, RangeResponse, TxnResponse};
use std::iter::Peekable;
use std::slice::Iter;
use std::sync::Arc;

/// An answer, and what is still to be read of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Unread {
    /// All of it but the rows of `reads`.
    pub answer: Response,
    /// In the order of their operations.
    pub reads: Vec<Later>,
}

/// A read that is still to be done.
#[derive(Clone, Debug)]
pub struct Later {
    /// The operation whose rows it finds: counted from 0, in the order in which they were done. Nested transactions are none
    /// themselves.
    pub op: usize,
    view: Arc<View>,
    query: Query,
}

impl PartialEq for Later {
    fn eq(&self, other: &Self) -> bool {
        self.op == other.op && self.query == other.query && Arc::ptr_eq(&self.view, &other.view)
    }
}

impl Later {
    pub(crate) fn new(op: usize, view: Arc<View>, query: Query) -> Self {
        Self { op, view, query }
    }

    /// The moment that it reads. Where it is not whole ([`View::is_whole`]), writes of the same transaction may follow it at the
    /// same revision: no newer View shows it.
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// What it finds: its first rows, up to the one that brings them to `first_bytes`, and where the others are.
    pub fn outline(&self, first_bytes: usize, effort: &Effort<'_>) -> Result<Outline, Stop> {
        Ok(self.view.bounded(effort).outline(&self.query, first_bytes)?)
    }

    fn read(&self, effort: &Effort<'_>) -> Result<Answer, Stop> {
        Ok(self.view.bounded(effort).range(&self.query)?)
    }
}

impl Unread {
    /// What it holds beside the moments, in bytes.
    pub fn heap_len(&self) -> usize {
        let answer = match &self.answer {
            Response::Put(answer) => answer.encoded_len(),
            Response::DeleteRange(answer) => answer.encoded_len(),
            Response::Txn(answer) => answer.encoded_len(),
            _ => 0,
        };
        answer + size_of_val(&self.reads[..])
    }

    /// Reads all that is missing, or ends as [`Stop::GivenUp`] where that costs more than it may.
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
    let kvs = found.kvs.into_iter().map(crate::kv::wire).collect();
    *answer = RangeResponse { header: answer.header.take(), kvs, more: found.more, count: found.count };
}

fn fill_put(answer: &mut PutResponse, found: Answer) {
    answer.prev_kv = found.kvs.into_iter().next().map(crate::kv::wire);
}

fn fill_delete(answer: &mut DeleteRangeResponse, found: Answer) {
    answer.prev_kvs = found.kvs.into_iter().map(crate::kv::wire).collect();
}
