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
    let is_open = |command: &FailedCommand| command.status != "discarded";
    let stands = if failed.iter().any(is_open) {
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
    let older = match backorders_before {
        0 => "no older backorder of the SKU was found".to_owned(),
        before => format!("at least {before} backorders of the SKU are older"),
    };
    LineDiagnosis {
        subject,
        evidence: format!("backordered: {stock}; {older}"),
        fix: Some(
            "it is allocated by itself when a batch has enough (create_batch, change_batch_quantity)".into(),
        ),
    }
}

fn of_failed(command: FailedCommand) -> LineDiagnosis {
    let FailedCommand { id, kind, status, reason, error } = command;
    let crashes = reason.as_deref() == Some("crash_loop");
    let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
    let fix = match status.as_str() {
        "dead" if crashes => format!(
            "its process ended each time: allocation dead-letters show {id}, and section Reasons of docs/runbook.md"
        ),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn backorder() -> OrderedLine {
        OrderedLine {
            sku: "LAMP".into(),
            qty: 5,
            batchref: None,
            largest_free: Some(2),
            backorders_before: 3,
        }
    }

    #[test]
    fn an_order_is_explained() {
        let allocated = OrderedLine { batchref: Some("b-1".into()), ..backorder() };
        let dead = FailedCommand {
            id: 80,
            kind: "allocate".into(),
            status: "dead".into(),
            reason: Some("rejected".into()),
            error: "Invalid sku VASE".into(),
        };
        let stands = |lines: &[OrderedLine], failed: &[FailedCommand]| {
            diagnose_order("o-1", lines.to_vec(), failed.to_vec()).stands
        };
        assert_eq!(stands(&[], &[]), OrderState::Unknown);
        assert_eq!(stands(std::slice::from_ref(&allocated), &[]), OrderState::Allocated);
        assert_eq!(stands(&[allocated, backorder()], &[]), OrderState::Backordered);
        let crashing = FailedCommand { reason: Some("crash_loop".into()), ..dead.clone() };
        let fix = diagnose_order("o-1", Vec::new(), vec![crashing]).lines[0].fix.clone().unwrap();
        assert!(!fix.contains("retry"), "{fix}");
        let discarded = FailedCommand { status: "discarded".into(), ..dead.clone() };
        assert_eq!(stands(&[], &[discarded]), OrderState::Unknown);
        let diagnosis = diagnose_order("o-1", vec![backorder()], vec![dead]);
        assert_eq!(diagnosis.stands, OrderState::Failed);
        let [line, failed] = &diagnosis.lines[..] else { panic!("{diagnosis:?}") };
        let expected = "backordered: no batch has 5 free, the largest free quantity is 2; at least 3 backorders of the SKU are older";
        assert_eq!(line.evidence, expected);
        assert_eq!(failed.evidence, "allocate is dead (rejected): Invalid sku VASE");
        assert!(failed.fix.as_deref().unwrap().contains("dead-letters try 80"), "{failed:?}");
    }
}
