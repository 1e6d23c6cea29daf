with asked as (
    select * from unnest($2::text[], $3::bytea[], $4::text[], $5::bytea[], $6::text[], $7::bytea[], $8::text[],
            $9::text[], $10::text[], $11::text[], $12::text[], $13::int[], $14::float8[], $15::bigint[],
            $16::text[], $17::bigint[], $18::text[], $19::text[], $20::text[], $21::bool[], $22::text[])
        with ordinality
        as asked (message_id, fingerprint, type, body, properties, original, status, reason, error,
            error_pattern, error_group, attempts, delay, generation, host, duration_ms, chain, key, overtaken_by,
            was_attempted, trace_id, place)
), recorded as (
    insert into failed_messages as known (queue, message_id, fingerprint, type, body, properties, original,
        status, reason, error, error_pattern, error_group, attempts, due_at, key, overtaken_by)
    select $1, message_id, fingerprint, type, body, properties::json, original, status, reason, error,
        error_pattern, error_group, attempts, clock_timestamp() + make_interval(secs => delay), key, overtaken_by
    from asked order by place
    on conflict (queue, coalesce(message_id, ''), type, fingerprint) do update
    set status = excluded.status, reason = excluded.reason, error = excluded.error,
        error_pattern = excluded.error_pattern, error_group = excluded.error_group,
        attempts = excluded.attempts, generation = known.generation + 1, due_at = excluded.due_at,
        last_failed_at = now(), published_at = null, ended_at = null,
        key = coalesce(excluded.key, known.key), overtaken_by = coalesce(excluded.overtaken_by, (
            select known.overtaken_by from asked
            where coalesce(asked.message_id, '') = coalesce(known.message_id, '') and asked.type = known.type
              and asked.fingerprint = known.fingerprint and asked.generation > 0))
    where exists (
        select from asked
        where coalesce(asked.message_id, '') = coalesce(known.message_id, '') and asked.type = known.type
          and asked.fingerprint = known.fingerprint
          and case when asked.generation = 0 then known.status not in ('retrying', 'waiting')
              else known.status = 'retrying' and known.generation = asked.generation end)
    returning id, generation, message_id, type, fingerprint
)
insert into failed_attempts (failed_message_id, generation, attempt, host, duration_ms, error, chain, trace_id, version)
select recorded.id, recorded.generation, asked.attempts, asked.host, asked.duration_ms, asked.error,
    array(select json_array_elements_text(asked.chain::json)), asked.trace_id, $23
from recorded join asked
  on coalesce(asked.message_id, '') = coalesce(recorded.message_id, '') and asked.type = recorded.type
 and asked.fingerprint = recorded.fingerprint
where asked.was_attempted
order by asked.place
