//! Who is wrong, by what the members answered.

use std::collections::BTreeMap;
use transport::{HashError, SliceHash};

/// What one other member says of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The hash that it has.
    Hash(SliceHash),
    /// Nothing now, and perhaps something later.
    Silent,
    /// It has compacted what was asked for.
    Compacted,
    /// Nothing that could be compared.
    Nothing,
}

/// What the answers show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Whoever answered has the same.
    Same,
    /// Nobody has answered with a hash.
    Unanswered,
    /// Nobody could: it was compacted meanwhile.
    Compacted,
    /// This member is of the majority; these are not.
    Other(Vec<u64>),
    /// These are the majority, and this member is not of it.
    Own(Vec<u64>),
    /// Members differ, and none of their hashes is a majority's.
    Split,
}

impl Answer {
    pub(crate) fn of(answer: &Result<SliceHash, HashError>) -> Self {
        match answer {
            Ok(hash) => Self::Hash(*hash),
            Err(HashError::Future | HashError::Other(_)) => Self::Silent,
            Err(HashError::Compacted) => Self::Compacted,
            Err(HashError::NotServed | HashError::OtherCluster) => Self::Nothing,
        }
    }
}

impl Verdict {
    /// Its name in the metrics.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Unanswered => "unanswered",
            Self::Compacted => "compacted",
            Self::Other(_) => "other",
            Self::Own(_) => "own",
            Self::Split => "split",
        }
    }
}

/// The majority is of all members of the cluster, as in etcd, whoever answered.
pub(crate) fn judge(me: u64, own: SliceHash, answers: &[(u64, Answer)], members: usize) -> Verdict {
    let mut groups = BTreeMap::from([(own, vec![me])]);
    for (member, answer) in answers {
        if let Answer::Hash(hash) = answer {
            groups.entry(*hash).or_default().push(*member);
        }
    }
    if groups.len() == 1 {
        let is_compacted = answers.iter().any(|(_, answer)| *answer == Answer::Compacted);
        return match groups[&own].len() {
            1 if is_compacted => Verdict::Compacted,
            1 => Verdict::Unanswered,
            _ => Verdict::Same,
        };
    }
    let quorum = members / 2 + 1;
    match groups.iter().find(|(_, members)| members.len() >= quorum).map(|(hash, _)| *hash) {
        None => Verdict::Split,
        Some(right) if right == own => {
            groups.remove(&own);
            Verdict::Other(groups.into_values().flatten().collect())
        }
        Some(right) => Verdict::Own(groups.remove(&right).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_of_all_members_is_right() {
        let hash = |hash| SliceHash { hash, rows: 1 };
        let check = |theirs: &[Option<u32>], members, expected| {
            let answer = |a: &Option<u32>| a.map_or(Answer::Silent, |h| Answer::Hash(hash(h)));
            let answers: Vec<_> = (2..).zip(theirs.iter().map(answer)).collect();
            assert_eq!(judge(1, hash(7), &answers, members), expected, "{theirs:?} of {members}");
        };
        check(&[Some(7), Some(7)], 3, Verdict::Same);
        check(&[Some(7), None], 3, Verdict::Same);
        check(&[None, None], 3, Verdict::Unanswered);
        check(&[], 1, Verdict::Unanswered);
        check(&[Some(7), Some(8)], 3, Verdict::Other(vec![3]));
        check(&[Some(8), Some(8)], 3, Verdict::Own(vec![2, 3]));
        check(&[Some(8), Some(9)], 3, Verdict::Split);
        check(&[Some(8), None], 3, Verdict::Split);
        check(&[Some(8)], 2, Verdict::Split);
        // Three of five are needed, whoever answers.
        check(&[Some(8), Some(8), None, None], 5, Verdict::Split);
        check(&[Some(8), Some(8), Some(8), None], 5, Verdict::Own(vec![2, 3, 4]));
        check(&[Some(7), Some(7), Some(8), Some(9)], 5, Verdict::Other(vec![4, 5]));
    }

    #[test]
    fn what_others_have_compacted_is_told_from_what_nobody_answers() {
        let own = SliceHash { hash: 7, rows: 1 };
        let check = |theirs: [Answer; 2], expected| {
            let answers: Vec<_> = (2..).zip(theirs).collect();
            assert_eq!(judge(1, own, &answers, 3), expected, "{theirs:?}");
        };
        check([Answer::Compacted, Answer::Silent], Verdict::Compacted);
        check([Answer::Compacted, Answer::Hash(own)], Verdict::Same);
        check([Answer::Silent, Answer::Nothing], Verdict::Unanswered);
    }

    #[test]
    fn rows_that_are_missing_are_a_difference_whatever_the_hash() {
        let answers = [(2, Answer::Hash(SliceHash { hash: 7, rows: 2 }))];
        assert_eq!(judge(1, SliceHash { hash: 7, rows: 3 }, &answers, 2), Verdict::Split);
    }
}
