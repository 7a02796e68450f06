//! No cycles among the top-level modules of a crate: each can be read with what stands below it, and nothing else.

use crate::tokens::shipped;
use crate::{check, packages, root, sources_below};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// A crate's source files by their paths below `src/`.
type Files = BTreeMap<String, String>;

/// What each top-level module uses, with a file that does.
type Uses = BTreeMap<String, BTreeMap<String, String>>;

#[test]
fn modules_of_a_crate_have_no_cycles() {
    let mut complaints = Vec::new();
    for package in packages() {
        let src = root().join(&package).join("src");
        let named = |(path, text): (PathBuf, String)| {
            (path.strip_prefix(&src).expect("a file below it").display().to_string(), text)
        };
        let files: Files = sources_below(&src).into_iter().map(named).collect();
        for root in ["lib.rs", "main.rs"] {
            complaints.extend(cycles(root, &files).into_iter().map(|cycle| format!("{package}: {cycle}")));
        }
    }
    check(&complaints);
}

/// A line for each set of top-level modules that use each other in a circle.
fn cycles(root: &str, files: &Files) -> Vec<String> {
    let uses = uses(root, files);
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        uses.keys().map(|module| (&**module, reach(module, &uses))).collect();
    let mut cycles = BTreeSet::new();
    for (module, others) in &reached {
        let circle: BTreeSet<&str> =
            others.iter().copied().filter(|other| reached[other].contains(module)).collect();
        if circle.is_empty() {
            continue;
        }
        let edges = circle.iter().flat_map(|from| uses[*from].iter().map(move |edge| (from, edge)));
        let edges = edges.filter(|(_, (to, _))| circle.contains(&***to));
        let edges: Vec<String> =
            edges.map(|(from, (to, file))| format!("{from} uses {to} ({file})")).collect();
        cycles.insert(edges.join(", "));
    }
    cycles.into_iter().collect()
}

/// The modules that a module uses, directly or through others.
fn reach<'a>(module: &'a str, uses: &'a Uses) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut open = vec![module];
    while let Some(module) = open.pop() {
        open.extend(uses[module].keys().map(String::as_str).filter(|other| reached.insert(*other)));
    }
    reached
}

/// Reads a crate from its root file on, module by module.
fn uses(root: &str, files: &Files) -> Uses {
    let Some(text) = files.get(root) else { return Uses::new() };
    let tokens = shipped(text);
    let modules = children(&tokens);
    let mut exports = BTreeMap::new();
    for (path, name) in imports(&tokens) {
        let path = if matches!(&*path[0], "crate" | "self") { &path[1..] } else { &path[..] };
        if let Some(module) = path.first().filter(|first| modules.contains(*first)) {
            exports.insert(name, module.clone());
        }
    }
    let mut uses = Uses::new();
    for module in &modules {
        let mut found = BTreeMap::new();
        follow(files, &[&**module], &mut |file, path| {
            let target = if modules.contains(path) { Some(path) } else { exports.get(path).map(|m| &**m) };
            if let Some(target) = target.filter(|target| target != module) {
                found.entry(target.to_owned()).or_insert_with(|| file.to_owned());
            }
        });
        uses.insert(module.clone(), found);
    }
    uses
}

/// Calls `seen` with the file, and the name below the crate's root, of every path in a module and its children.
fn follow(files: &Files, module: &[&str], seen: &mut impl FnMut(&str, &str)) {
    let base = module.join("/");
    let names = [format!("{base}.rs"), format!("{base}/mod.rs")];
    let Some(file) = names.into_iter().find(|name| files.contains_key(name)) else { return };
    let tokens = shipped(&files[&file]);
    let mut paths: Vec<Vec<String>> = imports(&tokens).into_iter().map(|(path, _)| path).collect();
    paths.extend(paths_in_code(&tokens));
    for path in paths {
        if let Some(name) = below_root(&path, module.len()) {
            seen(&file, name);
        }
    }
    for child in children(&tokens) {
        follow(files, &[module, &[&*child]].concat(), seen);
    }
}

/// The first name of a path that begins at the crate's root, for a module so deep below it.
fn below_root(path: &[String], depth: usize) -> Option<&str> {
    let ups = path.iter().take_while(|part| *part == "super").count();
    let at = if path[0] == "crate" {
        1
    } else if ups > 0 && ups == depth {
        ups
    } else {
        return None;
    };
    path.get(at).map(String::as_str)
}

