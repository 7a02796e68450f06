//! `txn`: reads comparisons and requests from stdin, one per line, in three parts that each end with an empty line.

use super::{Session, ops};
use crate::commands::{Action, OPS};
use crate::failure::{BAD_ARGS, Failure, INVALID_INPUT};
use crate::line::{self, Invocation, Line};
use crate::print::{Answer, say};
use crate::text::words;
use gotext::number;
use gotext::quote::{quote, scan_quoted};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::request_op::Request as Op;
use std::io::BufRead;

pub(crate) async fn run(invocation: Invocation) -> Result<(), Failure> {
    if !invocation.args.is_empty() {
        return Err(Failure::args("txn command does not accept argument"));
    }
    let interactive = invocation.flags.is("interactive");
    let (session, client) = Session::connect(invocation)?;
    let prompt = |text: &str| if interactive { say(text) } else { Ok(()) };

    prompt("compares:")?;
    let mut compare = Vec::new();
    while let Some(line) = read_line(&mut std::io::stdin().lock())? {
        compare.push(comparison(&line)?);
    }
    prompt("success requests (get, put, del):")?;
    let success = read_ops().await?;
    prompt("failure requests (get, put, del):")?;
    let failure = read_ops().await?;

    // No timeout, as in etcdctl.
    let answer = client.txn(None, pb::TxnRequest { compare, success, failure }).await?;
    session.printer.print(&Answer::Txn(&answer))
}

async fn read_ops() -> Result<Vec<pb::RequestOp>, Failure> {
    let mut ops = Vec::new();
    while let Some(line) = read_line(&mut std::io::stdin().lock())? {
        ops.push(request(&line).await?);
    }
    Ok(ops)
}

/// The next line, trimmed; `None` at the end of a part.
fn read_line(input: &mut impl BufRead) -> Result<Option<Vec<u8>>, Failure> {
    let mut line = Vec::new();
    let read = input.read_until(b'\n', &mut line);
    if read.is_err() || line.last() != Some(&b'\n') {
        return Err(invalid("EOF"));
    }
    let line = line.trim_ascii();
    Ok(if line.is_empty() { None } else { Some(line.to_vec()) })
}

fn invalid(text: impl std::fmt::Display) -> Failure {
    Failure::new(INVALID_INPUT, text)
}

/// Parses a request: a command line without the program.
async fn request(line: &[u8]) -> Result<pb::RequestOp, Failure> {
    let shown = String::from_utf8_lossy(line);
    let words = words::split_line(line)?;
    if words.len() < 2 {
        return Err(invalid(format!("invalid txn compare request: {shown}")));
    }
    let parsed = line::read("", &OPS, &words);
    let Ok(Line::Do(Invocation { action, flags, args, .. })) = parsed else {
        return Err(invalid(format!("invalid txn request: {shown}")));
    };
    let op = match action {
        Action::Get => Op::RequestRange(ops::get(&flags, &args)?),
        // The value cannot come from stdin, which holds the transaction.
        Action::Put if args.len() == 1 && !flags.is("ignore-value") => {
            let text = "put command needs 1 argument and input from stdin or 2 arguments";
            return Err(Failure::new(BAD_ARGS, text));
        }
        Action::Put => Op::RequestPut(ops::put(&flags, &args)?),
        Action::Del => Op::RequestDeleteRange(ops::del(&flags, &args).await?),
        other => panic!("{other:?} is no request of a transaction"),
    };
    Ok(pb::RequestOp { request: Some(op) })
}

/// Parses a comparison such as `mod("key") > "0"`.
fn comparison(line: &[u8]) -> Result<pb::Compare, Failure> {
    let shown = String::from_utf8_lossy(line);
    let Some(open) = line.iter().position(|b| *b == b'(') else {
        return Err(invalid(format!("malformed comparison: {shown}")));
    };
    let target = String::from_utf8_lossy(&line[..open]);
    let (mut key, mut operator, mut value) = (Vec::new(), String::new(), Vec::new());
    if scan(&line[open + 1..], &mut key, &mut operator, &mut value).is_none() {
        let (key, value) = (quote(&key), quote(&value));
        let text = format!("malformed comparison: {shown}; got {target}({key}) {operator} {value}");
        return Err(invalid(text));
    }
    let result = match &operator[..] {
        "=" => CompareResult::Equal,
        "!=" => CompareResult::NotEqual,
        ">" => CompareResult::Greater,
        "<" => CompareResult::Less,
        _ => return Err(invalid(format!("malformed comparison: {shown} (unknown operator {operator})"))),
    };
    let number = |base| {
        number::int(&value, base).map_err(|_| invalid(format!("invalid txn compare request: {shown}")))
    };
    let (target, union) = match &target[..] {
        "ver" | "version" => (CompareTarget::Version, TargetUnion::Version(number(10)?)),
        "c" | "create" => (CompareTarget::Create, TargetUnion::CreateRevision(number(10)?)),
        "m" | "mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number(10)?)),
        "val" | "value" => (CompareTarget::Value, TargetUnion::Value(value.clone().into())),
        // etcdctl panics here. Lease IDs are hexadecimal, as in its other commands.
        "lease" => (CompareTarget::Lease, TargetUnion::Lease(number(16)?)),
        _ => return Err(invalid(format!("malformed comparison: {shown} (unknown target {target})"))),
    };
    Ok(pb::Compare {
        result: result.into(),
        target: target.into(),
        key: key.into(),
        range_end: bytes::Bytes::new(),
        target_union: Some(union),
    })
}

