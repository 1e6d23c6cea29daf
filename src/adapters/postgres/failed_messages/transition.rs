//! Writes of an operator's transaction.

use sqlx::PgConnection;

use crate::{
    adapters::postgres::commit_signal::CHANNEL,
    domain::{Edit, OperatorAction, OrderingKey, Reason, StatusKind, Transition},
    ports::failed_messages::Operator,
};

/// Writes the states that actions lead to. A retrying message is due at once: the relay publishes its copy from this row,
/// so that the decision and the publication are one transaction.
pub(super) async fn write(
    connection: &mut PgConnection,
    transitions: &[Transition],
) -> Result<(), sqlx::Error> {
    let ids: Vec<_> = transitions.iter().map(|to| to.id).collect();
    let statuses: Vec<_> = transitions.iter().map(|to| to.status.kind().as_str()).collect();
    let reasons: Vec<_> = transitions.iter().map(|to| to.status.reason().map(Reason::as_str)).collect();
    let attempts: Vec<_> =
        transitions.iter().map(|to| i32::try_from(to.attempts).unwrap_or(i32::MAX)).collect();
    let generations: Vec<_> = transitions.iter().map(|to| to.generation).collect();
    sqlx::query!(
        "update failed_messages as f
         set status = t.status, reason = t.reason, attempts = t.attempts, generation = t.generation,
             due_at = case when t.status = 'retrying' then now() end,
             published_at = case when t.status <> 'retrying' then f.published_at end,
             ended_at = case when t.status in ('resolved', 'discarded') then now() end
         from unnest($1::bigint[], $2::text[], $3::text[], $4::integer[], $5::bigint[])
             as t (id, status, reason, attempts, generation)
         where f.id = t.id",
        &ids,
        &statuses as &[&str],
        &reasons as &[Option<&str>],
        &attempts,
        &generations,
    )
    .execute(&mut *connection)
    .await?;
    if transitions.iter().any(|to| to.status.kind() == StatusKind::Retrying) {
        notify(connection).await?;
    }
    Ok(())
}

/// Wakes the relay at the commit.
pub(super) async fn notify(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("select pg_notify($1, '')").bind(CHANNEL).execute(connection).await?;
    Ok(())
}

/// The keys of messages.
pub(super) async fn keys(
    connection: &mut PgConnection,
    ids: &[i64],
) -> Result<Vec<OrderingKey>, sqlx::Error> {
    let keys = sqlx::query_scalar!(
        r#"select distinct key as "key!" from failed_messages where id = any($1) and key is not null"#,
        ids,
    );
    Ok(keys.fetch_all(connection).await?.into_iter().map(OrderingKey::from_stored).collect())
}

/// Replaces the content of messages. The same content cannot belong to two messages of a queue.
pub(super) async fn replace_content(
    connection: &mut PgConnection,
    ids: &[i64],
    content: &Edit,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update failed_messages
         set type = $2, message_id = $3, body = $4, fingerprint = $5, edited = true, key = $6,
             overtaken_by = case when key = $6 then overtaken_by end
         where id = any($1)",
        ids,
        content.kind,
        content.message_id,
        content.body,
        &content.body_hash.0[..],
        content.ordering_key.as_ref().map(OrderingKey::as_str),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Records who requested an action on messages, and why; and their bodies, if the action replaces them.
pub(super) async fn record_action(
    connection: &mut PgConnection,
    ids: &[i64],
    action: &OperatorAction,
    by: &Operator,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into failed_actions (failed_message_id, who, what, why, previous_body)
         select id, $2, $3, $4, case when $5 then body end from failed_messages where id = any($1) order by id",
        ids,
        by.who,
        action.name(),
        by.why,
        action.new_content().is_some(),
    )
    .execute(connection)
    .await?;
    Ok(())
}
