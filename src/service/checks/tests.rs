//! Each fault fails its check, and a healthy installation none.

use std::time::Duration;

use time::macros::datetime;

use super::*;
use crate::ports::{
    admin::DeclareResult,
    checks::{
        BrokerInspection, DatabaseServer, InspectedObject, InspectedPermission, InspectedSettings,
        Inspection, OldTransaction, RolePrivileges, SchemaDifference, Sessions, StoredBacklog,
    },
    diagnosis::DatabaseCondition,
    processes::{ProcessRow, ProcessState, ROLES},
};

fn process(roles: &[&str], version: &str) -> ProcessRow {
    ProcessRow {
        name: "app-1:7".into(),
        version: version.into(),
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
        started_at: datetime!(2026-11-27 02:00 UTC),
        seen_at: datetime!(2026-11-27 03:00 UTC),
        status: "running",
        state: ProcessState::default(),
    }
}

fn healthy() -> Inspection {
    let broker = BrokerInspection {
        topology: vec![InspectedObject::Exists(DeclareResult::Matches("allocation.orders".into()))],
        permissions: vec![InspectedPermission {
            permission: "read",
            object: "allocation.orders".into(),
            is_granted: Ok(true),
        }],
        alarm: Ok(false),
    };
    let privileges = RolePrivileges {
        role: "shop".into(),
        is_superuser: false,
        is_owner: false,
        may_write: true,
        missing: Vec::new(),
        excess: Vec::new(),
    };
    Inspection {
        condition: Ok(DatabaseCondition::Usable),
        server: Ok(DatabaseServer {
            version: 150_020,
            is_encrypted: false,
            max_connections: 100,
            clock_ahead: 0.0,
        }),
        drift: Ok(Vec::new()),
        privileges: Ok(privileges),
        sessions: Ok(Sessions::default()),
        backlog: Ok(StoredBacklog::default()),
        processes: Ok(vec![process(&ROLES, "0.1.0")]),
        relay_leads: Ok(true),
        broker: Ok(broker),
        settings: InspectedSettings {
            max_connections: 10,
            has_metrics: true,
            ..InspectedSettings::default()
        },
    }
}

/// The checks that are not as they should be after a change, and their results.
fn after(change: impl FnOnce(&mut Inspection)) -> Vec<(&'static str, CheckStatus)> {
    let mut inspected = healthy();
    change(&mut inspected);
    let wrong = all_checks(&inspected).into_iter().filter(|check| check.status != CheckStatus::Ok);
    wrong.map(|check| (check.check, check.status)).filter(|(check, _)| *check != "broker.bindings").collect()
}

fn fixes(change: impl FnOnce(&mut Inspection)) -> Vec<String> {
    let mut inspected = healthy();
    change(&mut inspected);
    all_checks(&inspected).into_iter().flat_map(|check| check.fix).collect()
}

#[test]
fn a_healthy_installation_has_nothing_to_repair() {
    assert_eq!(after(|_| ()), []);
    assert_eq!(fixes(|_| ()), [] as [&str; 0]);
    let unknown: Vec<_> =
        all_checks(&healthy()).into_iter().filter(|check| check.status == CheckStatus::NotKnown).collect();
    assert_eq!(unknown.len(), 1, "{unknown:?}");
}

#[test]
fn faults_of_the_database_are_found() {
    use CheckStatus::{Failed, Warning};
    let server =
        |change: fn(&mut DatabaseServer)| after(|inspected| change(inspected.server.as_mut().unwrap()));
    assert_eq!(server(|server| server.version = 140_010), [("database.version", Failed)]);
    assert_eq!(server(|server| server.clock_ahead = -1.0), [("database.clock", Failed)]);
    assert_eq!(server(|server| server.max_connections = 11), [("database.connections", Failed)]);
    assert_eq!(after(|i| i.settings.database_is_remote = true), [("database.tls", Failed)]);
    let role = |change: fn(&mut RolePrivileges)| after(|i| change(i.privileges.as_mut().unwrap()));
    assert_eq!(role(|role| role.is_superuser = true), [("database.role", Warning)]);
    assert_eq!(role(|role| role.is_owner = true), [("database.role", Warning)]);
    assert_eq!(
        role(|role| role.missing = vec![("INSERT".into(), "inbox".into())]),
        [("database.rights", Failed)]
    );
    assert_eq!(
        role(|role| role.excess = vec![("DELETE".into(), "inbox".into())]),
        [("database.rights", Warning)]
    );
    let sessions = |change: fn(&mut Sessions)| after(|i| change(i.sessions.as_mut().unwrap()));
    assert_eq!(sessions(|sessions| sessions.waiting = vec![(7, vec![8])]), [("database.locks", Warning)]);
    let old = |sessions: &mut Sessions| {
        let since = datetime!(2026-11-27 02:00 UTC);
        sessions.old_transactions = vec![OldTransaction { pid: 7, application: "psql".into(), since }];
    };
    assert_eq!(sessions(old), [("database.transactions", Warning)]);
    let hidden = sessions(|sessions| sessions.has_hidden = true);
    let not_known = CheckStatus::NotKnown;
    assert_eq!(hidden, [("database.transactions", not_known), ("database.locks", not_known)]);
    assert_eq!(role(|role| role.may_write = false), [("database.rights", Warning)]);
    assert_eq!(after(|i| i.condition = Ok(DatabaseCondition::ReadOnly)), [("database.schema", Failed)]);
}

