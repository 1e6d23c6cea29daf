//! Completions and manual pages.

use std::process::{Command, Stdio};

use tempfile::TempDir;

fn allocation(arguments: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_allocation")).args(arguments).output().unwrap()
}

/// Bash itself completes: what it would offer after `allocation dead-letters re`.
#[test]
fn bash_completes_subcommands() {
    let script = allocation(&["completions", "bash"]);
    assert!(script.status.success());
    let ask = "source /dev/stdin; COMP_WORDS=(allocation dead-letters re); COMP_CWORD=2;
               _allocation allocation re dead-letters; echo \"${COMPREPLY[@]}\"";
    let mut bash =
        Command::new("bash").args(["-c", ask]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut bash.stdin.take().unwrap(), &script.stdout).unwrap();
    let offered = bash.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(offered.stdout).unwrap().trim(), "retry restore");
}

#[test]
fn every_subcommand_has_a_manual_page() {
    let folder = TempDir::with_prefix("it-man-").unwrap();
    let path = folder.path().to_str().unwrap();
    assert!(allocation(&["man", path]).status.success());
    let page = std::fs::read_to_string(folder.path().join("allocation-dead-letters-retry.1")).unwrap();
    assert!(page.contains("allocation dead\\-letters retry"), "{page}");
    for name in ["allocation.1", "allocation-outbox-list.1"] {
        assert!(folder.path().join(name).exists(), "{name}");
    }
    let missing = allocation(&["man", "/no/such/folder"]);
    assert!(!missing.status.success());
    assert!(String::from_utf8(missing.stderr).unwrap().contains("cannot write the pages to /no/such/folder"));
}
