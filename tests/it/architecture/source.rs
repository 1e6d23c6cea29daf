//! Source files and the modules that they are.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use syn::{Attribute, Item, ItemMod};

/// The crate's own name in `src/main.rs`, which is a crate of its own.
const LIBRARY: &str = "allocation";

pub(super) struct SourceFile {
    /// From the project's directory, such as `src/service/mod.rs`.
    pub(super) path: String,
    /// The module, such as `["service"]`; empty for the root of the crate.
    pub(super) module: Vec<String>,
    pub(super) text: String,
    pub(super) syntax: syn::File,
}

impl SourceFile {
    fn new(root: &str, path: String, text: String) -> Self {
        let syntax = syn::parse_file(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
        let inside = path.strip_prefix(root).unwrap().trim_start_matches('/').trim_end_matches(".rs");
        let mut module: Vec<_> = inside.split('/').map(ToOwned::to_owned).collect();
        match module.last().map(String::as_str) {
            Some("mod") => drop(module.pop()),
            Some("lib") => module.clear(),
            _ => {}
        }
        Self { path, module, text, syntax }
    }

    pub(super) fn is_mod_rs(&self) -> bool {
        self.path.ends_with("/mod.rs")
    }
}

/// The files of a crate, without its unit tests.
pub(super) struct Crate {
    pub(super) files: Vec<SourceFile>,
    modules: HashMap<Vec<String>, usize>,
}

impl Crate {
    /// Reads the crate in a folder of the project.
    pub(super) fn read(root: &str) -> Self {
        let files = rust_files(&project().join(root)).into_iter().map(|file| {
            let text = fs::read_to_string(&file).unwrap();
            (project_path(&file), text)
        });
        Self::new(root, files.collect())
    }

    /// A crate of files with these texts, for the tests of the checks.
    pub(super) fn from_texts(files: &[(&str, &str)]) -> Self {
        Self::new("src", files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect())
    }

    fn new(root: &str, files: Vec<(String, String)>) -> Self {
        let mut files: Vec<_> =
            files.into_iter().map(|(path, text)| SourceFile::new(root, path, text)).collect();
        if !files.iter().any(|file| file.module.is_empty()) {
            for file in files.iter_mut().filter(|file| file.module == ["main"]) {
                file.module.clear();
            }
        }
        let tests: Vec<_> = files.iter().flat_map(test_modules).collect();
        files.retain(|file| !tests.iter().any(|test| file.module.starts_with(test)));
        files.sort_by(|one, other| one.path.cmp(&other.path));
        let modules = files.iter().enumerate().map(|(index, file)| (file.module.clone(), index)).collect();
        Self { files, modules }
    }

    pub(super) fn is_module(&self, module: &[String]) -> bool {
        self.modules.contains_key(module)
    }

    /// The file of the module that a path from the crate's root is in.
    pub(super) fn file_of(&self, path: &[String]) -> Option<&SourceFile> {
        let mut prefixes = (0..=path.len()).rev().map(|length| &path[..length]);
        prefixes.find_map(|prefix| self.modules.get(prefix)).map(|index| &self.files[*index])
    }

    /// Whether a path of `file` that begins with this name is one of the library.
    pub(super) fn is_library_name(&self, name: &str) -> bool {
        name == LIBRARY && self.files.iter().any(|file| file.path.ends_with("src/lib.rs"))
    }
}

/// The modules of a file that are declared with `#[cfg(test)]` and are files themselves.
fn test_modules(file: &SourceFile) -> Vec<Vec<String>> {
    let declared = file.syntax.items.iter().filter_map(|item| match item {
        Item::Mod(ItemMod { attrs, ident, content: None, .. }) if is_test(attrs) => Some(ident.to_string()),
        _ => None,
    });
    declared.map(|name| file.module.iter().cloned().chain([name]).collect()).collect()
}

/// Whether an item exists in tests only.
pub(super) fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
        syn::Meta::Path(path) => path.is_ident("test"),
        syn::Meta::NameValue(_) => false,
    })
}

pub(super) fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file's path from the project's directory.
pub(super) fn project_path(file: &Path) -> String {
    file.strip_prefix(project()).unwrap().to_str().unwrap().to_owned()
}

pub(super) fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = all_files(folder);
    files.retain(|file| file.extension().is_some_and(|extension| extension == "rs"));
    assert!(!files.is_empty(), "{} has no Rust files", folder.display());
    files
}

pub(super) fn all_files(path: &Path) -> Vec<PathBuf> {
    if path.is_dir() {
        fs::read_dir(path).unwrap().flat_map(|entry| all_files(&entry.unwrap().path())).collect()
    } else {
        vec![path.to_owned()]
    }
}
