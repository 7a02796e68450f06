//! Extensions specific to the HTTP/2 protocol.

use crate::hpack::BytesStr;

use bytes::Bytes;
use std::fmt;

/// An `:authority` pseudo-header that is no authority of a URI (RFC 3986, 3.2).
///
/// It is among the extensions of a request whose URI then has none. gRPC
/// clients send socket paths and lists of addresses there.
#[derive(Clone, Eq, PartialEq)]
pub struct RawAuthority {
    value: BytesStr,
}

impl RawAuthority {
    pub(crate) fn new(value: BytesStr) -> Self {
        Self { value }
    }

    /// Returns a str representation of the header.
    pub fn as_str(&self) -> &str {
        self.value.as_str()
    }
}

impl fmt::Debug for RawAuthority {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.value.fmt(f)
    }
}

/// A `:path` pseudo-header that is no path of a URI as it stands: with a fragment, without the first slash, with a space, or none
/// at all.
///
/// It is among the extensions of a request whose URI then has the path `/`. A gRPC server compares it with its methods'
/// names.
#[derive(Clone, Eq, PartialEq)]
pub struct RawPath {
    value: BytesStr,
}

impl RawPath {
    pub(crate) fn new(value: BytesStr) -> Self {
        Self { value }
    }

    /// Returns a str representation of the header.
    pub fn as_str(&self) -> &str {
        self.value.as_str()
    }
}

impl fmt::Debug for RawPath {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.value.fmt(f)
    }
}

/// Represents the `:protocol` pseudo-header used by
/// the [Extended CONNECT Protocol].
///
/// [Extended CONNECT Protocol]: https://datatracker.ietf.org/doc/html/rfc8441#section-4
#[derive(Clone, Eq, PartialEq)]
pub struct Protocol {
    value: BytesStr,
}

impl Protocol {
    /// Converts a static string to a protocol name.
    pub const fn from_static(value: &'static str) -> Self {
        Self {
            value: BytesStr::from_static(value),
        }
    }

    /// Returns a str representation of the header.
    pub fn as_str(&self) -> &str {
        self.value.as_str()
    }

    pub(crate) fn try_from(bytes: Bytes) -> Result<Self, std::str::Utf8Error> {
        Ok(Self {
            value: BytesStr::try_from(bytes)?,
        })
    }
}

impl<'a> From<&'a str> for Protocol {
    fn from(value: &'a str) -> Self {
        Self {
            value: BytesStr::from(value),
        }
    }
}

impl AsRef<[u8]> for Protocol {
    fn as_ref(&self) -> &[u8] {
        self.value.as_ref()
    }
}

impl fmt::Debug for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.value.fmt(f)
    }
}
