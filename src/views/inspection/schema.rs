//! How the schema differs from that of the migrations.

use std::collections::BTreeMap;

use crate::{
    ports::{checks::SchemaDifference, error::StoreError},
    views::handle::Views,
};

/// Each object that the migrations make: kind, name and definition, separated by tabs. A test compares it with them.
const OBJECTS: &str = include_str!("schema_objects.txt");

impl Views {
    /// Each object of the schema: kind, name and definition, separated by tabs, in order.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn schema_objects(&self) -> Result<Vec<String>, StoreError> {
        let objects = sqlx::query_scalar!(
            r#"with tables as (
                   select oid, relname from pg_class
                   where relnamespace = current_schema()::regnamespace and relkind = 'r' and relname <> '_sqlx_migrations'
               ), objects as (
                   select 'column' as kind, relname || '.' || attname as name,
                          format_type(atttypid, atttypmod) || case when attnotnull then ' not null' else '' end
                          || case when attidentity <> '' then ' identity' else '' end
                          || coalesce(' default ' || pg_get_expr(adbin, adrelid), '') as definition
                   from tables join pg_attribute on attrelid = tables.oid and attnum > 0 and not attisdropped
                   left join pg_attrdef on adrelid = attrelid and adnum = attnum
                   union all
                   select 'constraint', relname || '.' || conname, pg_get_constraintdef(pg_constraint.oid)
                   from tables join pg_constraint on conrelid = tables.oid and contype in ('p', 'u', 'f', 'c')
                   union all
                   select 'index', pg_class.relname, replace(pg_get_indexdef(indexrelid), current_schema() || '.', '')
                   from tables join pg_index on indrelid = tables.oid join pg_class on pg_class.oid = indexrelid
                   where indisvalid and not exists (select from pg_constraint where conindid = indexrelid)
                   union all
                   select 'trigger', tgname, replace(pg_get_triggerdef(pg_trigger.oid), current_schema() || '.', '')
                          || case tgenabled when 'O' then '' else ' disabled' end
                   from tables join pg_trigger on tgrelid = tables.oid and not tgisinternal
                   union all
                   select 'function', proname, 'md5 ' || pg_catalog.md5(prosrc) from pg_proc
                   where pronamespace = current_schema()::regnamespace
                     and not exists (select from pg_depend where objid = pg_proc.oid and deptype = 'e') -- of an extension
               )
               select pg_catalog.concat_ws(E'\t', kind, name, pg_catalog.regexp_replace(definition, '\s+', ' ', 'g')) as "object!"
               from objects order by kind, name collate "C", definition"#
        );
        self.query(async |connection| objects.fetch_all(connection).await).await
    }

    /// The objects that are missing, different, or not of this program.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn schema_drift(&self) -> Result<Vec<SchemaDifference>, StoreError> {
        Ok(differences(OBJECTS.lines(), self.schema_objects().await?.iter().map(String::as_str)))
    }
}

fn differences<'a>(
    wanted: impl Iterator<Item = &'a str>,
    found: impl Iterator<Item = &'a str>,
) -> Vec<SchemaDifference> {
    let (wanted, found) = (by_name(wanted), by_name(found));
    let mut differences = Vec::new();
    for (name, definition) in &wanted {
        if found.get(name) != Some(definition) {
            let found = found.get(name).copied();
            let fix = if found.is_none() { creation(*name, definition) } else { Vec::new() };
            differences.push(difference(*name, Some(*definition), found, fix));
        }
    }
    let extra = found.iter().filter(|(name, _)| !wanted.contains_key(*name));
    differences
        .extend(extra.map(|(name, definition)| difference(*name, None, Some(*definition), Vec::new())));
    differences
}

fn difference(
    (kind, name): (&str, &str),
    wanted: Option<&str>,
    found: Option<&str>,
    fix: Vec<String>,
) -> SchemaDifference {
    let object = format!("{kind} {name}");
    SchemaDifference { object, wanted: wanted.map(str::to_owned), found: found.map(str::to_owned), fix }
}

/// Definitions by kind and name.
fn by_name<'a>(objects: impl Iterator<Item = &'a str>) -> BTreeMap<(&'a str, &'a str), &'a str> {
    let parts = objects.filter_map(|object| {
        let mut parts = object.splitn(3, '\t');
        Some(((parts.next()?, parts.next()?), parts.next()?))
    });
    parts.collect()
}

/// The statements that create a missing object. Missing columns and functions need their migration.
fn creation((kind, name): (&str, &str), definition: &str) -> Vec<String> {
    match (kind, name.split_once('.')) {
        // Writes continue while it is built. One that could not be built to the end is invalid, and counts as missing.
        ("index", _) => vec![
            format!("drop index concurrently if exists {name}"),
            definition.replacen("INDEX", "INDEX CONCURRENTLY", 1),
        ],
        ("trigger", _) if name.starts_with("count_") => {
            vec![definition.to_owned(), "select recount_failed_messages()".to_owned()]
        }
        ("trigger", _) => vec![definition.to_owned()],
        ("constraint", Some((table, constraint))) => {
            vec![format!("alter table {table} add constraint {constraint} {definition}")]
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_different_and_additional_objects_are_found() {
        let wanted = ["index\ta\tCREATE INDEX a", "column\tt.c\ttext", "constraint\tt.k\tPRIMARY KEY (c)"];
        let found = ["column\tt.c\tinteger", "trigger\tx\tCREATE TRIGGER x"];
        let found = differences(wanted.into_iter(), found.into_iter());
        let short: Vec<_> =
            found.iter().map(|one| (one.object.as_str(), one.found.as_deref(), one.fix.join("; "))).collect();
        let expected = [
            ("column t.c", Some("integer"), String::new()),
            ("constraint t.k", None, "alter table t add constraint k PRIMARY KEY (c)".into()),
            ("index a", None, "drop index concurrently if exists a; CREATE INDEX CONCURRENTLY a".into()),
            ("trigger x", Some("CREATE TRIGGER x"), String::new()),
        ];
        assert_eq!(short, expected);
    }
}
