//! etcd's feature gates, and whether each is on.

use gotext::number::boolean;

/// Whether a gate is on: what is said of it last, else of all of its stage, else its default.
pub(super) fn is_gate_on(text: &str, name: &str) -> bool {
    let gate = GATES.iter().find(|gate| gate.name == name);
    said(text, name)
        .or_else(|| said(text, gate?.stage))
        .unwrap_or_else(|| gate.is_some_and(|gate| gate.is_on))
}

fn said(text: &str, name: &str) -> Option<bool> {
    let mut said =
        text.split(',').filter_map(|part| part.split_once('=')).filter(|(gate, _)| gate.trim() == name);
    said.next_back().and_then(|(_, value)| boolean(value.trim().as_bytes()).ok())
}

/// Gates that are not at their defaults and change nothing here.
pub(super) fn idle_gates(text: &str) -> impl Iterator<Item = &'static str> {
    let is_set = |gate: &&Gate| said(text, gate.name).is_some_and(|on| on != gate.is_on);
    GATES.iter().filter(|gate| !gate.is_served).filter(is_set).map(|gate| gate.name)
}

struct Gate {
    name: &'static str,
    /// The library's gate for all of its stage.
    stage: &'static str,
    /// Its default value without any flag.
    is_on: bool,
    /// Whether it changes anything here.
    is_served: bool,
}

const fn gate(name: &'static str, stage: &'static str, is_on: bool, is_served: bool) -> Gate {
    Gate { name, stage, is_on, is_served }
}

/// etcd's feature gates (`server/features`), with their defaults; the last two are the library's own.
const GATES: [Gate; 11] = [
    gate("StopGRPCServiceOnDefrag", "AllAlpha", false, false),
    gate("TxnModeWriteWithSharedBuffer", "AllBeta", true, false),
    gate("InitialCorruptCheck", "AllAlpha", false, true),
    gate("CompactHashCheck", "AllAlpha", false, true),
    gate("LeaseCheckpoint", "AllAlpha", false, false),
    gate("LeaseCheckpointPersist", "AllAlpha", false, false),
    gate("SetMemberLocalAddr", "AllAlpha", false, false),
    gate("FastLeaseKeepAlive", "AllBeta", true, false),
    gate("PriorityRequest", "AllAlpha", false, false),
    gate("AllAlpha", "", false, true),
    gate("AllBeta", "", false, true),
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
        if !GATES.iter().any(|known| known.name == name) {
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

    #[test]
    fn a_gate_is_on_where_it_or_all_of_its_stage_are() {
        let check = |text: &str, name: &str, expected: bool| {
            assert_eq!(is_gate_on(text, name), expected, "{text} {name}");
        };
        check("", "CompactHashCheck", false);
        check("", "FastLeaseKeepAlive", true);
        check("CompactHashCheck=true", "CompactHashCheck", true);
        check("CompactHashCheck=true", "InitialCorruptCheck", false);
        check("CompactHashCheck=true,CompactHashCheck=false", "CompactHashCheck", false);
        check("AllAlpha=true", "CompactHashCheck", true);
        check("CompactHashCheck=false,AllAlpha=true", "CompactHashCheck", false);
        check("AllAlpha=true", "AllBeta", false);
        check("AllBeta=false", "FastLeaseKeepAlive", false);
    }

    #[test]
    fn gates_without_effect_are_named() {
        let idle = |text| idle_gates(text).collect::<Vec<_>>();
        assert_eq!(idle("PriorityRequest=true,CompactHashCheck=true"), ["PriorityRequest"]);
        assert_eq!(idle("FastLeaseKeepAlive=true,AllAlpha=true"), [""; 0]);
    }
}
