//! The processes of the program, as they report themselves.

use serde::Serialize;
use time::OffsetDateTime;

use crate::ports::{
    error::StoreError,
    processes::{LOST_AFTER, ProcessState},
};

use super::handle::Views;

/// Processes that were last seen longer ago are not listed. In seconds.
const LISTED_FOR: f64 = 3600.0;

/// A process of the program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProcessRow {
    /// Its host and process id.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its roles.
    pub roles: Vec<String>,
    /// When it was started.
    #[serde(with = "time::serde::rfc3339")]
    pub started_at: OffsetDateTime,
    /// When it last reported itself.
    #[serde(with = "time::serde::rfc3339")]
    pub seen_at: OffsetDateTime,
    /// `running`; `stopped`; or `lost`: it does not report itself, because it was killed or cannot use the database.
    pub status: &'static str,
    /// What it last reported.
    pub state: ProcessState,
}

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
