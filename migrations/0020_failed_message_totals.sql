-- Failed messages are counted by group and status without reading them, and exactly: the totals plus the changes that are not
-- added yet. A statement that changes failed messages appends rows here, so that two of them never wait for each other's
-- counters; the leading relay adds them to the totals every second. A unit of work in which nothing fails appends none.
create table failed_message_changes (
    id          bigint generated always as identity primary key,
    error_group text   not null, -- of dead letters; otherwise empty
    queue       text   not null,
    status      text   not null, -- not resolved
    n           bigint not null
);

create table failed_message_totals (
    error_group text   not null, -- empty: all groups together
    queue       text   not null,
    status      text   not null,
    n           bigint not null,
    primary key (error_group, queue, status)
);
create index failed_message_totals_largest on failed_message_totals (n desc, error_group)
    where status = 'dead' and error_group <> '';

-- The first and the last failure of a group are found in an index.
drop index failed_messages_group;
create index failed_messages_group on failed_messages (error_group, last_failed_at) where status = 'dead';
create index failed_messages_group_first on failed_messages (error_group, first_failed_at) where status = 'dead';

-- With the rights of the owner: processes of the earlier version have none on these tables, and no role may add to the counts.
create function count_failed_messages() returns trigger language plpgsql security definer set search_path from current as $$
begin
    if tg_op = 'INSERT' then
        insert into failed_message_changes (error_group, queue, status, n)
        select case status when 'dead' then error_group else '' end, queue, status, count(*) from new_rows
        where status <> 'resolved' group by 1, 2, 3;
    elsif tg_op = 'DELETE' then
        insert into failed_message_changes (error_group, queue, status, n)
        select case status when 'dead' then error_group else '' end, queue, status, -count(*) from old_rows
        where status <> 'resolved' group by 1, 2, 3;
    elsif tg_op = 'UPDATE' then
        insert into failed_message_changes (error_group, queue, status, n)
        select error_group, queue, status, sum(n) from (
            select case status when 'dead' then error_group else '' end as error_group, queue, status, 1 as n from new_rows
            union all
            select case status when 'dead' then error_group else '' end, queue, status, -1 from old_rows
        ) as changed
        where status <> 'resolved' group by 1, 2, 3 having sum(n) <> 0;
    else
        delete from failed_message_changes;
        delete from failed_message_totals;
    end if;
    return null;
end
$$;

create trigger count_inserted after insert on failed_messages referencing new table as new_rows
    for each statement execute function count_failed_messages();
create trigger count_updated after update on failed_messages referencing old table as old_rows new table as new_rows
    for each statement execute function count_failed_messages();
create trigger count_deleted after delete on failed_messages referencing old table as old_rows
    for each statement execute function count_failed_messages();
create trigger count_truncated after truncate on failed_messages
    for each statement execute function count_failed_messages();

-- For after the triggers were off, for example in a restore.
create function recount_failed_messages() returns void language plpgsql set search_path from current as $$
begin
    lock table failed_messages in share row exclusive mode;
    delete from failed_message_changes;
    delete from failed_message_totals;
    insert into failed_message_totals (error_group, queue, status, n)
    select '', queue, status, count(*) from failed_messages where status <> 'resolved' group by 2, 3
    union all
    select error_group, queue, status, count(*) from failed_messages where status = 'dead' group by 1, 2, 3;
end
$$;

select recount_failed_messages();
