//! Tables as etcdctl draws them: headings centred, cells right-aligned.

use std::fmt::Write as _;

/// Draws a table. Each row must have one cell per heading.
pub(crate) fn draw(out: &mut String, headings: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = headings.iter().map(|text| width(text)).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(self::width(cell));
        }
    }
    rule(out, &widths, ['┌', '┬', '┐']);
    line(out, headings.iter().zip(&widths).map(|(text, wide)| centred(text, *wide)));
    if rows.is_empty() {
        rule(out, &widths, ['└', '┴', '┘']);
        return;
    }
    rule(out, &widths, ['├', '┼', '┤']);
    for row in rows {
        line(
            out,
            row.iter().zip(&widths).map(|(cell, wide)| format!("{}{cell}", " ".repeat(wide - width(cell)))),
        );
    }
    rule(out, &widths, ['└', '┴', '┘']);
}

fn width(text: &str) -> usize {
    text.chars().count()
}

fn centred(text: &str, wide: usize) -> String {
    let free = wide - width(text);
    format!("{}{text}{}", " ".repeat(free / 2), " ".repeat(free - free / 2))
}

fn rule(out: &mut String, widths: &[usize], [left, middle, right]: [char; 3]) {
    for (index, width) in widths.iter().enumerate() {
        out.push(if index == 0 { left } else { middle });
        out.extend(std::iter::repeat_n('─', width + 2));
    }
    out.push(right);
    out.push('\n');
}

fn line(out: &mut String, cells: impl Iterator<Item = String>) {
    for cell in cells {
        write!(out, "│ {cell} ").expect("a String takes everything");
    }
    out.push_str("│\n");
}
