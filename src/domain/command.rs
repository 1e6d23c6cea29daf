//! What others ask of us, as they may say it: the syntax of commands, read tolerantly.
//!
//! Unknown fields are ignored, a number may be a string of digits, an `eta` may carry a time of day.
//! Whatever is read is valid by construction; whether it can be done is the domain's to say.

use serde::{Deserialize, Deserializer, de};
use time::{
    Date, OffsetDateTime, PrimitiveDateTime, format_description::well_known::Iso8601,
    macros::format_description,
};

use super::values::{BatchRef, OrderId, Quantity, Sku, StockQuantity};

/// A batch exists from now on, and its SKU with it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct CreateBatch {
    /// The new batch's reference.
    #[serde(rename = "ref")]
    pub reference: BatchRef,
    /// What it holds.
    pub sku: Sku,
    /// How many were bought.
    pub qty: StockQuantity,
    /// When it arrives; absent or null when it is in the warehouse.
    #[serde(default, deserialize_with = "day")]
    pub eta: Option<Date>,
}

/// A line is to be placed in one batch.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Allocate {
    /// The customer's order.
    pub orderid: OrderId,
    /// What is ordered.
    pub sku: Sku,
    /// How many.
    pub qty: Quantity,
}

/// A line is not wanted any more.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Deallocate {
    /// The customer's order.
    pub orderid: OrderId,
    /// Which of its lines.
    pub sku: Sku,
}

/// A batch turned out to hold another quantity than was bought.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ChangeBatchQuantity {
    /// The batch.
    #[serde(rename = "batchref")]
    pub reference: BatchRef,
    /// What it holds in truth.
    pub qty: StockQuantity,
    /// The sender's count of such changes: one not above the last is late and skipped.
    #[serde(default, deserialize_with = "revision")]
    pub revision: Option<i64>,
}

/// Whoever buys is to hear that a line waits. The event `out_of_stock` asks for it, by its own name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct NotifyOutOfStock {
    /// The customer's order.
    pub orderid: OrderId,
    /// What is missing.
    pub sku: Sku,
    /// How many.
    pub qty: Quantity,
}

/// Everything that can be asked of the service.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is documented at its type")]
pub enum Command {
    CreateBatch(CreateBatch),
    Allocate(Allocate),
    Deallocate(Deallocate),
    ChangeBatchQuantity(ChangeBatchQuantity),
    NotifyOutOfStock(NotifyOutOfStock),
}

/// No command has this name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown command type {name:?}; known are {}", Command::NAMES.join(", "))]
pub struct UnknownCommand {
    /// What it was called.
    pub name: String,
}

impl Command {
    /// The names of all commands, as they stand in a message's `type`.
    pub const NAMES: [&'static str; 5] =
        ["create_batch", "allocate", "deallocate", "change_batch_quantity", "out_of_stock"];

    /// The name of this one.
    #[must_use]
    pub fn name(&self) -> &'static str {
        let [create_batch, allocate, deallocate, change_batch_quantity, out_of_stock] = Self::NAMES;
        match self {
            Self::CreateBatch(_) => create_batch,
            Self::Allocate(_) => allocate,
            Self::Deallocate(_) => deallocate,
            Self::ChangeBatchQuantity(_) => change_batch_quantity,
            Self::NotifyOutOfStock(_) => out_of_stock,
        }
    }

    /// Reads the body of a command whose name is known.
    ///
    /// # Errors
    /// The outer error names an unknown command; the inner one is the deserializer's, about the body.
    pub fn read<'de, D: Deserializer<'de>>(
        name: &str,
        body: D,
    ) -> Result<Result<Self, D::Error>, UnknownCommand> {
        Ok(match name {
            "create_batch" => CreateBatch::deserialize(body).map(Self::CreateBatch),
            "allocate" => Allocate::deserialize(body).map(Self::Allocate),
            "deallocate" => Deallocate::deserialize(body).map(Self::Deallocate),
            "change_batch_quantity" => ChangeBatchQuantity::deserialize(body).map(Self::ChangeBatchQuantity),
            "out_of_stock" => NotifyOutOfStock::deserialize(body).map(Self::NotifyOutOfStock),
            unknown => {
                return Err(UnknownCommand { name: unknown.to_owned() });
            }
        })
    }
}

