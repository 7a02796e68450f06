//! Names that stand for one of the field's words use that word ([docs/glossary.md](../../docs/glossary.md)).

use crate::{check, shown, sources};

/// Names of types and files that hid a standard term once, and the term.
const HIDDEN: &[(&str, &str)] = &[
    ("Front", "PendingRequests, or the protocol's name"),
    ("Going", "PendingRevokes"),
    ("Ground", "DataDir"),
    ("Known", "EtcdError"),
    ("Kept", "the term for what is kept: a view, an entry"),
    ("Standing", "MemberStatus"),
    ("Taken", "Changes"),
    ("Tap", "ChangeFeed"),
    ("Tell", "Dispatch"),
    ("Written", "GroupChanges"),
];

#[test]
fn no_type_and_no_file_hides_a_term_of_the_field() {
    let mut complaints = Vec::new();
    for (path, text) in sources() {
        let stem = path.file_stem().expect("a source file has a name").to_string_lossy().into_owned();
        for (name, term) in HIDDEN {
            if stem == name.to_lowercase() {
                complaints.push(format!("{}: the file's name hides {term}", shown(&path)));
            }
            complaints.extend(
                definitions(&text, name).map(|line| format!("{}:{line}: {name} hides {term}", shown(&path))),
            );
        }
    }
    check(&complaints);
}

/// The numbers of the lines that define a type of this name.
fn definitions<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = usize> + 'a {
    let defines = move |line: &str| {
        let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
        words.any(|word| matches!(word, "struct" | "enum" | "trait" | "type")) && words.next() == Some(name)
    };
    text.lines().zip(1..).filter(move |(line, _)| defines(line)).map(|(_, number)| number)
}

#[test]
fn a_definition_is_found() {
    let text = "struct Tapped;\npub(crate) struct Tap<'a>(&'a str);\nlet x = Tap(1);\nenum Tap {}\n";
    assert_eq!(definitions(text, "Tap").collect::<Vec<_>>(), [2, 4]);
}
