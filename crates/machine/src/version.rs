//! Cluster versions: enough to refuse what etcd's members panic on, and to downgrade by one.

use std::fmt;
use types::Version;

/// The newest cluster version that this member supports. etcd compares with its own major.minor.0.
const OWN: Version = Version { major: 3, minor: 7, patch: 0 };

/// The cluster's version: what every member supports. As in etcd, the patch does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterVersion {
    /// `3` of `3.7.0`, the major version.
    pub major: u64,
    /// `7` of `3.7.0`, the minor version.
    pub minor: u64,
}

impl ClusterVersion {
    /// Parses a version of three parts, perhaps with a pre-release, and drops what follows the minor.
    pub fn parse(text: &str) -> Option<Self> {
        Version::parse(text).map(|Version { major, minor, .. }| Self { major, minor })
    }

    /// Parses a client's downgrade target: also `3.6`, as etcd's `convertToClusterVersion`.
    pub fn parse_target(text: &str) -> Option<Self> {
        Self::parse(text).or_else(|| Self::parse(&format!("{text}.0")))
    }

    /// The only version to which a cluster can be downgraded (etcd's `allowedDowngradeVersion`); `None` below minor 0.
    pub fn one_below(self) -> Option<Self> {
        Some(Self { minor: self.minor.checked_sub(1)?, ..self })
    }

    /// `3.7` of `3.7.0`, as etcd shows it to clients.
    pub fn short(self) -> String {
        format!("{}.{}", self.major, self.minor)
    }
}

/// `3.7.0`: the form that is stored and proposed.
impl fmt::Display for ClusterVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.0", self.major, self.minor)
    }
}

pub(crate) fn check_cluster_version(text: &str) -> Result<(), String> {
    match Version::parse(text) {
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
