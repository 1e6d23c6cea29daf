//! A journal of every row change, written by triggers. It has no unique key that could hide a repeated effect.

use std::collections::HashMap;

use serde_json::Value;
use sqlx::PgPool;

use crate::{command::Effect, command_load::SKUS, consistency};

/// Prefix of the initial batches; they sort after those of the load.
const STOCK_PREFIX: &str = "warehouse-";
/// More than all orders together, and less than all orders together.
const AMPLE_QTY: i32 = 1_000_000;
const SCARCE_QTY: i32 = 40;

/// SQL that adds the triggers of the journal, the initial stock and the rights of the limited role to a migrated
/// database.
pub(crate) fn setup_sql() -> String {
    let journal = String::from(
        "create table journal (
             id bigint generated always as identity, table_name text not null, op text not null, before json, after json
         );
         create index journal_starts on journal (id) where table_name = 'message_starts';
         create index journal_batches on journal ((after ->> 'ref'), id) where table_name = 'batches';
         create function record_in_journal() returns trigger language plpgsql as $$
         begin
             insert into journal (table_name, op, before, after) values (
                 tg_table_name, tg_op,
                 case when tg_op <> 'INSERT' then to_json(old) end,
                 case when tg_op <> 'DELETE' then to_json(new) end
             );
             return null;
         end $$;",
    );
    let triggers = ["order_lines", "batches", "message_starts"].map(|table| {
        format!(
            "create trigger journal after insert or update or delete on {table}
             for each row execute function record_in_journal();"
        )
    });
    let stock = SKUS.map(|sku| {
        let qty = if sku == "SCARCE" { SCARCE_QTY } else { AMPLE_QTY };
        format!(
            "insert into products (sku, version, event_sequence, last_place, backordered) values ('{sku}', 1, 0, 0, 0);
             insert into batches (ref, sku, ordered, purchased, allocated)
             values ('{STOCK_PREFIX}{sku}', '{sku}', {qty}, {qty}, 0);"
        )
    });
    let grants = "grant all on all tables in schema public to limited_user;
                  grant all on all sequences in schema public to limited_user;";
    // A copy of this database belongs to the namespace of the first process that runs on it.
    let namespace = "delete from installation;";
    [journal, triggers.concat(), stock.concat(), grants.into(), namespace.into()].concat()
}

/// How often each effect occurred.
pub(crate) async fn effects(pool: &PgPool) -> anyhow::Result<HashMap<Effect, usize>> {
    let rows: Vec<(String, String, Option<String>, Option<String>)> = sqlx::query_as(
        "select table_name, op, before::text, after::text from journal
         where table_name in ('order_lines', 'batches') order by id",
    )
    .fetch_all(pool)
    .await?;
    let mut effects = HashMap::new();
    for (table, op, before, after) in rows {
        if let Some(effect) = effect(&table, &op, &parse_row(before.as_deref()), &parse_row(after.as_deref()))
        {
            *effects.entry(effect).or_default() += 1;
        }
    }
    Ok(effects)
}

/// A row in the journal; null if there was none.
fn parse_row(row: Option<&str>) -> Value {
    row.and_then(|row| serde_json::from_str(row).ok()).unwrap_or_default()
}

fn effect(table: &str, op: &str, before: &Value, after: &Value) -> Option<Effect> {
    let text = |row: &Value, column: &str| row[column].as_str().unwrap_or_default().to_owned();
    let line = |row: &Value| (text(row, "orderid"), text(row, "sku"));
    match (table, op) {
        ("order_lines", "INSERT") => {
            let (orderid, sku) = line(after);
            Some(Effect::Line { orderid, sku })
        }
        ("order_lines", "DELETE") => {
            let (orderid, sku) = line(before);
            Some(Effect::Deallocated { orderid, sku })
        }
        ("batches", "INSERT") => Some(Effect::Batch { reference: text(after, "ref") })
            .filter(|_| !text(after, "ref").starts_with(STOCK_PREFIX)),
        ("batches", "UPDATE") if before["purchased"] != after["purchased"] => Some(Effect::QuantityChange {
            reference: text(after, "ref"),
            qty: after["purchased"].as_i64().unwrap_or(-1),
        }),
        _ => None,
    }
}

/// Further rules about tables and journal, each with a query that returns violations.
const RULES: [(&str, &str); 2] = [
    (
        "the lines are those inserted and not deleted in the journal",
        "select orderid || ' ' || sku from order_lines l full join (
             select coalesce(after, before) ->> 'orderid' as orderid, coalesce(after, before) ->> 'sku' as sku,
                    sum(case op when 'INSERT' then 1 when 'DELETE' then -1 else 0 end) as copies
             from journal where table_name = 'order_lines' group by 1, 2
         ) j using (orderid, sku)
         where coalesce(j.copies, 0) <> case when l.qty is null then 0 else 1 end",
    ),
    (
        "a batch equals its last row in the journal",
        "select b.ref from batches b left join lateral (
             select after from journal where table_name = 'batches' and after ->> 'ref' = b.ref order by id desc limit 1
         ) j on true
         where (j.after ->> 'purchased', j.after ->> 'allocated')
               is distinct from (b.purchased::text, b.allocated::text)",
    ),
];

/// The violated rules, with the violating rows.
pub(crate) async fn violated_rules(pool: &PgPool) -> anyhow::Result<Vec<String>> {
    let mut violated = Vec::new();
    for (rule, query) in consistency::RULES.into_iter().chain(RULES) {
        let found: Vec<String> = sqlx::query_scalar(query).fetch_all(pool).await?;
        if !found.is_empty() {
            violated.push(format!("violated: {rule}: {}", found[..found.len().min(5)].join(", ")));
        }
    }
    Ok(violated)
}

/// The number of sessions of the program that have been idle in a transaction for a second.
pub(crate) async fn idle_transactions(pool: &PgPool) -> anyhow::Result<i64> {
    let open = sqlx::query_scalar(
        "select count(*) from pg_stat_activity
         where datname = current_database() and application_name ~ '^allocation( relay.*)?$'
           and state like 'idle in transaction%' and state_change < now() - interval '1 second'",
    );
    Ok(open.fetch_one(pool).await?)
}