/// Go's `Sscanf(text, "%q) %s %q")`: fills what it can; `None` if a part is missing.
fn scan(text: &[u8], key: &mut Vec<u8>, operator: &mut String, value: &mut Vec<u8>) -> Option<()> {
    let rest;
    (*key, rest) = scan_quoted(text)?;
    let rest = rest.strip_prefix(b")").filter(|rest| rest.first().is_some_and(u8::is_ascii_whitespace))?;
    let rest = rest.trim_ascii_start();
    let end = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
    if end == 0 {
        return None;
    }
    *operator = String::from_utf8_lossy(&rest[..end]).into_owned();
    (*value, _) = scan_quoted(&rest[end..])?;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::{comparison, read_line, request};
    use proto::etcdserverpb as pb;
    use proto::etcdserverpb::compare::TargetUnion;
    use proto::etcdserverpb::request_op::Request as Op;

    #[test]
    fn comparisons() {
        let made = comparison(br#"mod("a \"b\"") > "7""#).unwrap();
        assert_eq!((&made.key[..], made.result, made.target), (&b"a \"b\""[..], 1, 2));
        assert_eq!(made.target_union, Some(TargetUnion::ModRevision(7)));
        let made = comparison(br#"val("\xff") != "\x00""#).unwrap();
        assert_eq!((&made.key[..], made.result, made.target), (&b"\xff"[..], 3, 3));
        assert_eq!(made.target_union, Some(TargetUnion::Value(vec![0].into())));
        assert_eq!(comparison(br#"lease("k") = "7b""#).unwrap().target_union, Some(TargetUnion::Lease(123)));
        for (line, text) in [
            ("mod", "Error: malformed comparison: mod\n"),
            (r#"mod("k")>"0""#, "Error: malformed comparison: mod(\"k\")>\"0\"; got mod(\"k\")  \"\"\n"),
            (
                r#"mod("k") >"0""#,
                "Error: malformed comparison: mod(\"k\") >\"0\"; got mod(\"k\") >\"0\" \"\"\n",
            ),
            (r#"x("k") > "0""#, "Error: malformed comparison: x(\"k\") > \"0\" (unknown target x)\n"),
            (r#"mod("k") > "a""#, "Error: invalid txn compare request: mod(\"k\") > \"a\"\n"),
        ] {
            let failure = comparison(line.as_bytes()).unwrap_err();
            assert_eq!((failure.code, &failure.lines()[..]), (3, text));
        }
    }

    #[test]
    fn requests() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let request = |line: &str| runtime.block_on(request(line.as_bytes()));
        let put = pb::PutRequest { key: "k".into(), value: "a b".into(), lease: 16, ..Default::default() };
        assert_eq!(request(r#"put k "a b" --lease=10"#).unwrap().request, Some(Op::RequestPut(put)));
        let del = pb::DeleteRangeRequest { key: "k".into(), range_end: "l".into(), prev_kv: false };
        assert_eq!(request("d k --prefix").unwrap().request, Some(Op::RequestDeleteRange(del)));
        for (line, code) in [
            ("put", 3),
            ("put k", 128),
            ("watch k", 3),
            ("get k --hex", 3),
            ("get --help k", 3),
            ("get a b --prefix", 128),
        ] {
            assert_eq!(request(line).unwrap_err().code, code, "{line}");
        }
    }

    #[test]
    fn a_part_ends_with_an_empty_line_and_a_line_with_its_end() {
        let mut input = &b"  one \n \ntwo"[..];
        assert_eq!(read_line(&mut input).unwrap(), Some(b"one".to_vec()));
        assert_eq!(read_line(&mut input).unwrap(), None);
        assert_eq!(read_line(&mut input).unwrap_err().lines(), "Error: EOF\n");
    }
}
