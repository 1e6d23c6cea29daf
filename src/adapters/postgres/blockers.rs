//! Which sessions another session waits for.

use std::{collections::BTreeMap, time::Duration};

use sqlx::PgConnection;

use crate::pg::SessionOptions;

/// How often the session is observed. It waits for a lock for some seconds.
const OBSERVE_INTERVAL: Duration = Duration::from_millis(300);

/// A session that holds a lock.
pub(super) struct Blocker {
    application_name: String,
    /// None if this role may not see it.
    state: Option<String>,
    /// When its transaction began, in UTC.
    since: Option<String>,
}

/// Blocking sessions by process id.
pub(super) type Blockers = BTreeMap<i32, Blocker>;

/// Runs `work` on the session with this process id. Also returns the sessions that it waited for last.
pub(super) async fn observe<T>(
    options: &SessionOptions,
    pid: i32,
    work: impl Future<Output = T>,
) -> (T, Blockers) {
    let mut work = std::pin::pin!(work);
    let (mut observer, mut last) = (None, Blockers::new());
    loop {
        if let Ok(done) = tokio::time::timeout(OBSERVE_INTERVAL, &mut work).await {
            return (done, last);
        }
        // An observation that fails is only missing from the report.
        let seen = tokio::select! {
            done = &mut work => return (done, last),
            seen = look(options, &mut observer, pid) => seen.unwrap_or_default(),
        };
        if !seen.is_empty() {
            last = seen;
        }
    }
}

async fn look(
    options: &SessionOptions,
    observer: &mut Option<PgConnection>,
    pid: i32,
) -> Result<Blockers, sqlx::Error> {
    let connection = match observer {
        Some(connection) => connection,
        None => observer.insert(options.connect().await?),
    };
    let rows: Vec<(i32, String, Option<String>, Option<String>)> = sqlx::query_as(
        r#"select pid, coalesce(nullif(application_name, ''), backend_type, ''), state,
                  to_char(xact_start at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
           from pg_stat_activity where pid = any(pg_blocking_pids($1))"#,
    )
    .bind(pid)
    .fetch_all(connection)
    .await?;
    let blocker = |(pid, application_name, state, since)| (pid, Blocker { application_name, state, since });
    Ok(rows.into_iter().map(blocker).collect())
}

/// One line for an operator.
pub(super) fn describe(blockers: &Blockers) -> String {
    let sessions: Vec<_> = blockers
        .iter()
        .map(|(pid, Blocker { application_name, state, since })| {
            let state = state.as_deref().unwrap_or("not visible to this role");
            let since = since.as_deref().unwrap_or("an unknown time");
            format!("pid {pid} (application {application_name:?}, state {state:?}, in a transaction since {since})")
        })
        .collect();
    match sessions.as_slice() {
        [] => "a lock is held by another session".into(),
        sessions => format!("a lock is held by {}", sessions.join(" and ")),
    }
}
