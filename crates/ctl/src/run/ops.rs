//! Builds the requests of `get`, `put` and `del`, also for the lines of a transaction.

use crate::failure::{BAD_FEATURE, Failure};
use crate::flags::Flags;
use crate::print::warn;
use crate::text::words::end_of_prefix;
use gotext::number;
use gotext::quote::quote;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use std::io::Read as _;
use std::time::Duration;

/// How long the user may interrupt the deletion of a range.
const REGRET: Duration = Duration::from_secs(2);

/// Whether `--consistency` asks for a serializable read.
pub(crate) fn is_serializable(flags: &Flags) -> Result<bool, Failure> {
    match flags.bytes("consistency") {
        b"s" => Ok(true),
        b"l" => Ok(false),
        other => Err(Failure::new(BAD_FEATURE, format!("unknown consistency flag {}", quote(other)))),
    }
}

pub(crate) fn get(flags: &Flags, args: &[Vec<u8>]) -> Result<pb::RangeRequest, Failure> {
    let Some(key) = args.first() else {
        return Err(Failure::args(
            "get command needs one argument as key and an optional argument as range_end",
        ));
    };
    let (prefix, from_key) = prefix_or_from_key(flags)?;
    if flags.is("keys-only") && flags.is("count-only") {
        return Err(Failure::args(
            "`--keys-only` and `--count-only` cannot be set at the same time, choose one",
        ));
    }
    let serializable = is_serializable(flags)?;
    let (key, range_end) = range(key, args.get(1), prefix, from_key)?;
    let (sort_target, sort_order) = sorting(flags)?;
    let between = |min: &str, max: &str, name: &str| {
        let (least, most) = (flags.int(min), flags.int(max));
        if most > 0 && least > most {
            let text = format!("getMin{name}(={least}) > getMax{name}(={most})");
            return Err(Failure::new(BAD_FEATURE, text));
        }
        Ok((least.max(0), most.max(0)))
    };
    let (min_create_revision, max_create_revision) =
        between("min-create-rev", "max-create-rev", "CreateRev")?;
    let (min_mod_revision, max_mod_revision) = between("min-mod-rev", "max-mod-rev", "ModRev")?;
    Ok(pb::RangeRequest {
        key: key.into(),
        range_end: range_end.into(),
        limit: flags.int("limit"),
        revision: flags.int("rev").max(0),
        sort_order: sort_order.into(),
        sort_target: sort_target.into(),
        serializable,
        keys_only: flags.is("keys-only"),
        count_only: flags.is("count-only"),
        min_mod_revision,
        max_mod_revision,
        min_create_revision,
        max_create_revision,
    })
}

fn prefix_or_from_key(flags: &Flags) -> Result<(bool, bool), Failure> {
    let both = (flags.is("prefix"), flags.is("from-key"));
    if both == (true, true) {
        return Err(Failure::args("`--prefix` and `--from-key` cannot be set at the same time, choose one"));
    }
    Ok(both)
}

/// The key and range end of a request.
fn range(
    key: &[u8],
    end: Option<&Vec<u8>>,
    prefix: bool,
    from_key: bool,
) -> Result<(Vec<u8>, Vec<u8>), Failure> {
    match end {
        Some(_) if prefix || from_key => Err(Failure::args(
            "too many arguments, only accept one argument when `--prefix` or `--from-key` is set",
        )),
        Some(end) => Ok((key.to_vec(), end.clone())),
        // The empty key is a prefix of every key.
        None if (prefix || from_key) && key.is_empty() => Ok((vec![0], vec![0])),
        None if prefix => Ok((key.to_vec(), end_of_prefix(key))),
        None if from_key => Ok((key.to_vec(), vec![0])),
        None => Ok((key.to_vec(), Vec::new())),
    }
}

fn sorting(flags: &Flags) -> Result<(SortTarget, SortOrder), Failure> {
    let order = match &flags.text("order").to_uppercase()[..] {
        "" => SortOrder::None,
        "ASCEND" => SortOrder::Ascend,
        "DESCEND" => SortOrder::Descend,
        _ => return Err(Failure::new(BAD_FEATURE, format!("bad sort order {}", flags.text("order")))),
    };
    let target = match &flags.text("sort-by").to_uppercase()[..] {
        "" | "KEY" => SortTarget::Key,
        "CREATE" => SortTarget::Create,
        "MODIFY" => SortTarget::Mod,
        "VALUE" => SortTarget::Value,
        "VERSION" => SortTarget::Version,
        _ => return Err(Failure::new(BAD_FEATURE, format!("bad sort target {}", flags.text("sort-by")))),
    };
    // This is the default order, in which a server need not sort and may stop early.
    let in_key_order = (target, order) == (SortTarget::Key, SortOrder::Ascend);
    Ok((target, if in_key_order { SortOrder::None } else { order }))
}

/// Reads the value from stdin if it is not among the arguments.
pub(crate) fn put(flags: &Flags, args: &[Vec<u8>]) -> Result<pb::PutRequest, Failure> {
    let few = || Failure::args("put command needs 1 argument and input from stdin or 2 arguments");
    let key = args.first().ok_or_else(few)?;
    let ignore_value = flags.is("ignore-value");
    if ignore_value && args.len() > 1 {
        return Err(Failure::args("put command needs only 1 argument when 'ignore-value' is set"));
    }
    let value = match args.get(1) {
        _ if ignore_value => Vec::new(),
        Some(value) => value.clone(),
        None => {
            let mut value = Vec::new();
            match std::io::stdin().lock().read_to_end(&mut value) {
                Ok(0) | Err(_) => return Err(few()),
                Ok(_) => value,
            }
        }
    };
    let lease = number::int(flags.bytes("lease"), 16)
        .map_err(|why| Failure::args(format!("bad lease ID ({why}), expecting ID in Hex")))?;
    Ok(pb::PutRequest {
        key: key.clone().into(),
        value: value.into(),
        lease,
        prev_kv: flags.is("prev-kv"),
        ignore_value,
        ignore_lease: flags.is("ignore-lease"),
    })
}

/// Waits [`REGRET`] before the deletion of a range, unless `--range` is given.
pub(crate) async fn del(flags: &Flags, args: &[Vec<u8>]) -> Result<pb::DeleteRangeRequest, Failure> {
    let ([key] | [key, _]) = args else {
        return Err(Failure::args(
            "del command needs one argument as key and an optional argument as range_end",
        ));
    };
    let (prefix, from_key) = prefix_or_from_key(flags)?;
    let (key, range_end) = range(key, args.get(1), prefix, from_key)?;
    if let Some(end) = args.get(1).filter(|_| !flags.is("range")) {
        warn(format_args!(
            "Warning: Keys between {} and {} will be deleted. Please interrupt the command within next 2 seconds to \
             cancel. You can provide `--range` flag to avoid the delay.",
            quote(&key),
            quote(end)
        ));
        tokio::time::sleep(REGRET).await;
    }
    Ok(pb::DeleteRangeRequest { key: key.into(), range_end: range_end.into(), prev_kv: flags.is("prev-kv") })
}
