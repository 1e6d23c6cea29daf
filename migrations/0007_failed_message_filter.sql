-- The filter of failed messages, in one place. It is a condition on a row, not a set of rows: a statement that locks rows
-- checks it again on the row as it is after the wait. The planner replaces each call by its body, so that indexes are used.
-- A null argument matches every row.
create function failed_message_matches(
    message        failed_messages,
    any_of_ids     bigint[],
    with_status    text,
    of_queue       text,
    of_type        text,
    with_reason    text,
    with_text      text,
    within_seconds double precision,
    of_group       text
) returns boolean language sql stable parallel safe as $$
    select (any_of_ids is null or message.id = any(any_of_ids))
       and (with_status is null or message.status = with_status)
       and (of_queue is null or message.queue = of_queue)
       and (of_type is null or message.type = of_type)
       and (with_reason is null or message.reason = with_reason)
       and (with_text is null
            or strpos(lower(message.error || ' ' || coalesce(message.message_id, '')), lower(with_text)) > 0)
       and (within_seconds is null or message.last_failed_at > now() - make_interval(secs => within_seconds))
       and (of_group is null or message.error_group = of_group)
$$;
