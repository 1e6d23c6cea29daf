//! Checks of the database.

use crate::ports::{
    checks::{
        DatabaseServer, InspectedSettings, Inspection, OldTransaction, RolePrivileges, SchemaDifference,
        Sessions,
    },
    diagnosis::DatabaseCondition,
};

use super::check::{Check, CheckStatus, as_owner};

/// PostgreSQL 15: older ones let every role create objects in the schema.
const MIN_VERSION: i32 = 150_000;
/// The largest difference of clocks, in seconds.
const MAX_CLOCK_DIFFERENCE: f64 = 1.0;
const HIDDEN: &str = "this role may not see other sessions; grant pg_read_all_stats to it";
const POOLER: &str = "sessions lead through a connection pooler (database.session_url)";
/// Of many differences, so many are named.
const NAMED: usize = 5;

pub(super) fn checks(inspected: &Inspection) -> Vec<Check> {
    let settings = &inspected.settings;
    vec![
        condition(inspected),
        Check::of("database.version", "15 or later", &inspected.server, version),
        drift(inspected),
        privileges(inspected),
        Check::of(
            "database.role",
            "a role that is no superuser and owns no table",
            &inspected.privileges,
            role,
        ),
        Check::of(
            "database.transactions",
            "none that lasts for more than five minutes",
            &inspected.sessions,
            transactions,
        ),
        Check::of("database.locks", "no session waits for a lock", &inspected.sessions, locks),
        connections(inspected),
        Check::of(
            "database.tls",
            "an encrypted session, unless the server is here",
            &inspected.server,
            |s| tls(s, settings),
        ),
        Check::of("database.clock", "less than 1 s from that of this machine", &inspected.server, clock),
    ]
}

fn condition(inspected: &Inspection) -> Check {
    let (check, wanted) =
        ("database.schema", "the schema version and the namespace of this program, and writes");
    match &inspected.condition {
        Ok(DatabaseCondition::Usable) => Check::ok(check, wanted, "it can be used"),
        Ok(DatabaseCondition::ReadOnly) => {
            Check::new(check, wanted, CheckStatus::Failed, "it accepts no writes")
        }
        Ok(DatabaseCondition::Unusable(why)) => {
            let migrate = "DATABASE_URL=\"${OWNER_URL:?}\" allocation migrate";
            let migrate = why.contains("allocation migrate").then(|| migrate.to_owned());
            Check::new(check, wanted, CheckStatus::Failed, why.clone()).fixed_by(migrate)
        }
        Err(error) => Check::new(check, wanted, CheckStatus::Failed, error.clone()),
    }
}

fn version(server: &DatabaseServer) -> Check {
    let found = format!("{}.{}", server.version / 10_000, server.version % 10_000);
    let status = if server.version >= MIN_VERSION { CheckStatus::Ok } else { CheckStatus::Failed };
    Check::new("database.version", "15 or later", status, found)
}

fn drift(inspected: &Inspection) -> Check {
    let (check, wanted) =
        ("database.drift", "tables, columns, indexes and constraints as the migrations make them");
    Check::of(check, wanted, &inspected.drift, |differences| {
        if differences.is_empty() {
            return Check::ok(check, wanted, "no difference");
        }
        let only_extra = differences.iter().all(|difference| difference.wanted.is_none());
        let status = if only_extra { CheckStatus::Warning } else { CheckStatus::Failed };
        let fixes =
            differences.iter().flat_map(|difference| &difference.fix).map(|statement| as_owner(statement));
        Check::new(check, wanted, status, named(differences.iter().map(describe))).fixed_by(fixes)
    })
}

fn describe(difference: &SchemaDifference) -> String {
    let SchemaDifference { object, wanted, found, .. } = difference;
    match (wanted, found) {
        (Some(_), None) => format!("{object} is missing"),
        (None, _) => format!("{object} is not of this program"),
        (Some(wanted), Some(found)) => format!("{object} is {found:?} and not {wanted:?}"),
    }
}

/// The first ones, and how many there are.
pub(super) fn named(all: impl Iterator<Item = String>) -> String {
    let all: Vec<_> = all.collect();
    let more = all.len().saturating_sub(NAMED);
    let first = all[..all.len() - more].join("; ");
    if more == 0 { first } else { format!("{first}; and {more} more") }
}

