//! Checks of the broker.

use crate::ports::{
    admin::DeclareResult,
    checks::{BrokerInspection, InspectedObject, InspectedPermission, Inspection},
};

use super::{
    check::{Check, CheckStatus},
    database::named,
};

const REACHABLE: (&str, &str) = ("broker.connection", "a connection");
const TOPOLOGY: (&str, &str) =
    ("broker.topology", "each exchange and queue, with the arguments of this program");
const BINDINGS: (&str, &str) = ("broker.bindings", "the bindings of this program");
const RIGHTS: (&str, &str) = ("broker.rights", "to read the queues, and to write to the exchanges");
const ALARM: (&str, &str) = ("broker.alarm", "publishing is not paused");

pub(super) fn checks(inspected: &Inspection) -> Vec<Check> {
    let broker = &inspected.broker;
    let unreachable = broker.as_ref().map_err(|_| "the broker cannot be used".to_owned());
    let reachable = match broker {
        Ok(_) => Check::ok(REACHABLE.0, REACHABLE.1, "it accepts connections"),
        Err(error) => Check::new(REACHABLE.0, REACHABLE.1, CheckStatus::Failed, error.clone()),
    };
    let bindings = "the protocol does not show them; allocation topology makes those that are missing";
    vec![
        reachable,
        Check::of(TOPOLOGY.0, TOPOLOGY.1, &unreachable, |broker| topology(broker)),
        Check::not_known(BINDINGS.0, BINDINGS.1, bindings),
        Check::of(RIGHTS.0, RIGHTS.1, &unreachable, |broker| rights(broker)),
        Check::of(ALARM.0, ALARM.1, &unreachable, |broker| alarm(broker)),
    ]
}

fn topology(broker: &BrokerInspection) -> Check {
    let missing = broker.topology.iter().filter_map(|object| match object {
        InspectedObject::Missing(name) => Some(format!("{name} is missing")),
        InspectedObject::Exists(_) => None,
    });
    let different = broker.topology.iter().filter_map(|object| match object {
        InspectedObject::Exists(DeclareResult::Mismatch(name, difference)) => {
            Some(format!("{name} has other arguments: {difference}"))
        }
        _ => None,
    });
    let (missing, different): (Vec<_>, Vec<_>) = (missing.collect(), different.collect());
    let declare = (!missing.is_empty()).then(|| "allocation topology".to_owned());
    let has_difference = !different.is_empty();
    let found = named(missing.into_iter().chain(different));
    if declare.is_some() || has_difference {
        let hint = if has_difference { ". Drain and delete what differs, or use a policy" } else { "" };
        return Check::new(TOPOLOGY.0, TOPOLOGY.1, CheckStatus::Failed, found + hint).fixed_by(declare);
    }
    let compared =
        |object: &InspectedObject| !matches!(object, InspectedObject::Exists(DeclareResult::NotPermitted(_)));
    let text = if broker.topology.iter().all(compared) {
        "all exist and match"
    } else {
        "all exist; this user may not compare their arguments"
    };
    Check::ok(TOPOLOGY.0, TOPOLOGY.1, text)
}

fn rights(broker: &BrokerInspection) -> Check {
    let refused = |permission: &&InspectedPermission| permission.is_granted == Ok(false);
    let refused: Vec<_> = broker.permissions.iter().filter(refused).collect();
    if !refused.is_empty() {
        let found =
            named(refused.iter().map(|refused| format!("no {} on {}", refused.permission, refused.object)));
        return Check::new(RIGHTS.0, RIGHTS.1, CheckStatus::Failed, found + ": rabbitmqctl set_permissions");
    }
    let unknown = broker.permissions.iter().find_map(|permission| permission.is_granted.as_ref().err());
    match unknown {
        Some(because) => Check::not_known(RIGHTS.0, RIGHTS.1, because.clone()),
        None => Check::ok(RIGHTS.0, RIGHTS.1, "all are granted"),
    }
}

fn alarm(broker: &BrokerInspection) -> Check {
    Check::of(ALARM.0, ALARM.1, &broker.alarm, |is_paused| {
        if *is_paused {
            let found = "memory or disk space is in alarm: rabbitmq-diagnostics alarms";
            Check::new(ALARM.0, ALARM.1, CheckStatus::Failed, found)
        } else {
            Check::ok(ALARM.0, ALARM.1, "no alarm")
        }
    })
}
