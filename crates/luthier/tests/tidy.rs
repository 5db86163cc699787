//! What a reader may rely on without looking: which crate imports which, how long files are, where `unsafe` is.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The drawn edges: a crate, and which others it may import. `random` is a leaf of plain functions.
const EDGES: &[(&str, &[&str])] = &[
    ("random", &[]),
    ("record", &[]),
    ("tensor", &["random"]),
    ("data", &["random"]),
    ("metrics", &["random"]),
    ("nn", &["random", "tensor"]),
    ("models", &["nn", "tensor"]),
    ("tuning", &["nn"]),
    ("objectives", &["data", "metrics", "nn", "random", "tensor"]),
    ("train", &["data", "metrics", "models", "nn", "objectives", "random", "record", "tensor", "tuning"]),
    ("cli", &["data", "record", "train"]),
    ("luthier", &["data", "metrics", "models", "nn", "objectives", "random", "record", "tensor", "train", "tuning"]),
];

const LONGEST_FILE: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every file below a folder with one of these extensions, in order.
fn files(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                // Environments, build output, run directories and what fuzzing found are nobody's text.
                let made = ["target", "node_modules", "__pycache__", "runs", "corpus"].contains(&name.as_str());
                if !name.starts_with('.') && !made {
                    waiting.push(path);
                }
            } else if path.extension().is_some_and(|e| extensions.contains(&e.to_string_lossy().as_ref())) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn crates() -> Vec<String> {
    let entries = fs::read_dir(root().join("crates")).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The lines of a section of a manifest.
fn section<'a>(manifest: &'a str, name: &str) -> Vec<&'a str> {
    let header = format!("[{name}]");
    let lines = manifest.lines().skip_while(|line| line.trim() != header).skip(1);
    lines.take_while(|line| !line.starts_with('[')).collect()
}

/// Law 18. Seen to fail with `luthier-models` among the dependencies of `tuning`.
#[test]
fn only_the_drawn_edges_exist() {
    let edges: BTreeMap<&str, BTreeSet<&str>> =
        EDGES.iter().map(|(from, to)| (*from, to.iter().copied().collect())).collect();
    let names = crates();
    assert_eq!(names, edges.keys().copied().collect::<Vec<_>>(), "a crate that is not drawn, or one that is no more");
    for name in &names {
        let manifest = fs::read_to_string(root().join("crates").join(name).join("Cargo.toml")).unwrap();
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for line in section(&manifest, kind) {
                let Some(rest) = line.strip_prefix("luthier-") else { continue };
                let to: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
                let drawn = edges[name.as_str()].contains(to.as_str());
                assert!(drawn, "crates/{name}/Cargo.toml: luthier-{to} among its {kind} is no edge of the drawing");
            }
        }
    }
}

/// Seen to fail with a file made too long.
#[test]
fn files_are_short() {
    for path in files(&root().join("crates"), &["rs"]) {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= LONGEST_FILE, "{} has {lines} lines, more than {LONGEST_FILE}", path.display());
    }
}

/// A source without its tests and comments: line numbers and code.
fn code(text: &str) -> Vec<(usize, &str)> {
    let mut lines = text.lines().enumerate().peekable();
    let mut kept = Vec::new();
    while let Some((number, line)) = lines.next() {
        if line.trim() == "#[cfg(test)]" {
            // The item ends where its own indentation is reached again.
            let indent = line.len() - line.trim_start().len();
            let first = lines.next().map_or("", |(_, line)| line);
            if first.trim_end().ends_with('{') {
                let closes =
                    |line: &str| line.trim_start().starts_with('}') && line.len() - line.trim_start().len() == indent;
                while lines.next().is_some_and(|(_, line)| !closes(line)) {}
            }
        } else if !line.trim_start().starts_with("//") {
            kept.push((number + 1, line.split(" // ").next().unwrap_or(line)));
        }
    }
    kept
}

