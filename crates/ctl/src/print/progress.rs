//! Progress bars on stderr, if that is a terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar that counts bytes.
pub(crate) fn bytes() -> ProgressBar {
    bar("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
}

/// A bar that counts up to `count` steps.
pub(crate) fn steps(count: u64) -> ProgressBar {
    let bar = bar("{bar:40} {pos}/{len} {percent}% {elapsed}");
    bar.set_length(count);
    bar
}

fn bar(template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).expect("a template of ours");
    // Drawn to stderr, and only to a terminal.
    ProgressBar::new(0).with_style(style)
}
