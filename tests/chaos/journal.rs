//! What really happened in the tables, row by row, in a table without any key that could hide a double.

use std::collections::HashMap;

use serde_json::Value;
use sqlx::PgPool;

use crate::{command::Effect, consistency, load::SKUS};

/// References of the batches that every world begins with; they sort behind those of the load.
const STOCK: &str = "warehouse-";
/// More than anybody asks for, and less than anybody asks for.
const PLENTY: i32 = 1_000_000;
const SCARCE: i32 = 40;

/// Puts the journal's triggers into a migrated database, then the stock that all worlds begin with, and lets a role
/// without special rights work there.
pub(crate) fn preparation() -> String {
    let journal = String::from(
        "create table journal (
             id bigint generated always as identity, about text not null, op text not null, before json, after json
         );
         create index journal_starts on journal (id) where about = 'message_starts';
         create index journal_batches on journal ((after ->> 'ref'), id) where about = 'batches';
         create function note_in_journal() returns trigger language plpgsql as $$
         begin
             insert into journal (about, op, before, after) values (
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
             for each row execute function note_in_journal();"
        )
    });
    let stock = SKUS.map(|sku| {
        let qty = if sku == "SCARCE" { SCARCE } else { PLENTY };
        format!(
            "insert into products (sku, version, event_sequence, last_place, backordered) values ('{sku}', 1, 0, 0, 0);
             insert into batches (ref, sku, ordered, purchased, allocated)
             values ('{STOCK}{sku}', '{sku}', {qty}, {qty}, 0);"
        )
    });
    let grants = "grant all on all tables in schema public to clerk;
                  grant all on all sequences in schema public to clerk;";
    [journal, triggers.concat(), stock.concat(), grants.into()].concat()
}

/// How often each effect took place.
pub(crate) async fn effects(pool: &PgPool) -> anyhow::Result<HashMap<Effect, usize>> {
    let rows: Vec<(String, String, Option<String>, Option<String>)> = sqlx::query_as(
        "select about, op, before::text, after::text from journal
         where about in ('order_lines', 'batches') order by id",
    )
    .fetch_all(pool)
    .await?;
    let mut effects = HashMap::new();
    for (about, op, before, after) in rows {
        if let Some(effect) = effect(&about, &op, &read(before.as_deref()), &read(after.as_deref())) {
            *effects.entry(effect).or_default() += 1;
        }
    }
    Ok(effects)
}

/// A row as the journal has it; null where there was none.
fn read(row: Option<&str>) -> Value {
    row.and_then(|row| serde_json::from_str(row).ok()).unwrap_or_default()
}

fn effect(about: &str, op: &str, before: &Value, after: &Value) -> Option<Effect> {
    let text = |row: &Value, column: &str| row[column].as_str().unwrap_or_default().to_owned();
    let line = |row: &Value| (text(row, "orderid"), text(row, "sku"));
    match (about, op) {
        ("order_lines", "INSERT") => {
            let (orderid, sku) = line(after);
            Some(Effect::Line { orderid, sku })
        }
        ("order_lines", "DELETE") => {
            let (orderid, sku) = line(before);
            Some(Effect::Cancelled { orderid, sku })
        }
        ("batches", "INSERT") => Some(Effect::Batch { reference: text(after, "ref") })
            .filter(|_| !text(after, "ref").starts_with(STOCK)),
        ("batches", "UPDATE") if before["purchased"] != after["purchased"] => Some(Effect::Count {
            reference: text(after, "ref"),
            qty: after["purchased"].as_i64().unwrap_or(-1),
        }),
        _ => None,
    }
}

/// What must hold besides between the tables and the journal; each rule with a query for offenders.
const RULES: [(&str, &str); 2] = [
    (
        "the lines are those that the journal says came and did not go",
        "select orderid || ' ' || sku from order_lines l full join (
             select coalesce(after, before) ->> 'orderid' as orderid, coalesce(after, before) ->> 'sku' as sku,
                    sum(case op when 'INSERT' then 1 when 'DELETE' then -1 else 0 end) as there
             from journal where about = 'order_lines' group by 1, 2
         ) j using (orderid, sku)
         where coalesce(j.there, 0) <> case when l.qty is null then 0 else 1 end",
    ),
    (
        "a batch is as the journal saw it last",
        "select b.ref from batches b left join lateral (
             select after from journal where about = 'batches' and after ->> 'ref' = b.ref order by id desc limit 1
         ) j on true
         where (j.after ->> 'purchased', j.after ->> 'allocated')
               is distinct from (b.purchased::text, b.allocated::text)",
    ),
];

/// Which rules are broken, and by whom.
pub(crate) async fn broken_rules(pool: &PgPool) -> anyhow::Result<Vec<String>> {
    let mut broken = Vec::new();
    for (rule, offenders) in consistency::RULES.into_iter().chain(RULES) {
        let found: Vec<String> = sqlx::query_scalar(offenders).fetch_all(pool).await?;
        if !found.is_empty() {
            broken.push(format!("{rule}, but not {}", found[..found.len().min(5)].join(", ")));
        }
    }
    Ok(broken)
}

/// How many sessions of processes that still run are in a transaction in which nothing has happened for a second.
pub(crate) async fn open_transactions(pool: &PgPool) -> anyhow::Result<i64> {
    let open = sqlx::query_scalar(
        "select count(*) from pg_stat_activity
         where datname = current_database() and application_name = 'allocation'
           and state like 'idle in transaction%' and state_change < now() - interval '1 second'",
    );
    Ok(open.fetch_one(pool).await?)
}