#[test]
fn what_repairs_the_schema_runs_as_the_owner() {
    let difference = |fix: Option<&str>| SchemaDifference {
        object: "index a".into(),
        wanted: fix.map(|_| "CREATE INDEX a".to_owned()),
        found: None,
        fix: fix.map(str::to_owned).into_iter().collect(),
    };
    let missing =
        |i: &mut Inspection| i.drift = Ok(vec![difference(Some("CREATE INDEX a ON t (x) WHERE y = 'z'"))]);
    assert_eq!(after(missing), [("database.drift", CheckStatus::Failed)]);
    let expected = r#"psql --set ON_ERROR_STOP=1 --dbname "${OWNER_URL:?}" --command 'CREATE INDEX a ON t (x) WHERE y = '\''z'\'''"#;
    assert_eq!(fixes(missing), [expected]);
    let extra = |i: &mut Inspection| i.drift = Ok(vec![difference(None)]);
    assert_eq!(after(extra), [("database.drift", CheckStatus::Warning)]);
    let unusable = "the schema is at version 3, not 4: run `allocation migrate`";
    let old = |i: &mut Inspection| i.condition = Ok(DatabaseCondition::Unusable(unusable.into()));
    assert_eq!(fixes(old), [r#"DATABASE_URL="${OWNER_URL:?}" allocation migrate"#]);
}

#[test]
fn faults_of_the_broker_are_found() {
    use CheckStatus::{Failed, NotKnown};
    let broker = |change: fn(&mut BrokerInspection)| after(|i| change(i.broker.as_mut().unwrap()));
    let missing =
        |broker: &mut BrokerInspection| broker.topology = vec![InspectedObject::Missing("q".into())];
    assert_eq!(broker(missing), [("broker.topology", Failed)]);
    assert_eq!(fixes(|i| missing(i.broker.as_mut().unwrap())), ["allocation topology"]);
    let different = |broker: &mut BrokerInspection| {
        let mismatch = DeclareResult::Mismatch("q".into(), "x-delivery-limit".into());
        broker.topology = vec![InspectedObject::Exists(mismatch)];
    };
    assert_eq!(broker(different), [("broker.topology", Failed)]);
    assert_eq!(broker(|broker| broker.permissions[0].is_granted = Ok(false)), [("broker.rights", Failed)]);
    let unknown = |broker: &mut BrokerInspection| broker.permissions[0].is_granted = Err("missing".into());
    assert_eq!(broker(unknown), [("broker.rights", NotKnown)]);
    assert_eq!(broker(|broker| broker.alarm = Ok(true)), [("broker.alarm", Failed)]);
    let away = after(|i| i.broker = Err("refused".into()));
    let expected = [
        ("broker.connection", Failed),
        ("broker.topology", NotKnown),
        ("broker.rights", NotKnown),
        ("broker.alarm", NotKnown),
    ];
    assert_eq!(away, expected);
}

#[test]
fn faults_of_processes_and_settings_are_found() {
    use CheckStatus::{Failed, Warning};
    let processes = |processes: Vec<ProcessRow>| after(|i| i.processes = Ok(processes));
    assert_eq!(processes(vec![process(&["worker", "relay", "archive"], "1")]), [("processes.roles", Failed)]);
    let two = vec![process(&ROLES, "0.1.0"), process(&ROLES, "0.2.0")];
    assert_eq!(processes(two), [("processes.versions", Warning)]);
    let lost = ProcessRow { status: "lost", ..process(&ROLES, "1") };
    assert_eq!(processes(vec![lost]), [("processes.roles", Failed)]);
    assert_eq!(after(|i| i.relay_leads = Ok(false)), [("processes.leader", Failed)]);
    let backlog = |change: fn(&mut StoredBacklog)| after(|i| change(i.backlog.as_mut().unwrap()));
    assert_eq!(backlog(|backlog| backlog.held_retries = 1), [("failed_messages.retries", Failed)]);
    assert_eq!(backlog(|backlog| backlog.parked_events = 1), [("outbox.events", Failed)]);
    assert_eq!(
        backlog(|backlog| backlog.oldest_event = Duration::from_secs(61)),
        [("outbox.events", Failed)]
    );
    assert_eq!(
        backlog(|backlog| backlog.expired_for = Duration::from_hours(2)),
        [("retention.inbox", Failed)]
    );
    assert_eq!(after(|i| i.settings.has_metrics = false), [("metrics", Warning)]);
    let exposed = |i: &mut Inspection| i.settings.exposed_passwords = vec!["x".into()];
    assert_eq!(after(exposed), [("settings.passwords", Warning)]);
    let contradicts = |i: &mut Inspection| i.settings.contradictions = vec!["x".into()];
    assert_eq!(after(contradicts), [("settings.contradictions", Warning)]);
}
