//! Why the lines of an order are not allocated.

use serde::{Serialize, Serializer};

use crate::{
    domain::named_values,
    ports::diagnosis::{FailedCommand, OrderedLine},
};

named_values! {
    /// The state of an order.
    OrderState {
        /// Every line is in a batch, and no command failed.
        Allocated = "allocated",
        /// A line waits for stock, and no command failed.
        Backordered = "backordered",
        /// A command of the order failed and was not handled later.
        Failed = "failed",
        /// Nothing is known about it.
        Unknown = "unknown",
    }
}

impl Serialize for OrderState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Why the lines of an order are where they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OrderDiagnosis {
    /// The order.
    pub orderid: String,
    /// Its state.
    pub stands: OrderState,
    /// Its lines and its failed commands.
    pub lines: Vec<LineDiagnosis>,
}

/// A line, or a failed command that is about one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LineDiagnosis {
    /// The line or the command.
    pub subject: String,
    /// Its state, and why.
    pub evidence: String,
    /// What to do; none if nothing is wrong.
    pub fix: Option<String>,
}

/// Explains the state of an order.
#[must_use]
pub fn diagnose_order(orderid: &str, lines: Vec<OrderedLine>, failed: Vec<FailedCommand>) -> OrderDiagnosis {
    let stands = if !failed.is_empty() {
        OrderState::Failed
    } else if lines.is_empty() {
        OrderState::Unknown
    } else if lines.iter().all(|line| line.batchref.is_some()) {
        OrderState::Allocated
    } else {
        OrderState::Backordered
    };
    let lines = lines.into_iter().map(of_line).chain(failed.into_iter().map(of_failed)).collect();
    OrderDiagnosis { orderid: orderid.to_owned(), stands, lines }
}

fn of_line(line: OrderedLine) -> LineDiagnosis {
    let OrderedLine { sku, qty, batchref, largest_free, backorders_before } = line;
    let subject = format!("{sku} x{qty}");
    if let Some(batchref) = batchref {
        return LineDiagnosis { subject, evidence: format!("allocated in {batchref}"), fix: None };
    }
    let stock = match largest_free {
        Some(free) => format!("no batch has {qty} free, the largest free quantity is {free}"),
        None => "no batch has free stock".to_owned(),
    };
    LineDiagnosis {
        subject,
        evidence: format!("backordered: {stock}; {backorders_before} backorders of the SKU are older"),
        fix: Some("it is allocated by itself when a batch with enough stock arrives (create_batch)".into()),
    }
}

fn of_failed(command: FailedCommand) -> LineDiagnosis {
    let FailedCommand { id, kind, status, reason, error } = command;
    let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
    let fix = match status.as_str() {
        "dead" => format!("allocation dead-letters try {id}, then retry {id} or edit {id}"),
        "discarded" => {
            format!("an operator discarded it; to undo that: allocation dead-letters restore {id}")
        }
        _ => format!("it is tried again by itself: allocation dead-letters show {id}"),
    };
    LineDiagnosis {
        subject: format!("failed message {id}"),
        evidence: format!("{kind} is {status}{reason}: {error}"),
        fix: Some(fix),
    }
}
