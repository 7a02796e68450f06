//! Semantic versions, as etcd's members announce them.

/// Major, minor and patch, ordered. Pre-release and build are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The `3` of `3.7.0`.
    pub major: u64,
    /// The `7` of `3.7.0`.
    pub minor: u64,
    /// The `0` of `3.7.0`.
    pub patch: u64,
}

impl Version {
    /// Reads `major.minor.patch`, with or without `-pre` and `+build`, as etcd's semver does.
    pub fn parse(text: &str) -> Option<Self> {
        let core = text.split(['-', '+']).next()?;
        let mut parts = core.split('.').map(|part| {
            let is_number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            if is_number { part.parse::<u64>().ok() } else { None }
        });
        let version = Self { major: parts.next()??, minor: parts.next()??, patch: parts.next()?? };
        parts.next().is_none().then_some(version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_etcds_semver_reads_them() {
        let check = |text: &str, expected| {
            let version = Version::parse(text).map(|version| (version.major, version.minor, version.patch));
            assert_eq!(version, expected, "{text}");
        };
        check("3.7.3", Some((3, 7, 3)));
        check("3.7.0-rc.1+git", Some((3, 7, 0)));
        for bad in ["3.7", "3.7.x", "v3.7.3", "3.7.3.1", "+3.7.3", ""] {
            check(bad, None);
        }
    }
}
