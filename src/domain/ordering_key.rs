//! What a command is about: commands about the same line or batch keep their order.

use std::{fmt, sync::Arc};

use super::values::{BatchRef, OrderId, Sku};

/// The line or the batch that a command is about. Commands with the same key are handled in the order of their arrival, also
/// when one of them is retried.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OrderingKey(Arc<str>);

impl OrderingKey {
    /// The key of a line, `line:ORDERID/SKU`. A slash or a percent sign in the order id is percent-encoded, so that each
    /// line has a key of its own.
    #[must_use]
    pub fn line(orderid: &OrderId, sku: &Sku) -> Self {
        let orderid = orderid.as_str();
        if orderid.contains(['/', '%']) {
            let encoded = orderid.replace('%', "%25").replace('/', "%2F");
            return Self(format!("line:{encoded}/{sku}").into());
        }
        Self(format!("line:{orderid}/{sku}").into())
    }

    /// The key of a batch, `batch:REF`.
    #[must_use]
    pub fn batch(reference: &BatchRef) -> Self {
        Self(format!("batch:{reference}").into())
    }

    /// A key that was stored as text.
    #[must_use]
    pub fn from_stored(key: String) -> Self {
        Self(key.into())
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OrderingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_a_key_of_its_own() {
        let key = |orderid, sku| {
            OrderingKey::line(&OrderId::new(orderid).unwrap(), &Sku::new(sku).unwrap()).to_string()
        };
        assert_eq!(key("o-1", "LAMP"), "line:o-1/LAMP");
        let keys = [key("a", "b/c"), key("a/b", "c"), key("a%2Fb", "c"), key("a", "b%2Fc")];
        assert_eq!(keys, ["line:a/b/c", "line:a%2Fb/c", "line:a%252Fb/c", "line:a/b%2Fc"]);
    }
}
