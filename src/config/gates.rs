//! etcd's feature gates, and whether each is on.

use gotext::number::boolean;

/// Whether a gate is on: what is said last, else its default.
pub(super) fn is_gate_on(text: &str, name: &str) -> bool {
    let mut said =
        text.split(',').filter_map(|part| part.split_once('=')).filter(|(gate, _)| gate.trim() == name);
    let default = GATES.iter().any(|(gate, is_on)| *gate == name && *is_on);
    said.next_back().and_then(|(_, value)| boolean(value.trim().as_bytes()).ok()).unwrap_or(default)
}

/// etcd's feature gates (`server/features`), with their defaults; the last two are the library's own.
const GATES: [(&str, bool); 11] = [
    ("StopGRPCServiceOnDefrag", false),
    ("TxnModeWriteWithSharedBuffer", true),
    ("InitialCorruptCheck", false),
    ("CompactHashCheck", false),
    ("LeaseCheckpoint", false),
    ("LeaseCheckpointPersist", false),
    ("SetMemberLocalAddr", false),
    ("FastLeaseKeepAlive", true),
    ("PriorityRequest", false),
    ("AllAlpha", false),
    ("AllBeta", false),
];

/// Whether `--feature-gates` names gates that there are; else why not, in the words of etcd's library.
pub(super) fn check_gates(text: &str) -> Result<(), String> {
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let Some((name, value)) = part.split_once('=') else {
            return Err(format!("missing bool value for {}", part.trim()));
        };
        let (name, value) = (name.trim(), value.trim());
        if let Err(why) = boolean(value.as_bytes()) {
            return Err(format!("invalid value of {name}={value}, err: {why}"));
        }
        if !GATES.iter().any(|(known, _)| *known == name) {
            return Err(format!("unrecognized feature gate: {name}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_that_nobody_knows_are_refused() {
        for text in ["", "CompactHashCheck=true", "CompactHashCheck=true,AllAlpha=f", ","] {
            assert_eq!(check_gates(text), Ok(()), "{text}");
        }
        let check = |text: &str, why: &str| assert_eq!(check_gates(text), Err(why.to_owned()), "{text}");
        check("Nope=true", "unrecognized feature gate: Nope");
        check("CompactHashCheck", "missing bool value for CompactHashCheck");
        let why =
            "invalid value of CompactHashCheck=x, err: strconv.ParseBool: parsing \"x\": invalid syntax";
        check("CompactHashCheck=x", why);
    }
}
