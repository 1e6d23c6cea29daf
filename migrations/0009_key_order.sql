-- The order of commands for one line or one batch, across retries.
-- `key` names the line or the batch. Rows from before have none: nothing waits for them.
alter table failed_messages add column key text;
-- The message id of the last command with the same key that was handled after this one was dead.
alter table failed_messages add column overtaken_by text;

-- `waiting`: recorded, and not tried before an earlier message with the same key has ended.
alter table failed_messages drop constraint failed_messages_status_check;
alter table failed_messages add constraint failed_messages_status_check
    check (status in ('retrying', 'waiting', 'resolved', 'dead', 'discarded'));

create index failed_messages_open_key on failed_messages (key, id)
    where key is not null and status in ('retrying', 'waiting');
create index failed_messages_ended_key on failed_messages (key, id)
    where key is not null and status in ('dead', 'discarded');
