//! How a command fails: etcdctl's exit codes, and an error line on stderr.

use std::error::Error;
use std::fmt;

/// The request failed, or the command line cannot be parsed.
pub(crate) const ERROR: u8 = 1;
/// No connection, where etcdctl has an own code for it.
pub(crate) const BAD_CONNECTION: u8 = 2;
/// The input on stdin cannot be parsed.
pub(crate) const INVALID_INPUT: u8 = 3;
/// A known flag with an unknown value.
pub(crate) const BAD_FEATURE: u8 = 4;
/// A stream ended before its end.
pub(crate) const INTERRUPTED: u8 = 5;
/// Wrong or missing arguments.
pub(crate) const BAD_ARGS: u8 = 128;

/// An exit code with the lines that explain it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    /// Follows `Error: ` on stderr; `None` if the error was already printed.
    pub(crate) text: Option<String>,
    /// Lines after the error, such as how to get help.
    pub(crate) hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(code: u8, text: impl fmt::Display) -> Self {
        Self { code, text: Some(text.to_string()), hint: None }
    }

    pub(crate) fn args(text: impl fmt::Display) -> Self {
        Self::new(BAD_ARGS, text)
    }

    pub(crate) fn error(text: impl fmt::Display) -> Self {
        Self::new(ERROR, text)
    }

    /// An exit code without an error line: everything is already printed.
    pub(crate) fn silent(code: u8) -> Self {
        Self { code, text: None, hint: None }
    }

    /// Puts what was being done before the error.
    pub(crate) fn within(mut self, what: &str) -> Self {
        self.text = self.text.map(|text| format!("{what} ({text})"));
        self
    }

    pub(crate) fn hint(mut self, lines: impl fmt::Display) -> Self {
        self.hint = Some(lines.to_string());
        self
    }

    /// All lines for stderr, each with its line end.
    pub(crate) fn lines(&self) -> String {
        let mut lines = String::new();
        if let Some(text) = &self.text {
            lines = format!("Error: {text}\n");
        }
        if let Some(hint) = &self.hint {
            lines.push_str(hint);
            lines.push('\n');
        }
        lines
    }
}

/// The text of the last error in the chain of sources, as Go shows it: `connection refused`.
pub(crate) fn cause(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}
