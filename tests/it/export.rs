//! The export of many and of large dead letters.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use tokio::io::AsyncReadExt as _;

use crate::harness::TestSystem;

/// By a program that was built without optimisation, on a machine that does other things as well.
const DONE_WITHIN: Duration = Duration::from_mins(1);
/// The memory of a process that exports; the bodies are many times as large.
const MEMORY_KIB: u64 = 64 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_dead_letters_are_exported_in_seconds() {
    let system = TestSystem::new("a_hundred_thousand_dead_letters_are_exported_in_seconds").await;
    system.insert_dead_letters(100_000).await;
    let begin = Instant::now();
    let exported = system.cli(&["dead-letters", "export"]).await.exits(0).json_lines();
    assert!(begin.elapsed() < DONE_WITHIN, "{:?}", begin.elapsed());
    assert_eq!(exported.len(), 100_000);
    // The one that failed longest ago is first.
    for (number, letter) in exported.iter().enumerate() {
        assert_eq!(letter["message_id"], format!("m-{}", number + 1));
        assert_eq!(letter["history"].as_array().unwrap().len(), 1);
    }
    system.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_of_large_bodies_needs_little_memory() {
    let system = TestSystem::new("an_export_of_large_bodies_needs_little_memory").await;
    system.insert_dead_letters(120).await;
    let large = "update failed_messages set body = convert_to(repeat('x', 1000000), 'UTF8')";
    sqlx::query(large).execute(&system.pool).await.unwrap();
    let mut export = system.command(&["dead-letters", "export"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = export.stdout.take().unwrap();
    let mut buffer = vec![0; 1024 * 1024];
    let mut read = 0;
    while read < 100_000_000 {
        let bytes = output.read(&mut buffer).await.unwrap();
        assert_ne!(bytes, 0, "the export ended after {read} bytes");
        read += bytes;
    }
    // It is alive, since it cannot write before the rest is read.
    let status = std::fs::read_to_string(format!("/proc/{}/status", export.id().unwrap())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < MEMORY_KIB, "{peak} KiB");
    // A reader that has seen enough ends the export.
    drop(output);
    let ended = tokio::time::timeout(DONE_WITHIN, export.wait()).await.unwrap().unwrap();
    assert!(ended.success(), "{ended}");
    system.close().await;
}
