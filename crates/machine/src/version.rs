//! Cluster versions: just enough of semantic versioning to refuse what etcd's members panic on, and to go down by one.

use std::fmt;

/// The newest cluster version this member takes part in. etcd compares against its own major.minor.0.
const OWN: Version = Version { major: 3, minor: 7, patch: 0 };

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    major: u64,
    minor: u64,
    patch: u64,
}

fn parse(text: &str) -> Option<Version> {
    let core = text.split(['-', '+']).next()?;
    let mut parts = core.split('.').map(|part| {
        let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if digits { part.parse::<u64>().ok() } else { None }
    });
    let version = Version { major: parts.next()??, minor: parts.next()??, patch: parts.next()?? };
    parts.next().is_none().then_some(version)
}

/// A cluster's version: what every member of it can do. The patch does not count, as in etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterVersion {
    /// `3` of `3.7.0`.
    pub major: u64,
    /// `7` of `3.7.0`.
    pub minor: u64,
}

impl ClusterVersion {
    /// Reads a version of three parts, with or without a pre-release; what follows the minor is dropped.
    pub fn parse(text: &str) -> Option<Self> {
        parse(text).map(|Version { major, minor, .. }| Self { major, minor })
    }

    /// Reads what a client asks to go down to: also `3.6`, as etcd's `convertToClusterVersion` does.
    pub fn parse_target(text: &str) -> Option<Self> {
        Self::parse(text).or_else(|| Self::parse(&format!("{text}.0")))
    }

    /// The only version that a cluster can go down to (etcd's `allowedDowngradeVersion`); `None` below a minor of 0.
    pub fn one_below(self) -> Option<Self> {
        Some(Self { minor: self.minor.checked_sub(1)?, ..self })
    }

    /// `3.7` of `3.7.0`, as etcd shows it to clients.
    pub fn short(self) -> String {
        format!("{}.{}", self.major, self.minor)
    }
}

/// `3.7.0`: as it is stored and proposed.
impl fmt::Display for ClusterVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.0", self.major, self.minor)
    }
}

/// Whether a cluster version may be set here; else the reason why not.
pub(crate) fn check_cluster_version(text: &str) -> Result<(), String> {
    match parse(text) {
        None => Err(format!("cluster version {text:?} is no version")),
        Some(version) if version > OWN => {
            Err(format!("cluster version {text} is above this member's {}.{}", OWN.major, OWN.minor))
        }
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_etcd_would_panic_on_are_refused() {
        for good in ["3.0.0", "3.6.0", "3.7.0", "3.7.0-rc.1"] {
            assert_eq!(check_cluster_version(good), Ok(()), "{good}");
        }
        for bad in ["", "3.7", "3.7.0.1", "v3.7.0", "3.x.0", "3.8.0", "4.0.0", "3.7.1", "+3.7.0"] {
            assert!(check_cluster_version(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_downgrade_goes_one_minor_down_and_is_read_as_etcd_reads_it() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(
                ClusterVersion::parse_target(text).map(|v| v.to_string()).as_deref(),
                expected,
                "{text:?}"
            );
        };
        check("3.6", Some("3.6.0"));
        check("3.6.4", Some("3.6.0"));
        check("3.6.0-rc.1", Some("3.6.0"));
        for bad in ["", "3", "v3.6", "3.x", "3.6.0.1", "3.6-rc", "latest"] {
            check(bad, None);
        }
        let below =
            |text| ClusterVersion::parse(text).and_then(ClusterVersion::one_below).map(ClusterVersion::short);
        assert_eq!((below("3.7.0").as_deref(), below("3.0.0")), (Some("3.6"), None));
    }
}
