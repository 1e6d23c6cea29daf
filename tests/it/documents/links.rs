//! Links, anchors, paths and tasks that the documents name exist.

use std::{fs, path::Path};

use super::page::{Page, pages, root};

#[test]
fn links_and_anchors_resolve() {
    let mut broken = Vec::new();
    for page in pages() {
        for (line, target) in page.links().filter(|(_, target)| !target.contains("://")) {
            if !resolves(&page, target) {
                broken.push(format!("{} links to {target}", page.at(line)));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

fn resolves(page: &Page, target: &str) -> bool {
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let folder = Path::new(&page.path).parent().unwrap();
    let file = if file.is_empty() { root().join(&page.path) } else { root().join(folder).join(file) };
    if anchor.is_empty() {
        return file.exists();
    }
    let Ok(text) = fs::read_to_string(&file) else { return false };
    Page::parse(target, &text).anchors().iter().any(|known| known == anchor)
}

/// In prose and in blocks.
#[test]
fn paths_exist() {
    let mut missing = Vec::new();
    for page in pages() {
        for line in &page.lines {
            let paths = line.text.split(|c: char| !(c.is_ascii_alphanumeric() || "/._-".contains(c)));
            let paths = paths.filter(|word| is_path(word)).map(|word| word.trim_end_matches('.'));
            missing.extend(
                paths
                    .filter(|path| !root().join(path).exists())
                    .map(|path| format!("{}: {path}", page.at(line.number))),
            );
        }
    }
    assert!(missing.is_empty(), "paths that do not exist:\n{}", missing.join("\n"));
}

fn is_path(word: &str) -> bool {
    let folders = ["src/", "tests/", "config/", "migrations/", "examples/", "ops/", ".ci/"];
    folders.iter().any(|folder| word.starts_with(folder))
}

#[test]
fn tasks_are_in_the_makefile() {
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    let mut seen = 0;
    for page in pages() {
        for line in &page.lines {
            for rest in line.text.split("make ").skip(1) {
                let task: String = rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
                let quoted = line.text.contains(&format!("`make {task}"));
                if quoted || line.text.starts_with("make ") {
                    let target = format!("\n{task}:");
                    assert!(makefile.contains(&target), "{}: make {task}", page.at(line.number));
                    seen += 1;
                }
            }
        }
    }
    assert!(seen > 10, "only {seen} tasks were found");
}
