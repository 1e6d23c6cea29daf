//! Every path that a file names, from the root of its crate: in `use` trees, in code and in the arguments of macros.

use proc_macro2::{TokenStream, TokenTree};
use syn::{
    Attribute, ItemMod, ItemUse, Macro, UseTree, Visibility,
    visit::{self, Visit},
};

use super::source::{Crate, SourceFile, is_test};

/// A path that a file names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Import {
    pub(super) target: Target,
    pub(super) line: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A path from the root of the same crate.
    Internal(Vec<String>),
    /// A path that begins with another crate, or with a name of the file itself.
    External(Vec<String>),
}

pub(super) fn imports(krate: &Crate, file: &SourceFile) -> Vec<Import> {
    let mut finder = Finder { krate, module: file.module.clone(), imports: Vec::new() };
    finder.visit_file(&file.syntax);
    finder.imports
}

struct Finder<'a> {
    krate: &'a Crate,
    /// The module that the visitor is in; it may be inline.
    module: Vec<String>,
    imports: Vec<Import>,
}

impl Finder<'_> {
    fn add(&mut self, path: &[String], line: usize) {
        if let Some(target) = self.resolve(path) {
            self.imports.push(Import { target, line });
        }
    }

    fn resolve(&self, path: &[String]) -> Option<Target> {
        let (first, rest) = path.split_first()?;
        let from_root = match first.as_str() {
            "crate" => rest.to_vec(),
            name if self.krate.is_library_name(name) => rest.to_vec(),
            "self" => [&self.module, rest].concat(),
            "super" => {
                let ups = path.iter().take_while(|segment| *segment == "super").count();
                let parent = &self.module[..self.module.len().checked_sub(ups)?];
                [parent, &path[ups..]].concat()
            }
            _ if self.krate.is_module(&[&self.module, &path[..1]].concat()) => [&self.module, path].concat(),
            _ => return Some(Target::External(path.to_vec())),
        };
        Some(Target::Internal(from_root))
    }

    fn add_tree(&mut self, tree: &UseTree, path: &mut Vec<String>) {
        match tree {
            UseTree::Path(tree) => {
                path.push(tree.ident.to_string());
                self.add_tree(&tree.tree, path);
                path.pop();
            }
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.add_tree(tree, path)),
            UseTree::Name(name) => self.add_leaf(&name.ident, path),
            UseTree::Rename(rename) => self.add_leaf(&rename.ident, path),
            UseTree::Glob(glob) => {
                let line = glob.star_token.spans[0].start().line;
                self.add(path, line);
            }
        }
    }

    fn add_leaf(&mut self, name: &syn::Ident, path: &[String]) {
        let line = name.span().start().line;
        if name == "self" && !path.is_empty() {
            self.add(path, line);
        } else {
            self.add(&[path, &[name.to_string()]].concat(), line);
        }
    }

    /// Paths of two segments or more among the tokens of a macro.
    fn add_tokens(&mut self, tokens: &TokenStream) {
        let tokens: Vec<_> = tokens.clone().into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            if let TokenTree::Group(group) = &tokens[at] {
                self.add_tokens(&group.stream());
            }
            let path = path_at(&tokens[at..]);
            if path.len() > 1 {
                self.add(&path, tokens[at].span().start().line);
            }
            at += (path.len() * 3).saturating_sub(2).max(1);
        }
    }
}

/// The path at the beginning of tokens: a name takes one token, each `::` two.
fn path_at(tokens: &[TokenTree]) -> Vec<String> {
    let mut path = Vec::new();
    let mut rest = tokens;
    while let Some((TokenTree::Ident(name), after)) = rest.split_first() {
        path.push(name.to_string());
        match after {
            [TokenTree::Punct(one), TokenTree::Punct(two), rest_of @ ..]
                if one.as_char() == ':' && two.as_char() == ':' =>
            {
                rest = rest_of;
            }
            _ => break,
        }
    }
    path
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.add_tree(&item.tree, &mut Vec::new());
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if is_test(&item.attrs) {
            return;
        }
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if segments.len() > 1 {
            self.add(&segments, path.segments[0].ident.span().start().line);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast Macro) {
        self.add_tokens(&item.tokens);
        visit::visit_macro(self, item);
    }

    fn visit_attribute(&mut self, _: &'ast Attribute) {}

    fn visit_visibility(&mut self, _: &'ast Visibility) {}
}

/// String literals with their lines, those in macros included.
pub(super) fn literals(file: &SourceFile) -> Vec<(usize, String)> {
    #[derive(Default)]
    struct Literals(Vec<(usize, String)>);
    impl Literals {
        fn add_tokens(&mut self, tokens: TokenStream) {
            for token in tokens {
                match token {
                    TokenTree::Group(group) => self.add_tokens(group.stream()),
                    TokenTree::Literal(literal) => {
                        self.0.push((literal.span().start().line, literal.to_string()));
                    }
                    _ => {}
                }
            }
        }
    }
    impl<'ast> Visit<'ast> for Literals {
        fn visit_lit_str(&mut self, literal: &'ast syn::LitStr) {
            self.0.push((literal.span().start().line, literal.value()));
        }
        fn visit_item_mod(&mut self, item: &'ast ItemMod) {
            if !is_test(&item.attrs) {
                visit::visit_item_mod(self, item);
            }
        }
        fn visit_macro(&mut self, item: &'ast Macro) {
            self.add_tokens(item.tokens.clone());
        }
        fn visit_attribute(&mut self, _: &'ast Attribute) {}
    }
    let mut literals = Literals::default();
    literals.visit_file(&file.syntax);
    literals.0
}

#[test]
fn every_form_of_a_path_is_expanded_from_the_root() {
    let text = r#"
use crate::{adapters::{memory::{self, MemoryStore as Store}, csv::*},
            ports::queue::Message};
use super::super::views::Views;
use self::inner::Item;
use child::Thing;
use std::fmt;
pub(in crate::service) fn f() -> crate::config::Settings {
    super::helper();
    info!("{}", nested(&[crate::bootstrap::App::new()]));
    sqlx::query!("select 1")
}
#[cfg(test)]
mod tests { use crate::cli::Cli; }
"#;
    let krate = Crate::from_texts(&[("src/service/relay/mod.rs", text), ("src/service/relay/child.rs", "")]);
    let found: Vec<_> = imports(&krate, &krate.files[1]).into_iter().map(|import| import.target).collect();
    let internal = |path: &str| Target::Internal(path.split("::").map(ToOwned::to_owned).collect());
    let external = |path: &str| Target::External(path.split("::").map(ToOwned::to_owned).collect());
    let expected = [
        internal("adapters::memory"),
        internal("adapters::memory::MemoryStore"),
        internal("adapters::csv"),
        internal("ports::queue::Message"),
        internal("views::Views"),
        internal("service::relay::inner::Item"),
        internal("service::relay::child::Thing"),
        external("std::fmt"),
        internal("config::Settings"),
        internal("service::helper"),
        internal("bootstrap::App::new"),
        external("sqlx::query"),
    ];
    assert_eq!(found, expected);
}
