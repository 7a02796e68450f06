//! Scripts of command lines: one a line, without the program.
//!
//! ```text
//!   put k "a\x00b" <<< "standard input"      words as they are, in "quotes with escapes" or in 'quotes without'
//!   ETCDCTL_HEX=true get k                   variables stand first
//!   * get k                                  once in every output format, with and without --hex
//!   ~ get k                                  stderr may have one line more than etcdctl's
//!   ! get k                                  stderr is ours: one clear line
//!   % endpoint health                        durations differ
//!   # lease list                             IDs of leases, and seconds that are left, differ
//!   id = lease grant 60                      the second word of the answer is $id from here on
//! ```
//!
//! Marks may stand together (`*%`), and comments begin with `##`. `$EP` is the server's `host:port`, `$DIR` a folder; where
//! no `--endpoints` stands, `--endpoints=$EP` is put first.

/// A command line, and the marks before it.
#[derive(Debug, Clone, Default)]
#[allow(clippy::struct_excessive_bools, reason = "marks of a line, each by itself")]
pub(crate) struct Step {
    pub(crate) args: Vec<Vec<u8>>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) stdin: Vec<u8>,
    /// Whether it has the mark `~`.
    pub(crate) says_more: bool,
    /// Whether it has the mark `!`.
    pub(crate) own_words: bool,
    /// Whether it has the mark `%`.
    pub(crate) durations: bool,
    /// Whether it has the mark `#`.
    pub(crate) leases: bool,
    /// The variable before `=`, if any.
    pub(crate) capture: Option<String>,
}

/// `--write-out` and `--hex`, in every way that differs.
const FORMATS: &[&[&str]] = &[
    &["-w", "simple"],
    &["-w", "simple", "--hex"],
    &["-w", "fields"],
    &["-w", "fields", "--hex"],
    &["-w", "json"],
    &["-w", "json", "--hex"],
    &["-w", "table"],
    &["-w", "protobuf"],
];

/// Parses a script into its steps.
pub(crate) fn read(script: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("##")) {
        let (marks, line) = match line.split_once(' ') {
            Some((marks, rest)) if marks.chars().all(|c| "*~!%#".contains(c)) => (marks, rest),
            _ => ("", line),
        };
        let mut step = one(line);
        step.says_more = marks.contains('~');
        step.own_words = marks.contains('!');
        step.durations = marks.contains('%');
        step.leases = marks.contains('#');
        if !marks.contains('*') {
            steps.push(step);
            continue;
        }
        // In protobuf's bytes, an ID cannot be told from anything else.
        for format in FORMATS.iter().filter(|format| !(step.leases && format.contains(&"protobuf"))) {
            let mut variant = step.clone();
            let flags = format.iter().map(|word| word.as_bytes().to_vec());
            variant.args.splice(0..0, flags);
            steps.push(variant);
        }
    }
    steps
}

fn one(line: &str) -> Step {
    let mut step = Step::default();
    let mut words = split(line);
    if words.get(1).is_some_and(|word| word == b"=") {
        step.capture = Some(String::from_utf8(words.remove(0)).expect("a name"));
        words.remove(0);
    }
    if let Some(at) = words.iter().position(|word| word == b"<<<") {
        step.stdin = words.get(at + 1).expect("<<< is followed by the input").clone();
        words.truncate(at);
    }
    while let Some((name, value)) = words.first().and_then(|word| variable(word)) {
        step.env.push((name, value));
        words.remove(0);
    }
    let is_told = words.iter().any(|word| word.starts_with(b"--endpoints"))
        || step.env.iter().any(|(name, _)| name == "ETCDCTL_ENDPOINTS");
    if !is_told {
        words.insert(0, b"--endpoints=$EP".to_vec());
    }
    step.args = words;
    step
}

fn variable(word: &[u8]) -> Option<(String, String)> {
    let word = std::str::from_utf8(word).ok().filter(|word| word.starts_with("ETCDCTL_"))?;
    word.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
}

/// Words of a line, as bytes.
fn split(line: &str) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut chars = line.chars().peekable();
    while let Some(first) = chars.next() {
        if first == ' ' {
            continue;
        }
        let mut word = Vec::new();
        let mut quote = None;
        let mut next = Some(first);
        while let Some(c) = next {
            match (quote, c) {
                (None, ' ') => break,
                (None, '"' | '\'') => quote = Some(c),
                (Some(open), c) if c == open => quote = None,
                (Some('"'), '\\') => match chars.next().expect("something is escaped") {
                    'n' => word.push(b'\n'),
                    't' => word.push(b'\t'),
                    'x' => {
                        let digits: String = chars.by_ref().take(2).collect();
                        word.push(u8::from_str_radix(&digits, 16).expect("two hexadecimal digits"));
                    }
                    other => word.extend(other.to_string().bytes()),
                },
                (_, c) => word.extend(c.to_string().bytes()),
            }
            next = chars.next();
        }
        words.push(word);
    }
    words
}

#[test]
fn a_line_is_read_as_it_is_meant() {
    let steps = read(
        "## nothing\n%~ A=b ETCDCTL_X=y put \"a\\x00\\\"\" 'b c'd \"\" <<< \"in\\n\"\n* get $EP --endpoints a",
    );
    assert_eq!(steps.len(), 1 + FORMATS.len());
    let step = &steps[0];
    assert!(step.durations && step.says_more && !step.own_words);
    assert_eq!(
        step.args[1..],
        [&b"A=b"[..], b"ETCDCTL_X=y", b"put", b"a\0\"", b"b cd", b""].map(<[u8]>::to_vec)
    );
    assert_eq!(step.stdin, b"in\n");
    assert_eq!(
        steps[1].args,
        [&b"-w"[..], b"simple", b"get", b"$EP", b"--endpoints", b"a"].map(<[u8]>::to_vec)
    );
    let step = &read("ETCDCTL_X=y get k")[0];
    assert_eq!(step.env, [("ETCDCTL_X".to_owned(), "y".to_owned())]);
    assert_eq!(read("id = lease grant 60")[0].capture.as_deref(), Some("id"));
}