/// The sources of libraries and the program, without files that only tests use.
fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut of_tests = BTreeSet::new();
    for name in crates() {
        for path in files(&root().join("crates").join(name).join("src"), &["rs"]) {
            let text = fs::read_to_string(&path).unwrap();
            let mut lines = text.lines();
            while let Some(line) = lines.next() {
                if line.trim() == "#[cfg(test)]"
                    && let Some(module) = lines.next().and_then(|line| line.trim().strip_suffix(';'))
                    && let Some((_, module)) = module.rsplit_once("mod ")
                {
                    of_tests.insert(path.with_file_name(format!("{module}.rs")));
                }
            }
            found.push((path, text));
        }
    }
    found.retain(|(path, _)| !of_tests.contains(path));
    found
}

/// Seen to fail with an `unwrap` in a library.
#[test]
fn libraries_do_not_panic() {
    for (path, text) in sources() {
        for (number, line) in code(&text) {
            for word in [".unwrap()", "panic!(", "todo!(", "unimplemented!(", "dbg!("] {
                assert!(!line.contains(word), "{}:{number}: {word} outside tests", path.display());
            }
        }
    }
}

/// Seen to fail with a `SAFETY:` comment taken away, and with an `unsafe` block among the operations.
#[test]
fn unsafe_is_in_kernels_and_says_why() {
    let kernels = Path::new("tensor/src/kernels");
    let mut blocks = 0;
    for (path, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in code(&text) {
            let mut words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            if !words.any(|word| word == "unsafe") {
                continue;
            }
            let place = format!("{}:{number}", path.display());
            assert!(
                path.to_string_lossy().contains(&*kernels.to_string_lossy()),
                "{place}: unsafe outside the kernels"
            );
            // The comment stands right above, above the statement that it explains.
            let above =
                lines[..number - 1].iter().rev().skip_while(|line| !line.trim_start().starts_with("//")).take(12);
            let near = lines[number.saturating_sub(6)..number].iter().any(|line| line.trim_start().starts_with("//"));
            let comment: Vec<&&str> = above.take_while(|line| line.trim_start().starts_with("//")).collect();
            // What a function asks of its callers stands in its documentation; a block says why it is sound.
            let wanted = if line.contains("unsafe fn") { "# Safety" } else { "SAFETY:" };
            let explained = near && comment.iter().any(|line| line.contains(wanted));
            assert!(explained, "{place}: unsafe without a {wanted} comment");
            blocks += 1;
        }
    }
    assert!(blocks > 0, "no unsafe was found at all, which cannot be");
}

/// Paths of a machine that somebody worked on mean nothing to a reader. Seen to fail with one in a scratch file.
#[test]
fn no_path_of_one_machine() {
    let words = ["/wo", "/ro"].map(|start| format!("{start}{}", if start == "/wo" { "rk/" } else { "ot/" }));
    let extensions = ["rs", "toml", "md", "py", "sh", "json", "jsonl", "yml", "yaml", "txt"];
    for path in files(&root(), &extensions) {
        // Data sets are other people's text.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for (number, line) in text.lines().enumerate() {
            for word in &words {
                assert!(!line.contains(word.as_str()), "{}:{}: {word}", path.display(), number + 1);
            }
        }
    }
}

/// A file of a method or stabiliser begins with where it comes from, what it computes, what trains, and its defaults.
/// Seen to fail with one of the four lines taken away.
#[test]
fn techniques_say_what_they_are() {
    for folder in ["methods", "stabilisers"] {
        for path in files(&root().join("crates/tuning/src").join(folder), &["rs"]) {
            if path.ends_with("mod.rs") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let header: Vec<&str> = text.lines().take_while(|line| line.starts_with("//!")).collect();
            for part in ["Paper:", "Equation:", "Trains:", "Defaults:"] {
                let there = header.iter().any(|line| line.trim_start_matches("//! ").starts_with(part));
                assert!(there, "{}: its header lacks a line that begins with {part}", path.display());
            }
        }
    }
}
