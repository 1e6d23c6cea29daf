//! Staged outages: exactly the alerts that are listed for an outage fire, and they clear after its end.
//!
//! A minute of the rules is a second. The outages of a group happen at the same time, each in a system of its own.

mod messages;
mod processes;
mod servers;

use crate::{harness::has_prometheus, ops::stage::alone};

/// Runs outages at the same time, each under its name.
macro_rules! at_once {
    ($($outage:path),+ $(,)?) => {
        if has_prometheus() {
            let _alone = alone().await;
            tokio::join!($(Box::pin($outage(stringify!($outage)))),+);
        }
    };
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outages_of_servers_raise_their_alerts() {
    at_once!(
        servers::database,
        servers::broker,
        servers::mail,
        servers::silent_mail,
        servers::full_subscriber,
        servers::no_subscriber,
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_processes_raise_their_alerts() {
    at_once!(
        processes::no_worker,
        processes::no_relay,
        processes::no_archive,
        processes::none,
        processes::unresponsive_worker,
        processes::crash_loop,
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_messages_raise_their_alerts() {
    at_once!(
        messages::dead_letter,
        messages::many_dead_letters,
        messages::unreadable,
        messages::parked_event,
        messages::missing_queue,
    );
}
