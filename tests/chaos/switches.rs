//! Faults within the database, switched by a row: rejected writes, delayed work and delayed commits. A row, because a
//! lock on a table would block other transactions.

use std::time::Duration;

use crate::test_system::TestSystem;

/// The error text of the database while its disk is full.
pub(crate) const NO_SPACE: &str = "no space left on device";

const TRIGGERS: &str = "
    create table switches (
        only_row boolean primary key default true check (only_row),
        disk_full boolean not null default false,
        work_delay double precision not null default 0,
        commit_delay double precision not null default 0
    );
    insert into switches default values;

    create function refuse_if_full() returns trigger language plpgsql as $$
    begin
        if (select disk_full from switches) then
            raise exception 'no space left on device' using errcode = '53100';
        end if;
        return null;
    end $$;
    create trigger refuses before insert on outbox for each statement execute function refuse_if_full();
    create trigger refuses before update on products for each statement execute function refuse_if_full();

    create function delay_work() returns trigger language plpgsql as $$
    begin
        perform pg_sleep(work_delay * (0.5 + random())) from switches where work_delay > 0;
        return null;
    end $$;
    create trigger delays before insert on inbox for each statement execute function delay_work();

    create function delay_commit() returns trigger language plpgsql as $$
    begin
        if current_setting('chaos.delayed', true) is distinct from 'yes' then
            perform set_config('chaos.delayed', 'yes', true);
            perform pg_sleep(commit_delay * random()) from switches where commit_delay > 0;
        end if;
        return null;
    end $$;
    create constraint trigger delays_commit after insert on inbox deferrable initially deferred
        for each row execute function delay_commit();";

/// Installs the faults in one database, switched off.
pub(crate) async fn install(system: &TestSystem<'_>) -> anyhow::Result<()> {
    system.execute(TRIGGERS).await
}

/// Whether units of work are rejected with SQLSTATE 53100. Failed messages can still be recorded.
pub(crate) async fn set_disk_full(system: &TestSystem<'_>, full: bool) -> anyhow::Result<()> {
    system.execute(&format!("update switches set disk_full = {full}")).await
}

/// The delay of each unit of work, varied by ±50 %.
pub(crate) async fn set_work_delay(system: &TestSystem<'_>, time: Duration) -> anyhow::Result<()> {
    system.execute(&format!("update switches set work_delay = {}", time.as_secs_f64())).await
}

/// The maximum delay of the commit of a unit of work.
pub(crate) async fn set_commit_delay(system: &TestSystem<'_>, time: Duration) -> anyhow::Result<()> {
    system.execute(&format!("update switches set commit_delay = {}", time.as_secs_f64())).await
}
