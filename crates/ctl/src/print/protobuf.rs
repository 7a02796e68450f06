//! `--write-out=protobuf`: the answer's own bytes, with nothing around them.

use super::{Answer, Unsupported};
use prost::Message as _;

/// Writes an answer.
pub(super) fn write(out: &mut Vec<u8>, answer: &Answer<'_>) -> Result<(), Unsupported> {
    match answer {
        Answer::Get(answer) => out.extend(answer.encode_to_vec()),
        Answer::Put(answer) => out.extend(answer.encode_to_vec()),
        Answer::Del(answer) => out.extend(answer.encode_to_vec()),
        Answer::Txn(answer) => out.extend(answer.encode_to_vec()),
        Answer::MemberList(answer) => out.extend(answer.encode_to_vec()),
        Answer::Health(_) | Answer::Status(_) | Answer::HashKv(_) => return Err(Unsupported),
    }
    Ok(())
}
