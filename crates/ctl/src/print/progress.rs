//! Progress bars on stderr, where somebody looks at a terminal; nothing anywhere else.

use indicatif::{ProgressBar, ProgressStyle};

/// Bytes of so many.
pub(crate) fn bytes() -> ProgressBar {
    bar("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
}

/// Steps of so many.
pub(crate) fn steps(count: u64) -> ProgressBar {
    let bar = bar("{bar:40} {pos}/{len} {percent}% {elapsed}");
    bar.set_length(count);
    bar
}

fn bar(template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).expect("a template of ours");
    // It is drawn to stderr, and only to a terminal.
    ProgressBar::new(0).with_style(style)
}
