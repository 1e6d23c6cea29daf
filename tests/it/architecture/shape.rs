//! The sizes of files and functions, and what a `mod.rs` contains.

use std::fs;

use proc_macro2::Span;
use syn::{
    Block, ImplItemFn, Item, ItemFn, ItemMod, Signature, TraitItemFn,
    spanned::Spanned as _,
    visit::{self, Visit},
};

use super::source::{Crate, SourceFile, is_test, project, project_path, rust_files};

const MAX_FILE: usize = 350;
const MAX_FUNCTION: usize = 52;
/// In `src`, without unit tests: half of the functions, nine tenths of them, and half of the files are not longer.
const MEDIAN_FUNCTION: usize = 8;
const P90_FUNCTION: usize = 24;
const MEDIAN_FILE: usize = 120;

struct Function {
    name: String,
    line: usize,
    lines: usize,
}

#[derive(Default)]
struct Functions {
    found: Vec<Function>,
    with_tests: bool,
}

impl Functions {
    fn of(syntax: &syn::File, with_tests: bool) -> Vec<Function> {
        let mut functions = Self { with_tests, ..Self::default() };
        functions.visit_file(syntax);
        functions.found
    }

    /// From the first line of the signature to the closing brace.
    fn add(&mut self, signature: &Signature, block: &Block) {
        let line = start(signature.span());
        let lines = block.brace_token.span.close().end().line - line + 1;
        self.found.push(Function { name: signature.ident.to_string(), line, lines });
    }
}

fn start(span: Span) -> usize {
    span.start().line
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_fn(&mut self, function: &'ast ItemFn) {
        self.add(&function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast ImplItemFn) {
        self.add(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast TraitItemFn) {
        if let Some(block) = &function.default {
            self.add(&function.sig, block);
        }
        visit::visit_trait_item_fn(self, function);
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if self.with_tests || !is_test(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }
}

fn long_functions(path: &str, syntax: &syn::File) -> Vec<String> {
    let long = Functions::of(syntax, true).into_iter().filter(|function| function.lines > MAX_FUNCTION);
    let found = long.map(|Function { name, line, lines }| {
        format!("{path}:{line} {name} has {lines} lines, the limit is {MAX_FUNCTION}")
    });
    found.collect()
}

fn long_file(path: &str, text: &str) -> Option<String> {
    let lines = text.lines().count();
    (lines > MAX_FILE).then(|| format!("{path} has {lines} lines, the limit is {MAX_FILE}"))
}

/// Items of a `mod.rs` that are neither declarations of modules nor re-exports.
fn items(file: &SourceFile) -> Vec<String> {
    let only_declares =
        |item: &&Item| matches!(item, Item::Mod(ItemMod { content: None, .. }) | Item::Use(_));
    let found = file.syntax.items.iter().filter(|item| !only_declares(item));
    found.map(|item| format!("{}:{} only declares and re-exports", file.path, start(item.span()))).collect()
}

/// The value that a part of the values does not exceed.
fn quantile(mut values: Vec<usize>, part: f64) -> usize {
    values.sort_unstable();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "an index"
    )]
    let index = ((values.len() - 1) as f64 * part) as usize;
    values[index]
}

#[test]
fn no_file_and_no_function_is_too_long() {
    let mut found = Vec::new();
    for file in ["src", "tests", "benches"].iter().flat_map(|root| rust_files(&project().join(root))) {
        let (path, text) = (project_path(&file), fs::read_to_string(&file).unwrap());
        found.extend(long_file(&path, &text));
        found.extend(long_functions(&path, &syn::parse_file(&text).unwrap()));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn functions_and_files_are_short_on_the_whole() {
    let krate = Crate::read("src");
    let functions = krate.files.iter().flat_map(|file| Functions::of(&file.syntax, false));
    let functions: Vec<_> = functions.map(|function| function.lines).collect();
    let files: Vec<_> = krate.files.iter().map(|file| file.text.lines().count()).collect();
    let (median, p90) = (quantile(functions.clone(), 0.5), quantile(functions, 0.9));
    assert!(median <= MEDIAN_FUNCTION, "half of the functions have more than {median} lines");
    assert!(p90 <= P90_FUNCTION, "a tenth of the functions have more than {p90} lines");
    let median = quantile(files, 0.5);
    assert!(median <= MEDIAN_FILE, "half of the files have more than {median} lines");
}

#[test]
fn a_mod_rs_only_declares_and_reexports() {
    let krate = Crate::read("src");
    let found: Vec<_> = krate.files.iter().filter(|file| file.is_mod_rs()).flat_map(items).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn what_is_too_long_is_found() {
    let function = |lines: usize| format!("impl X {{\nfn f() {{\n{}}}\n}}", "g();\n".repeat(lines - 2));
    let found = |text: &str| long_functions("x.rs", &syn::parse_file(text).unwrap());
    assert_eq!(found(&function(MAX_FUNCTION)), [""; 0]);
    let limit = "x.rs:2 f has 53 lines, the limit is 52";
    assert_eq!(found(&function(MAX_FUNCTION + 1)), [limit]);
    let nested = format!("#[cfg(test)] mod tests {{ trait T {{\nfn f() {{\n{}}}\n}}}}", "g();\n".repeat(51));
    assert_eq!(found(&nested), [limit]);
    assert_eq!(long_file("x.rs", &"\n".repeat(MAX_FILE)), None);
    assert!(long_file("x.rs", &"\n".repeat(MAX_FILE + 1)).is_some());
    let values: Vec<_> = (1..=100).collect();
    assert_eq!((quantile(values.clone(), 0.5), quantile(values, 0.9)), (50, 90));
}

#[test]
fn an_item_in_a_mod_rs_is_found() {
    let text = "//! Docs.\nmod a;\npub use a::A;\nconst B: u32 = 1;\nmod c { fn d() {} }\nimpl A {}\n";
    let krate = Crate::from_texts(&[("src/x/mod.rs", text)]);
    let lines = [4, 5, 6].map(|line| format!("src/x/mod.rs:{line} only declares and re-exports"));
    assert_eq!(items(&krate.files[0]), lines);
}
