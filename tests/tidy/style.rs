//! How a file looks: its opening, its length, its doc comments, and nothing unfinished in it.

use crate::{check, shown, sources};

/// Lines a file may have; most should stay under 500.
const FILE_LINES_MAX: usize = 800;
/// Columns a line may have, rustfmt's `max_width`; strings and tables are what rustfmt cannot break.
const LINE_COLUMNS_MAX: usize = 160;
/// What nothing may be committed with.
const UNFINISHED: &[&str] = &["todo!(", "unimplemented!(", "dbg!(", "FIXME", "XXX"];
/// A doc comment with fewer words says the name again.
const DOC_WORDS_MIN: usize = 4;
#[test]
fn every_file_opens_with_what_it_is_and_is_not_too_long() {
    let mut complaints = Vec::new();
    for (path, text) in sources() {
        if !text.starts_with("//!") {
            complaints.push(format!("{}: does not open with a //! chapter", shown(&path)));
        }
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            complaints.push(format!("{}: {lines} lines, the limit is {FILE_LINES_MAX}", shown(&path)));
        }
        for (number, line) in text.lines().enumerate() {
            if line.chars().count() > LINE_COLUMNS_MAX && !shown(&path).ends_with("flags.rs") {
                complaints.push(format!(
                    "{}:{}: longer than {LINE_COLUMNS_MAX} columns",
                    shown(&path),
                    number + 1
                ));
            }
        }
    }
    check(&complaints);
}

#[test]
fn nothing_unfinished_is_committed() {
    let mut complaints = Vec::new();
    for (path, text) in sources() {
        if path.ends_with("tests/tidy/style.rs") {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            for word in UNFINISHED.iter().filter(|word| line.contains(**word)) {
                complaints.push(format!("{}:{}: {word}", shown(&path), number + 1));
            }
        }
    }
    check(&complaints);
}

#[test]
fn doc_comments_say_more_than_the_name() {
    let mut complaints = Vec::new();
    for (path, text) in sources() {
        let name = shown(&path);
        let short = short_docs(&text).into_iter();
        complaints.extend(short.map(|(line, doc)| format!("{name}:{line}: says too little: {doc}")));
    }
    check(&complaints);
}

/// The doc comments with too few words: the number of their first line, and what they say. Lines that follow each other
/// are one comment.
fn short_docs(text: &str) -> Vec<(usize, String)> {
    let mut docs: Vec<(usize, &str, String)> = Vec::new();
    let mut last = "";
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start();
        let mark = ["///", "//!"].into_iter().find(|mark| line.starts_with(mark)).unwrap_or_default();
        match docs.last_mut() {
            _ if mark.is_empty() || line.starts_with("////") => {}
            Some((_, _, doc)) if mark == last => *doc += &line[mark.len()..],
            _ => docs.push((number + 1, mark, line[mark.len()..].to_owned())),
        }
        last = mark;
    }
    let short = docs.into_iter().filter(|(_, _, doc)| doc.split_whitespace().count() < DOC_WORDS_MIN);
    short.map(|(number, _, doc)| (number, doc.trim().to_owned())).collect()
}

#[test]
fn a_doc_comment_is_counted_over_all_its_lines() {
    let text = "//! Three words only.\n\n/// One.\nfn a() {}\n/// One, two,\n/// three, four.\nfn b() {}\n";
    let short = [(1, "Three words only.".to_owned()), (3, "One.".to_owned())];
    assert_eq!(short_docs(text), short);
    assert!(short_docs("// No doc.\n//// Nor this.\n").is_empty());
}