fn day<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Date>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else {
        return Ok(None);
    };
    parse_day(&text).map(Some).ok_or_else(|| de::Error::custom("must be a date, YYYY-MM-DD"))
}

/// A date, or a full ISO 8601 timestamp whose date counts.
fn parse_day(text: &str) -> Option<Date> {
    let (date, time) = text.split_at_checked(10)?;
    let date = Date::parse(date, format_description!("[year]-[month]-[day]")).ok()?;
    if time.is_empty() {
        return Some(date);
    }
    // Python's str() of a datetime has a blank where ISO has a T.
    let timestamp = text.replacen(' ', "T", 1);
    let valid = OffsetDateTime::parse(&timestamp, &Iso8601::PARSING).is_ok()
        || PrimitiveDateTime::parse(&timestamp, &Iso8601::PARSING).is_ok();
    valid.then_some(date)
}

fn revision<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "must be a whole number")]
    enum Number {
        Integer(i64),
        Digits(String),
    }
    match Option::<Number>::deserialize(deserializer)? {
        None => Ok(None),
        Some(Number::Integer(number)) => Ok(Some(number)),
        Some(Number::Digits(digits)) => {
            digits.parse().map(Some).map_err(|_| de::Error::custom("must be a whole number"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::date;

    fn read(name: &str, body: &str) -> Result<Command, String> {
        Command::read(name, &mut serde_json::Deserializer::from_str(body))
            .map_err(|unknown| unknown.to_string())?
            .map_err(|invalid| invalid.to_string())
    }

    fn eta(json: &str) -> Result<Option<Date>, String> {
        match read("create_batch", &format!(r#"{{"ref": "b", "sku": "s", "qty": 1, "eta": {json}}}"#))? {
            Command::CreateBatch(command) => Ok(command.eta),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_name_reads_as_the_command_of_that_name() {
        let body = r#"{"ref": "b", "batchref": "b", "orderid": "o", "sku": "s", "qty": "3", "more": [{}]}"#;
        for name in Command::NAMES {
            assert_eq!(read(name, body).unwrap().name(), name);
        }
        assert!(read("alocate", body).unwrap_err().contains("unknown command type \"alocate\""));
    }

    #[test]
    fn an_eta_may_be_absent_null_a_date_or_a_timestamp() {
        let day = Some(date!(2027 - 01 - 31));
        assert_eq!(eta("null"), Ok(None));
        for text in [
            "2027-01-31",
            "2027-01-31T23:59:59",
            "2027-01-31 23:59:59.123456",
            "2027-01-31T00:00:00Z",
            "2027-01-31T00:00:00+02:00",
        ] {
            assert_eq!(eta(&format!("{text:?}")), Ok(day), "{text}");
        }
        for text in
            ["", "tomorrow", "2027-02-30", "31-01-2027", "2027-01-31x", "2027-01-31T25:00:00", "2027-1-1"]
        {
            assert!(eta(&format!("{text:?}")).unwrap_err().contains("must be a date"), "{text}");
        }
        assert!(eta("20270131").is_err());
    }

    #[test]
    fn a_revision_may_be_absent_or_digits() {
        let revision = |json: &str| match read("change_batch_quantity", json) {
            Ok(Command::ChangeBatchQuantity(command)) => Ok(command.revision),
            other => Err(format!("{other:?}")),
        };
        assert_eq!(revision(r#"{"batchref": "b", "qty": 0}"#), Ok(None));
        assert_eq!(revision(r#"{"batchref": "b", "qty": 0, "revision": 7}"#), Ok(Some(7)));
        assert_eq!(revision(r#"{"batchref": "b", "qty": 0, "revision": "7"}"#), Ok(Some(7)));
        assert!(
            revision(r#"{"batchref": "b", "qty": 0, "revision": 1.5}"#).unwrap_err().contains("whole number")
        );
    }
}
