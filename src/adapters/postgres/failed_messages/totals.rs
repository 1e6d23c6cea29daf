//! The numbers of failed messages by group and status.

use sqlx::PgConnection;

/// Changes that one call adds up.
const MAX_CHANGES: i64 = 10_000;

/// Adds the changes to the totals. In between, what is read is their sum, so that it is exact.
pub(in crate::adapters::postgres) async fn add_up(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let added = sqlx::query!(
        "with changes as (
             delete from failed_message_changes
             where id = any(array(select id from failed_message_changes order by id limit $1))
             returning error_group, queue, status, n
         ), counted as (
             select error_group, queue, status, n from changes where error_group <> ''
             union all
             select '', queue, status, n from changes
         )
         insert into failed_message_totals as total (error_group, queue, status, n)
         select error_group, queue, status, sum(n) from counted group by 1, 2, 3 order by 1, 2, 3
         on conflict (error_group, queue, status) do update set n = total.n + excluded.n",
        MAX_CHANGES,
    );
    if added.execute(&mut *connection).await?.rows_affected() > 0 {
        let empty = sqlx::query!(
            "delete from failed_message_totals where n = 0 and status = 'dead' and error_group <> ''"
        );
        empty.execute(connection).await?;
    }
    Ok(())
}
