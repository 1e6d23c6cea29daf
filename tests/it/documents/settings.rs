//! The table of settings is generated from `config/default.toml`.

use std::fmt::Write as _;

use super::part::{expect_part, marked, marks};

const PAGE: &str = "docs/operations.md";

#[test]
fn the_table_of_settings_is_generated_from_the_defaults() {
    let [begin, end] = marks("settings");
    let table = table(include_str!("../../../config/default.toml"));
    expect_part(PAGE, &marked(PAGE, "settings"), &format!("{begin}{table}{end}"));
}

/// One row per key: the comment above it describes it.
fn table(toml: &str) -> String {
    let mut table = "\n| setting | default | description |\n|---|---|---|\n".to_owned();
    let (mut section, mut comment) = (String::new(), Vec::new());
    for line in toml.lines() {
        if let Some(text) = line.strip_prefix('#') {
            comment.push(text.trim());
        } else if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = format!("{name}.");
        } else if let Some((key, value)) = line.split_once(" = ") {
            assert!(!comment.is_empty(), "{section}{key} has no comment");
            let description = comment.join(" ").replace('|', "\\|");
            let _ = writeln!(table, "| `{section}{key}` | `{value}` | {description} |");
        }
        if !line.starts_with('#') {
            comment.clear();
        }
    }
    table.push('\n');
    table
}

#[test]
fn a_row_has_key_default_and_the_whole_comment() {
    let table = table("# Head.\n\n# A\n# b.\nx = 1\n[s]\n# C.\ny = \"2\"\n");
    let rows: Vec<_> = table.lines().skip(3).filter(|line| !line.is_empty()).collect();
    assert_eq!(rows, ["| `x` | `1` | A b. |", "| `s.y` | `\"2\"` | C. |"]);
}
