//! Why a rule rejects a command.

use super::values::{BatchRef, OrderId, Quantity, Sku};

/// A rule of the domain that rejects a command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// No batch of the SKU was ever created.
    #[error("Invalid sku {0}")]
    InvalidSku(Sku),
    /// No batch has this reference.
    #[error("Invalid batchref {0}")]
    InvalidBatchref(BatchRef),
    /// The line exists with another quantity.
    #[error("order {orderid} already has a line of {known} {sku}; it cannot become {asked}")]
    QuantityMismatch {
        /// The order of the line.
        orderid: OrderId,
        /// The SKU of the line.
        sku: Sku,
        /// The quantity of the existing line.
        known: Quantity,
        /// The requested quantity.
        asked: Quantity,
    },
    /// The batch exists with other content.
    #[error("batch {0} already exists with another sku, quantity or eta")]
    BatchMismatch(BatchRef),
}

impl Rejection {
    /// The rule without the values of the command: equal for all commands that the rule rejects.
    #[must_use]
    pub fn rule(&self) -> &'static str {
        match self {
            Self::InvalidSku(_) => "Invalid sku …",
            Self::InvalidBatchref(_) => "Invalid batchref …",
            Self::QuantityMismatch { .. } => "the line is known with another quantity",
            Self::BatchMismatch(_) => "the batch is known with another sku, quantity or eta",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_has_no_values_of_the_command() {
        let (sku, quantity) = (Sku::new("LAMP").unwrap(), |number: u32| Quantity::new(number).unwrap());
        let orderid = OrderId::new("o-1").unwrap();
        let batch = BatchRef::new("b-1").unwrap();
        let rules = [
            Rejection::InvalidSku(sku.clone()).rule(),
            Rejection::InvalidBatchref(batch.clone()).rule(),
            Rejection::QuantityMismatch { orderid, sku, known: quantity(1), asked: quantity(2) }.rule(),
            Rejection::BatchMismatch(batch).rule(),
        ];
        assert_eq!(
            rules,
            [
                "Invalid sku …",
                "Invalid batchref …",
                "the line is known with another quantity",
                "the batch is known with another sku, quantity or eta",
            ]
        );
    }
}
