//! No two files import each other, directly or through others. A `mod.rs` is a file like any other and imports the modules
//! that it declares, so a child that imports an item of its parent closes a cycle, too.

use std::collections::{BTreeMap, BTreeSet};

use syn::{Item, ItemMod};

use super::{
    imports::{Target, imports},
    source::{Crate, SourceFile, is_test},
};

type Graph = BTreeMap<String, BTreeSet<String>>;

fn graph(krate: &Crate) -> Graph {
    let edges = krate.files.iter().map(|file| {
        let targets = imported(krate, file).chain(declared(krate, file)).map(|target| target.path.clone());
        (file.path.clone(), targets.filter(|target| *target != file.path).collect())
    });
    edges.collect()
}

fn imported<'a>(krate: &'a Crate, file: &'a SourceFile) -> impl Iterator<Item = &'a SourceFile> {
    imports(krate, file).into_iter().filter_map(|import| match import.target {
        Target::Internal(path) => krate.file_of(&path),
        Target::External(_) => None,
    })
}

fn declared<'a>(krate: &'a Crate, file: &'a SourceFile) -> impl Iterator<Item = &'a SourceFile> {
    file.syntax.items.iter().filter_map(|item| match item {
        Item::Mod(ItemMod { attrs, ident, content: None, .. }) if !is_test(attrs) => {
            krate.file_of(&[&file.module[..], &[ident.to_string()]].concat())
        }
        _ => None,
    })
}

/// A shortest cycle through each file that is in one, each cycle once.
fn cycles(graph: &Graph) -> Vec<String> {
    let mut found = BTreeMap::new();
    for start in graph.keys() {
        if let Some(cycle) = shortest_cycle(graph, start) {
            let files: BTreeSet<_> = cycle.iter().cloned().collect();
            found.entry(files).or_insert_with(|| cycle.join(" -> "));
        }
    }
    found.into_values().collect()
}

/// Breadth first, from the start back to it.
fn shortest_cycle(graph: &Graph, start: &str) -> Option<Vec<String>> {
    let mut seen = BTreeSet::new();
    let mut paths = vec![vec![start.to_owned()]];
    while !paths.is_empty() {
        let mut longer = Vec::new();
        for path in paths {
            for next in graph.get(path.last()?).into_iter().flatten() {
                let path = [&path[..], std::slice::from_ref(next)].concat();
                if next == start {
                    return Some(path);
                }
                if seen.insert(next) {
                    longer.push(path);
                }
            }
        }
        paths = longer;
    }
    None
}

#[test]
fn no_files_import_each_other() {
    for root in ["src", "benches/pipeline"] {
        let found = cycles(&graph(&Crate::read(root)));
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
}

#[test]
fn a_cycle_is_found() {
    let found_in = |files: &[(&str, &str)]| cycles(&graph(&Crate::from_texts(files)));
    let two = [
        ("src/a.rs", "use crate::{x::{Y, Z}, b::B};"),
        ("src/b.rs", "fn f() { super::a::g(); }"),
        ("src/c.rs", "use crate::a::A;"),
    ];
    assert_eq!(found_in(&two), ["src/a.rs -> src/b.rs -> src/a.rs"]);
    let three = [
        ("src/a.rs", "use crate::b;"),
        ("src/b.rs", "use crate::c::*;"),
        ("src/c.rs", "use super::a::A as B;"),
    ];
    assert_eq!(found_in(&three), ["src/a.rs -> src/b.rs -> src/c.rs -> src/a.rs"]);
    let parent = [("src/a/mod.rs", "mod b;\npub use b::B;\npub struct A;"), ("src/a/b.rs", "use super::A;")];
    assert_eq!(found_in(&parent), ["src/a/b.rs -> src/a/mod.rs -> src/a/b.rs"]);
    let siblings = [
        ("src/a/mod.rs", "mod b;\nmod c;\npub use b::B;"),
        ("src/a/b.rs", "use super::c::C;\n#[cfg(test)] mod tests { use super::*; use crate::a::B; }"),
        ("src/a/c.rs", "pub struct C;"),
        ("src/d.rs", "use crate::a::B;"),
    ];
    assert_eq!(found_in(&siblings), [""; 0]);
}
