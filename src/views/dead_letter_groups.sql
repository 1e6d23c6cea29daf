-- The largest groups of dead letters, and the number of all groups.
--
-- The number of a group is its total plus what is not added yet; migration 0020 explains both.
--
-- $1 namespace; $2 the limit; $3 the reason whose messages may have several types
with changed as (
    select error_group, sum(n)::bigint as n from failed_message_changes
    where status = 'dead' and error_group <> '' group by error_group
), candidates as (
    -- A group that did not change is among the largest only if it is among these.
    (select error_group from failed_message_totals where status = 'dead' and error_group <> ''
     order by n desc, error_group limit $2 + (select count(*) from changed))
    union
    select error_group from changed
), counted as (
    select error_group,
           coalesce((select sum(n) from failed_message_totals t
                     where t.error_group = c.error_group and status = 'dead'), 0)::bigint as total,
           coalesce((select n from changed where changed.error_group = c.error_group), 0) as added
    from candidates c
)
select error_group as "group!", $1::text || '.' || any_of.queue as "queue!", any_of.reason,
       case when any_of.reason = $3 and exists (
                select from failed_messages f
                where f.error_group = counted.error_group and status = 'dead' and type <> any_of.type)
            then '…' else any_of.type end as "kind!",
       any_of.error_pattern as "error!", total + added as "count!",
       (select first_failed_at from failed_messages f where f.error_group = counted.error_group
        and status = 'dead' order by first_failed_at limit 1) as "first_failed_at!",
       (select last_failed_at from failed_messages f where f.error_group = counted.error_group
        and status = 'dead' order by last_failed_at desc limit 1) as "last_failed_at!",
       (select count(*) from failed_message_totals where status = 'dead' and error_group <> '' and n > 0)
       + (select coalesce(sum((total + added > 0)::integer - (total > 0)::integer), 0) from counted)
       as "groups!"
from counted
cross join lateral (
    select queue, type, reason, error_pattern from failed_messages f
    where f.error_group = counted.error_group and status = 'dead' limit 1
) as any_of
where total + added > 0
order by total + added desc, error_group limit $2