/// The modules that a file declares: `mod name;`.
fn children(tokens: &[String]) -> BTreeSet<String> {
    let declared = tokens.windows(3).filter(|window| window[0] == "mod" && window[2] == ";");
    declared.map(|window| window[1].clone()).collect()
}

/// Every path that is imported, with the name by which it is known here.
fn imports(tokens: &[String]) -> Vec<(Vec<String>, String)> {
    let mut imports = Vec::new();
    let mut rest = tokens;
    while let Some((token, after)) = rest.split_first() {
        rest = after;
        // `impl Trait + use<'a>` imports nothing.
        if token == "use" && rest.first().is_some_and(|token| token != "<") {
            rest = tree(rest, &[], &mut imports);
        }
    }
    imports
}

/// Reads one tree of imports below `prefix`; returns what follows it.
fn tree<'a>(
    mut tokens: &'a [String],
    prefix: &[String],
    imports: &mut Vec<(Vec<String>, String)>,
) -> &'a [String] {
    let mut path = prefix.to_vec();
    let mut alias = None;
    while let Some((token, rest)) = tokens.split_first() {
        match &**token {
            "::" => {}
            "as" => {
                alias = rest.first().cloned();
                tokens = rest.get(1..).unwrap_or_default();
                continue;
            }
            "{" => {
                tokens = rest;
                while tokens.first().is_some_and(|token| token != "}" && token != ";") {
                    tokens = tree(tokens, &path, imports);
                    if tokens.first().is_some_and(|token| token == ",") {
                        tokens = &tokens[1..];
                    }
                }
                return tokens.get(1..).unwrap_or_default();
            }
            "," | ";" | "}" => break,
            name => path.push(name.to_owned()),
        }
        tokens = rest;
    }
    if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
        path.pop();
    }
    if let Some(name) = alias.or_else(|| path.last().cloned()) {
        imports.push((path, name));
    }
    tokens
}

/// Paths from `crate` or `super` that stand in the code itself.
fn paths_in_code(tokens: &[String]) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let continues = at > 0 && tokens[at - 1] == "::";
        if !continues && matches!(&**token, "crate" | "super") {
            let mut path = vec![token.clone()];
            path.extend(tokens[at + 1..].chunks_exact(2).take_while(|c| c[0] == "::").map(|c| c[1].clone()));
            paths.push(path);
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::{Files, cycles};

    fn files(files: &[(&str, &str)]) -> Files {
        files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    fn check(crate_files: &[(&str, &str)], expected: &[&str]) {
        assert_eq!(cycles("lib.rs", &files(crate_files)), expected, "{crate_files:?}");
    }

    #[test]
    fn a_cycle_is_found_however_its_paths_are_written() {
        let found = ["a uses b (a.rs), b uses a (b.rs)"];
        let lib = ("lib.rs", "mod a;\nmod b;\nmod c;\npub use a::{A, x::Deep as Renamed};");
        let down = ("a.rs", "use crate::{c::C, b::{self, B}};");
        for up in [
            "use crate::a::A;",
            "use crate::{c, a};",
            "use super::a::A;",
            "use crate::A;",
            "use crate::Renamed;",
            "fn f() { crate::a::g() }",
            "fn f(x: super::A) {}",
        ] {
            check(&[lib, down, ("b.rs", up), ("c.rs", "")], &found);
        }
        let deep = [lib, down, ("b/mod.rs", "mod d;"), ("b/d.rs", "use super::super::a::A;"), ("c.rs", "")];
        check(&deep, &["a uses b (a.rs), b uses a (b/d.rs)"]);
        let circle = [lib, down, ("b.rs", "use crate::c;"), ("c.rs", "use crate::a;")];
        check(&circle, &["a uses b (a.rs), a uses c (a.rs), b uses c (b.rs), c uses a (c.rs)"]);
    }

    #[test]
    fn what_is_no_cycle_is_not_found() {
        let lib = ("lib.rs", "mod a;\nmod b;\npub use a::A;\n#[cfg(test)]\nmod tests;");
        let down = ("a.rs", "use crate::b::B;\nmod inner { }");
        for up in [
            "",
            "// use crate::a;\nconst TEXT: &str = \"crate::a\";",
            "#[cfg(test)]\nmod tests { use crate::a::A; }",
            "#[cfg(test)]\nuse crate::{a::A, A as C};\nuse std::a::A;",
            "mod a; use a::A; use self::a::C;",
            "use crate::b::B; use super::b;",
        ] {
            check(&[lib, down, ("b.rs", up), ("tests.rs", "use crate::{a, b};")], &[]);
        }
    }
}
