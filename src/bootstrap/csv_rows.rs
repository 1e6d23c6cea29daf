//! Reads the rows of the CSV files by the rules for messages.

use std::{fmt::Display, path::Path};

use anyhow::Context as _;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::adapters::csv::{self, Row, RowError};

pub(super) const BATCHES: &str = "batches.csv";
pub(super) const ORDERS: &str = "orders.csv";
pub(super) const ALLOCATIONS: &str = "allocations.csv";
pub(super) const BATCH_COLUMNS: [&str; 4] = ["ref", "sku", "qty", "eta"];
pub(super) const ORDER_COLUMNS: [&str; 3] = ["orderid", "sku", "qty"];
pub(super) const ALLOCATION_COLUMNS: [&str; 4] = ["orderid", "sku", "qty", "batchref"];

/// The rows of a file, and the errors of those that are not CSV.
pub(super) type ParsedRows = (Vec<Row>, Vec<RowError>);

pub(super) fn read(folder: &Path, name: &str, columns: &[&str]) -> anyhow::Result<ParsedRows> {
    let file = folder.join(name);
    csv::read(&file, columns).with_context(|| format!("cannot read {}", file.display()))
}

/// Parses the rows of a file, each with its line number. The errors are appended to `errors` in the order of the lines.
pub(super) fn parse_rows<T>(
    errors: &mut Vec<String>,
    file: &str,
    (rows, row_errors): ParsedRows,
    parse: impl Fn(&Row) -> Result<T, String>,
) -> Vec<(u64, T)> {
    let mut invalid: Vec<_> = row_errors.into_iter().map(|row| (row.line, row.error)).collect();
    let mut parsed = Vec::new();
    for row in rows {
        match parse(&row) {
            Ok(value) => parsed.push((row.line, value)),
            Err(error) => invalid.push((row.line, error)),
        }
    }
    invalid.sort_by_key(|(line, _)| *line);
    errors.extend(invalid.into_iter().map(|(line, error)| error_at(file, line, error)));
    parsed
}

pub(super) fn error_at(file: &str, line: u64, error: impl Display) -> String {
    format!("{file}, line {line}: {error}")
}

/// Deserializes a row as the JSON body of a message.
pub(super) fn parse_row<T: DeserializeOwned>(row: &Row) -> Result<T, String> {
    serde_path_to_error::deserialize(json_of(row)).map_err(|error| match error.path().to_string().as_str() {
        "." => error.inner().to_string(),
        field => format!("{field}: {}", error.inner()),
    })
}

pub(super) fn json_of(row: &Row) -> Value {
    let fields = row.fields.iter().map(|(name, text)| (name.clone(), Value::from(text.as_str())));
    Value::Object(fields.collect())
}
