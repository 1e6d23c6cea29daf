//! The layers, held by a test: what each may never name.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A layer, and the words that must not stand in its code.
const NEVER: [(&str, &[&str]); 10] = [
    (
        "domain",
        &[
            "crate::ports",
            "crate::service",
            "crate::adapters",
            "crate::views",
            "crate::entrypoints",
            "crate::config",
            "crate::bootstrap",
            "tokio",
            "sqlx",
            "lapin",
            "axum",
            "lettre",
            "async ",
            "::now(",
            "rand::",
        ],
    ),
    (
        "ports",
        &[
            "crate::service",
            "crate::adapters",
            "crate::views",
            "crate::entrypoints",
            "crate::config",
            "crate::bootstrap",
            "sqlx",
            "lapin",
            "axum",
            "lettre",
        ],
    ),
    (
        "service",
        &[
            "crate::adapters",
            "crate::entrypoints",
            "crate::views",
            "crate::config",
            "crate::bootstrap",
            "sqlx",
            "lapin",
            "axum",
            "lettre",
        ],
    ),
    (
        "adapters",
        &[
            "crate::service",
            "crate::entrypoints",
            "crate::views",
            "crate::config",
            "crate::bootstrap",
            "axum",
        ],
    ),
    ("adapters/postgres", &["lapin", "lettre", "adapters::"]),
    ("adapters/rabbitmq", &["sqlx", "lettre", "adapters::"]),
    ("adapters/mail", &["sqlx", "lapin", "adapters::"]),
    ("adapters/csv", &["sqlx", "lapin", "lettre", "adapters::"]),
    ("adapters/memory", &["sqlx", "lapin", "lettre", "adapters::"]),
    (
        "views",
        &[
            "crate::domain",
            "crate::service",
            "crate::adapters",
            "crate::entrypoints",
            "insert into",
            "update ",
            "delete from",
            "lapin",
            "axum",
            "lettre",
        ],
    ),
];
/// The command line is given its parts by the composition root, and knows no technology.
const ENTRYPOINTS: &[&str] = &["crate::adapters", "sqlx", "lapin", "lettre", "select ", "insert into"];

#[test]
fn no_layer_names_what_it_must_not_know() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let layers = NEVER.iter().chain([&("entrypoints", ENTRYPOINTS)]);
    let violations: Vec<_> = layers
        .flat_map(|(layer, never)| files(&source.join(layer)).into_iter().map(move |file| (file, *never)))
        .flat_map(|(file, never)| violations(&file, never))
        .collect();
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

#[test]
fn a_planted_violation_is_found() {
    let planted = tempfile::NamedTempFile::new().unwrap();
    fs::write(planted.path(), "//! sqlx may be mentioned here\nuse std::fmt;\nuse sqlx::PgPool;\n").unwrap();
    let found = violations(planted.path(), &["sqlx"]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].ends_with(":3 names sqlx"));
}

fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_dir() {
        return fs::read_dir(path).unwrap().flat_map(|entry| files(&entry.unwrap().path())).collect();
    }
    let module = path.with_extension("rs");
    assert!(module.is_file(), "{} is neither a folder nor a file: has the layer moved?", path.display());
    vec![module]
}

/// Code only, without comments and without the tests at the end of a file.
fn violations(file: &Path, never: &[&str]) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = code.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
    lines
        .flat_map(|(number, line)| {
            let named = never.iter().filter(move |word| line.contains(**word));
            named.map(move |word| format!("{}:{} names {word}", file.display(), number + 1))
        })
        .collect()
}
