//! The processes of the program, as they report themselves.

use crate::ports::{
    error::StoreError,
    processes::{LOST_AFTER, ProcessRow},
};

use super::handle::Views;

/// Processes that were last seen longer ago are not listed. In seconds.
const LISTED_FOR: f64 = 3600.0;

impl Views {
    /// The processes that run, and those that ended within the last hour, by name.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn processes(&self) -> Result<Vec<ProcessRow>, StoreError> {
        let rows = sqlx::query!(
            r#"select name, version, roles, started_at, seen_at, stopped_at is not null as "is_stopped!",
                      seen_at < now() - make_interval(secs => $1) as "is_overdue!", state::text as "state!"
               from processes where seen_at > now() - make_interval(secs => $2) order by name, started_at"#,
            LOST_AFTER.as_secs_f64(),
            LISTED_FOR,
        );
        let rows = self.query(async |connection| rows.fetch_all(connection).await).await?;
        let rows = rows.into_iter().map(|row| {
            // A newer version may report more, or something else.
            let state = serde_json::from_str(&row.state).unwrap_or_default();
            let status = match (row.is_stopped, row.is_overdue) {
                (true, _) => "stopped",
                (false, true) => "lost",
                (false, false) => "running",
            };
            let (name, version, roles) = (row.name, row.version, row.roles);
            ProcessRow {
                name,
                version,
                roles,
                started_at: row.started_at,
                seen_at: row.seen_at,
                status,
                state,
            }
        });
        Ok(rows.collect())
    }
}
