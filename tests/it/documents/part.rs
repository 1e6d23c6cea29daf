//! Parts of a page that are compared with what the program produces, or written.

use std::fs;

use super::page::root;

/// Fails unless a part of a page is as expected, or writes it if `UPDATE_DOCUMENTS` is set.
#[track_caller]
pub(super) fn expect_part(page: &str, found: &str, expected: &str) {
    if found == expected {
        return;
    }
    assert!(
        std::env::var_os("UPDATE_DOCUMENTS").is_some(),
        "{page} is outdated. Expected:\n\n{expected}\nFound:\n\n{found}\n\
         To write it: UPDATE_DOCUMENTS=1 cargo test --test it documents",
    );
    let path = root().join(page);
    let lock = fs::File::open(&path).unwrap();
    lock.lock().unwrap(); // Other tests may be writing other parts of the page.
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.matches(found).count(), 1, "the outdated part is not unique in {page}");
    fs::write(path, text.replace(found, expected)).unwrap();
}

/// A part of a page between two marks, which belong to it.
pub(super) fn marked(page: &str, mark: &str) -> String {
    let text = fs::read_to_string(root().join(page)).unwrap();
    let [begin, end] = marks(mark);
    let from = text.find(&begin).unwrap_or_else(|| panic!("{page} has no {begin}"));
    let to = text.find(&end).unwrap_or_else(|| panic!("{page} has no {end}"));
    text[from..to + end.len()].to_owned()
}

pub(super) fn marks(mark: &str) -> [String; 2] {
    ["begin", "end"].map(|end| format!("<!-- {mark}: {end} -->\n"))
}