fn privileges(inspected: &Inspection) -> Check {
    let (check, wanted) = ("database.rights", "those of allocation_runtime in deploy/sql/grants.sql");
    Check::of(check, wanted, &inspected.privileges, |privileges| {
        let RolePrivileges { role, missing, excess, .. } = privileges;
        let text =
            |what: &str, (privilege, table): &(String, String)| format!("{what} {privilege} on {table}");
        let found = missing.iter().map(|missing| text("no", missing));
        let found = named(found.chain(excess.iter().map(|excess| text("also", excess))));
        let role = role.replace('"', "\"\"");
        if !privileges.may_write {
            return Check::new(check, wanted, CheckStatus::Warning, format!("{role} may only read"));
        }
        let grants = (!missing.is_empty()).then(|| {
            let tables =
                "psql --set ON_ERROR_STOP=1 --dbname \"${OWNER_URL:?}\" --file deploy/sql/grants.sql";
            [tables.to_owned(), as_owner(&format!("grant allocation_runtime to \"{role}\""))]
        });
        let grants = grants.into_iter().flatten();
        let revokes = excess
            .iter()
            .map(|(privilege, table)| as_owner(&format!("revoke {privilege} on {table} from \"{role}\"")));
        let status = match (missing.is_empty(), excess.is_empty()) {
            (false, _) => CheckStatus::Failed,
            (true, false) => CheckStatus::Warning,
            (true, true) => return Check::ok(check, wanted, "exactly these"),
        };
        Check::new(check, wanted, status, found).fixed_by(grants.chain(revokes))
    })
}

fn role(privileges: &RolePrivileges) -> Check {
    let RolePrivileges { role, is_superuser, is_owner, .. } = privileges;
    let (status, found) = match (is_superuser, is_owner) {
        (true, _) => (CheckStatus::Warning, format!("{role} is a superuser")),
        (false, true) => (CheckStatus::Warning, format!("{role} owns the tables")),
        (false, false) => (CheckStatus::Ok, role.clone()),
    };
    Check::new("database.role", "a role that is no superuser and owns no table", status, found)
}

fn transactions(sessions: &Sessions) -> Check {
    let (check, wanted) = ("database.transactions", "none that lasts for more than five minutes");
    let old = &sessions.old_transactions;
    if old.is_empty() && sessions.has_hidden {
        return Check::not_known(check, wanted, HIDDEN);
    }
    if old.is_empty() {
        return Check::ok(check, wanted, "none");
    }
    let describe = |OldTransaction { pid, application, since }: &OldTransaction| {
        format!("session {pid} (application {application:?}) since {since}")
    };
    let found = named(old.iter().map(describe));
    Check::new(check, wanted, CheckStatus::Warning, found + "; ask the owner to end it")
}

fn locks(sessions: &Sessions) -> Check {
    let (check, wanted) = ("database.locks", "no session waits for a lock");
    if sessions.waiting.is_empty() && sessions.has_hidden {
        return Check::not_known(check, wanted, HIDDEN);
    }
    if sessions.waiting.is_empty() {
        return Check::ok(check, wanted, "none waits");
    }
    let describe = |(pid, holders): &(i32, Vec<i32>)| format!("session {pid} waits for {holders:?}");
    Check::new(check, wanted, CheckStatus::Warning, named(sessions.waiting.iter().map(describe)))
}

fn connections(inspected: &Inspection) -> Check {
    let (check, wanted) = ("database.connections", "room for all processes under max_connections");
    if inspected.settings.uses_pooler {
        return Check::not_known(check, wanted, POOLER);
    }
    let known = inspected.server.clone().and_then(|server| {
        let running = inspected.processes.as_ref().map_err(Clone::clone)?.iter();
        Ok((server, running.filter(|process| process.status == "running").count()))
    });
    Check::of(check, wanted, &known, |(server, running)| {
        let processes = u32::try_from(*running).unwrap_or(u32::MAX);
        // Each has up to three sessions beside its pool: those of the relay.
        let needed = processes.saturating_mul(inspected.settings.max_connections + 3);
        let found =
            format!("{processes} processes may open {needed} of {} connections", server.max_connections);
        let status = if needed <= server.max_connections { CheckStatus::Ok } else { CheckStatus::Failed };
        Check::new(check, wanted, status, found)
    })
}

fn tls(server: &DatabaseServer, settings: &InspectedSettings) -> Check {
    if settings.uses_pooler {
        return Check::not_known("database.tls", "an encrypted session, unless the server is here", POOLER);
    }
    let (status, found) = match (server.is_encrypted, settings.database_is_remote) {
        (true, _) => (CheckStatus::Ok, "it is encrypted"),
        (false, false) => (CheckStatus::Ok, "it is not encrypted, and the server is on this machine"),
        (false, true) => {
            (CheckStatus::Failed, "it is not encrypted; add ?sslmode=verify-full to database.url")
        }
    };
    Check::new("database.tls", "an encrypted session, unless the server is here", status, found)
}

fn clock(server: &DatabaseServer) -> Check {
    let is_near = server.clock_ahead.abs() < MAX_CLOCK_DIFFERENCE;
    let status = if is_near { CheckStatus::Ok } else { CheckStatus::Failed };
    let found = format!("{:+.2} s", server.clock_ahead);
    Check::new("database.clock", "less than 1 s from that of this machine", status, found)
}
