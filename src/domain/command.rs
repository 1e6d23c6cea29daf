//! The commands and their syntax, read tolerantly.
//!
//! Unknown fields are ignored, a number may be a string of digits, an `eta` may contain a time of day. A command that was
//! read is valid by construction; whether it can be executed is decided by the rules of [`super::Product`].

use serde::{Deserialize, Deserializer, de};
use time::{
    Date, OffsetDateTime, PrimitiveDateTime, format_description::well_known::Iso8601,
    macros::format_description,
};

use super::{
    ordering_key::OrderingKey,
    values::{BatchRef, OrderId, Quantity, Sku, StockQuantity},
};

/// Creates a batch, and its SKU if it is new.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct CreateBatch {
    /// The reference of the new batch.
    #[serde(rename = "ref")]
    pub reference: BatchRef,
    /// The product.
    pub sku: Sku,
    /// The purchased quantity.
    pub qty: StockQuantity,
    /// The arrival date; absent or null if the batch is in the warehouse.
    #[serde(default, deserialize_with = "day")]
    pub eta: Option<Date>,
}

/// Allocates an order line to a batch.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Allocate {
    /// The customer's order.
    pub orderid: OrderId,
    /// The product.
    pub sku: Sku,
    /// The ordered quantity.
    pub qty: Quantity,
}

/// Removes an order line.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Deallocate {
    /// The customer's order.
    pub orderid: OrderId,
    /// The product of the line.
    pub sku: Sku,
}

/// Corrects the purchased quantity of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ChangeBatchQuantity {
    /// The batch.
    #[serde(rename = "batchref")]
    pub reference: BatchRef,
    /// The new purchased quantity.
    pub qty: StockQuantity,
    /// The sender's counter of such changes: a change whose counter is not above the last one is stale and skipped.
    #[serde(default, deserialize_with = "revision")]
    pub revision: Option<i64>,
}

/// All commands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is documented at its type")]
pub enum Command {
    CreateBatch(CreateBatch),
    Allocate(Allocate),
    Deallocate(Deallocate),
    ChangeBatchQuantity(ChangeBatchQuantity),
}

/// Why a command cannot be read; `E` is the deserializer's error.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError<E> {
    /// No command has this name.
    #[error("unknown command type {0:?}; the command types are {names}", names = Command::NAMES.join(", "))]
    UnknownCommand(String),
    /// The body does not have the fields of the command.
    #[error(transparent)]
    Body(E),
}

impl Command {
    /// The names of all commands, as in a message's `type`.
    pub const NAMES: [&'static str; 4] = ["create_batch", "allocate", "deallocate", "change_batch_quantity"];

    /// The command's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        let [create_batch, allocate, deallocate, change_batch_quantity] = Self::NAMES;
        match self {
            Self::CreateBatch(_) => create_batch,
            Self::Allocate(_) => allocate,
            Self::Deallocate(_) => deallocate,
            Self::ChangeBatchQuantity(_) => change_batch_quantity,
        }
    }

    /// Commands with the same key must be handled in order: the lines of one SKU, and the creation and the changes of one
    /// batch.
    #[must_use]
    pub fn partition_key(&self) -> &str {
        match self {
            Self::CreateBatch(command) => command.reference.as_str(),
            Self::Allocate(command) => command.sku.as_str(),
            Self::Deallocate(command) => command.sku.as_str(),
            Self::ChangeBatchQuantity(command) => command.reference.as_str(),
        }
    }

    /// The line or the batch that the command is about.
    #[must_use]
    pub fn ordering_key(&self) -> OrderingKey {
        match self {
            Self::CreateBatch(command) => OrderingKey::batch(&command.reference),
            Self::Allocate(command) => OrderingKey::line(&command.orderid, &command.sku),
            Self::Deallocate(command) => OrderingKey::line(&command.orderid, &command.sku),
            Self::ChangeBatchQuantity(command) => OrderingKey::batch(&command.reference),
        }
    }

    /// Whether the command waits for earlier ones with its key. The creation of a batch does not, because the others may
    /// need it; therefore it does not make an earlier one obsolete either.
    #[must_use]
    pub fn keeps_order(&self) -> bool {
        !matches!(self, Self::CreateBatch(_))
    }

    /// Reads the body of the command with this name.
    ///
    /// # Errors
    /// [`ReadError`] tells an unknown name from an invalid body.
    pub fn read<'de, D: Deserializer<'de>>(name: &str, body: D) -> Result<Self, ReadError<D::Error>> {
        let command = match name {
            "create_batch" => CreateBatch::deserialize(body).map(Self::CreateBatch),
            "allocate" => Allocate::deserialize(body).map(Self::Allocate),
            "deallocate" => Deallocate::deserialize(body).map(Self::Deallocate),
            "change_batch_quantity" => ChangeBatchQuantity::deserialize(body).map(Self::ChangeBatchQuantity),
            unknown => return Err(ReadError::UnknownCommand(unknown.to_owned())),
        };
        command.map_err(ReadError::Body)
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
    // Python's str() of a datetime has a space where ISO has a T.
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
        Command::read(name, &mut serde_json::Deserializer::from_str(body)).map_err(|error| error.to_string())
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
    }

    #[test]
    fn every_command_waits_for_earlier_ones_except_the_creation_of_a_batch() {
        let body = r#"{"ref": "b", "batchref": "b", "orderid": "o", "sku": "s", "qty": "3"}"#;
        let waiting: Vec<_> =
            Command::NAMES.into_iter().filter(|name| read(name, body).unwrap().keeps_order()).collect();
        assert_eq!(waiting, ["allocate", "deallocate", "change_batch_quantity"]);
        assert_eq!(read("deallocate", body).unwrap().ordering_key().as_str(), "line:o/s");
        assert_eq!(read("change_batch_quantity", body).unwrap().ordering_key().as_str(), "batch:b");
    }

    /// An event that this service consumes is no command: senders must not be offered its name.
    #[test]
    fn the_error_for_an_unknown_type_names_the_commands_only() {
        let known = "create_batch, allocate, deallocate, change_batch_quantity";
        for name in ["alocate", "out_of_stock"] {
            let expected = format!("unknown command type {name:?}; the command types are {known}");
            assert_eq!(read(name, "{}"), Err(expected));
        }
    }

    #[test]
    fn commands_that_must_stay_in_order_have_one_partition_key() {
        let key = |name, body| read(name, body).unwrap().partition_key().to_owned();
        let line = key("allocate", r#"{"orderid": "o-1", "sku": "LAMP", "qty": 1}"#);
        assert_eq!(line, key("deallocate", r#"{"orderid": "o-2", "sku": "LAMP"}"#));
        let batch = key("create_batch", r#"{"ref": "b-1", "sku": "LAMP", "qty": 1}"#);
        assert_eq!(batch, key("change_batch_quantity", r#"{"batchref": "b-1", "qty": 2}"#));
        assert_eq!((line.as_str(), batch.as_str()), ("LAMP", "b-1"));
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
