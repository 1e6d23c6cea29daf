//! Faults inside the database that statements switch on and off: writes that are refused, work and commits that take
//! their time. Switched by a row, so that no lock on a table holds up anything else.

use std::time::Duration;

use crate::world::World;

/// What the database says while its disk is full.
pub(crate) const NO_SPACE: &str = "no space left on device";

const TRIGGERS: &str = "
    create table switches (
        only_row boolean primary key default true check (only_row),
        disk_full boolean not null default false,
        work_takes double precision not null default 0,
        commit_takes double precision not null default 0
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
        perform pg_sleep(work_takes * (0.5 + random())) from switches where work_takes > 0;
        return null;
    end $$;
    create trigger delays before insert on inbox for each statement execute function delay_work();

    create function delay_commit() returns trigger language plpgsql as $$
    begin
        if current_setting('chaos.delayed', true) is distinct from 'yes' then
            perform set_config('chaos.delayed', 'yes', true);
            perform pg_sleep(commit_takes * random()) from switches where commit_takes > 0;
        end if;
        return null;
    end $$;
    create constraint trigger delays_commit after insert on inbox deferrable initially deferred
        for each row execute function delay_commit();";

/// Installs the faults of one database, all switched off.
pub(crate) async fn install(world: &World<'_>) -> anyhow::Result<()> {
    world.execute(TRIGGERS).await
}

/// From now on units of work are refused with SQLSTATE 53100, or are not. The ledger can still be written.
pub(crate) async fn disk_full(world: &World<'_>, full: bool) -> anyhow::Result<()> {
    world.execute(&format!("update switches set disk_full = {full}")).await
}

/// From now on each unit of work takes between half as long and one and a half times as long.
pub(crate) async fn work_takes(world: &World<'_>, time: Duration) -> anyhow::Result<()> {
    world.execute(&format!("update switches set work_takes = {}", time.as_secs_f64())).await
}

/// From now on each commit of a unit of work takes up to so long.
pub(crate) async fn commit_takes(world: &World<'_>, time: Duration) -> anyhow::Result<()> {
    world.execute(&format!("update switches set commit_takes = {}", time.as_secs_f64())).await
}
