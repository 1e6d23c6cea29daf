//! The content of all tables, as text.

use sqlx::PgPool;

/// Every row of every table, in an order that depends on the rows only.
pub(crate) async fn dump(pool: &PgPool) -> String {
    let tables: Vec<String> = sqlx::query_scalar(
        "select quote_ident(table_name) from information_schema.tables
         where table_schema = 'public' and table_type = 'BASE TABLE' order by table_name",
    )
    .fetch_all(pool)
    .await
    .expect("the tables can be listed");
    assert!(!tables.is_empty(), "the database is migrated");
    let mut dump = String::new();
    for table in tables {
        let query = format!("select string_agg(t::text, E'\\n' order by t::text) from {table} t");
        let rows: Option<String> =
            sqlx::query_scalar(&query).fetch_one(pool).await.expect("the table can be read");
        dump.extend(["-- ", &table, "\n", &rows.unwrap_or_default(), "\n"]);
    }
    dump
}
