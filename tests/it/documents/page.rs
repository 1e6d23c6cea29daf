//! Markdown pages: lines, fenced blocks, inline code, links, headings.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

/// A page of the documents.
pub(super) struct Page {
    /// Relative to the root of the repository.
    pub(super) path: String,
    pub(super) lines: Vec<Line>,
}

pub(super) struct Line {
    pub(super) number: usize,
    pub(super) text: String,
    /// The info string of the fenced block that the line is in.
    pub(super) block: Option<String>,
    /// The line begins or ends the block.
    fence: bool,
}

/// A fenced block.
#[derive(Debug, Default)]
pub(super) struct Block {
    pub(super) info: String,
    pub(super) first_line: usize,
    pub(super) text: String,
}

pub(super) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All pages.
pub(super) fn pages() -> Vec<Page> {
    let docs = fs::read_dir(root().join("docs")).unwrap();
    let mut names: Vec<_> =
        docs.map(|entry| format!("docs/{}", entry.unwrap().file_name().into_string().unwrap())).collect();
    names.retain(|name| Path::new(name).extension().is_some_and(|extension| extension == "md"));
    names.sort();
    names.extend(["README.md", "examples/README.md", "benches/README.md"].map(ToOwned::to_owned));
    names.iter().map(|name| Page::open(name)).collect()
}

impl Page {
    pub(super) fn open(path: &str) -> Self {
        let text = fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        Self::parse(path, &text)
    }

    pub(super) fn parse(path: &str, text: &str) -> Self {
        let mut open: Option<String> = None;
        let mut lines = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let fence = line.strip_prefix("```");
            let block = open.clone().or_else(|| fence.map(ToOwned::to_owned));
            lines.push(Line {
                number: index + 1,
                text: line.to_owned(),
                block: block.clone(),
                fence: fence.is_some(),
            });
            open = if fence.is_some() && open.is_some() { None } else { block };
        }
        Self { path: path.to_owned(), lines }
    }

    pub(super) fn prose(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(|line| line.block.is_none())
    }

    /// The fenced blocks, in their order.
    pub(super) fn blocks(&self) -> Vec<Block> {
        let mut blocks: Vec<Block> = Vec::new();
        let mut open = false;
        for line in &self.lines {
            match &line.block {
                Some(info) if line.fence && !open => {
                    blocks.push(Block { info: info.clone(), first_line: line.number, text: String::new() });
                    open = true;
                }
                Some(_) if line.fence => open = false,
                Some(_) => {
                    let block = blocks.last_mut().expect("a block has begun");
                    block.text.push_str(&line.text);
                    block.text.push('\n');
                }
                None => {}
            }
        }
        blocks
    }

    /// Inline code, with the number of its line.
    pub(super) fn code_spans(&self) -> impl Iterator<Item = (usize, &str)> {
        self.prose()
            .flat_map(|line| line.text.split('`').skip(1).step_by(2).map(move |span| (line.number, span)))
    }

    /// Targets of links, with the number of their line.
    pub(super) fn links(&self) -> impl Iterator<Item = (usize, &str)> {
        self.prose().flat_map(|line| {
            let targets = line.text.split("](").skip(1);
            targets.filter_map(move |rest| Some((line.number, rest.split_once(')')?.0)))
        })
    }

    /// The anchors of the headings, as GitHub makes them.
    pub(super) fn anchors(&self) -> Vec<String> {
        let mut known: HashMap<String, usize> = HashMap::new();
        let headings = self.prose().filter(|line| line.text.starts_with('#'));
        headings
            .map(|line| {
                let anchor = anchor(line.text.trim_start_matches('#').trim());
                let repeats = known.entry(anchor.clone()).and_modify(|count| *count += 1).or_default();
                if *repeats == 0 { anchor } else { format!("{anchor}-{repeats}") }
            })
            .collect()
    }

    /// A place on the page, for error messages.
    pub(super) fn at(&self, line: usize) -> String {
        format!("{}:{line}", self.path)
    }
}

fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn a_page_has_blocks_spans_links_and_anchors() {
    let text =
        "# One `two`, three\n[x](a.md#b) `c`\n```json d\n`no` [y](z)\n```\n## One two three\n```\ne\n```\n";
    let page = Page::parse("p.md", text);
    assert_eq!(page.anchors(), ["one-two-three", "one-two-three-1"]);
    assert_eq!(page.links().collect::<Vec<_>>(), [(2, "a.md#b")]);
    assert_eq!(page.code_spans().collect::<Vec<_>>(), [(1, "two"), (2, "c")]);
    let blocks = page.blocks();
    let found: Vec<_> = blocks.iter().map(|block| (block.info.as_str(), block.text.as_str())).collect();
    assert_eq!(found, [("json d", "`no` [y](z)\n"), ("", "e\n")]);
}
