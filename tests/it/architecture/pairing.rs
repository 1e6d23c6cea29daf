//! Lists of questions and answers are paired in one place, where a missing answer is an error.

use syn::{
    ExprMethodCall, ItemMod,
    visit::{self, Visit},
};

use super::source::{Crate, SourceFile, is_test};

/// `Answered`, and the pairing of the columns of a CSV file with their names.
const MAY_ZIP: [&str; 2] = ["src/ports/answered.rs", "src/adapters/csv.rs"];

#[derive(Default)]
struct Zips(Vec<usize>);

impl<'ast> Visit<'ast> for Zips {
    fn visit_expr_method_call(&mut self, call: &'ast ExprMethodCall) {
        if call.method == "zip" {
            self.0.push(call.method.span().start().line);
        }
        visit::visit_expr_method_call(self, call);
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if !is_test(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }
}

fn zips(file: &SourceFile) -> Vec<String> {
    let mut zips = Zips::default();
    zips.visit_file(&file.syntax);
    let found = zips.0.into_iter();
    found.map(|line| format!("{}:{line} pairs two lists by position; use Answered", file.path)).collect()
}

#[test]
fn only_answered_pairs_lists_by_position() {
    let krate = Crate::read("src");
    let files = krate.files.iter().filter(|file| !MAY_ZIP.contains(&file.path.as_str()));
    let found: Vec<_> = files.flat_map(zips).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_zip_is_found() {
    let text =
        "fn f() {\n    for (a, b) in x.iter().zip(y) {}\n}\n#[cfg(test)]\nmod tests { fn g() { x.zip(y); } }";
    let krate = Crate::from_texts(&[("src/service/x.rs", text)]);
    assert_eq!(zips(&krate.files[0]), ["src/service/x.rs:2 pairs two lists by position; use Answered"]);
}
