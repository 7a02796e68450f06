//! How a command ends when it does not end well: etcdctl's exit codes, and one line on stderr.

use std::fmt;

/// The request failed, or a command line that cannot be read.
pub(crate) const ERROR: u8 = 1;
/// No connection, where etcdctl tells it apart.
pub(crate) const BAD_CONNECTION: u8 = 2;
/// What came on stdin cannot be understood.
pub(crate) const INVALID_INPUT: u8 = 3;
/// A flag that exists with a value that does not.
pub(crate) const BAD_FEATURE: u8 = 4;
/// A stream ended before its end.
pub(crate) const INTERRUPTED: u8 = 5;
/// Arguments that make no command.
pub(crate) const BAD_ARGS: u8 = 128;

/// The end of a command that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) code: u8,
    /// What follows `Error: ` on stderr; `None` when all was said already.
    pub(crate) text: Option<String>,
    /// Lines after the error, such as where help is.
    pub(crate) hint: Option<String>,
}

impl Failure {
    /// An exit code and its line.
    pub(crate) fn new(code: u8, text: impl fmt::Display) -> Self {
        Self { code, text: Some(text.to_string()), hint: None }
    }

    /// [`BAD_ARGS`] and its line.
    pub(crate) fn args(text: impl fmt::Display) -> Self {
        Self::new(BAD_ARGS, text)
    }

    /// [`ERROR`] and its line.
    pub(crate) fn error(text: impl fmt::Display) -> Self {
        Self::new(ERROR, text)
    }

    /// An exit code after everything was said.
    pub(crate) fn silent(code: u8) -> Self {
        Self { code, text: None, hint: None }
    }

    /// Says what was being done.
    pub(crate) fn within(mut self, what: &str) -> Self {
        self.text = self.text.map(|text| format!("{what} ({text})"));
        self
    }

    /// Adds lines that follow the error.
    pub(crate) fn hint(mut self, lines: impl fmt::Display) -> Self {
        self.hint = Some(lines.to_string());
        self
    }

    /// Everything that goes to stderr, line ends included.
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
