-- A message is its id, its type and its body. Rows from before say nothing of the type, which then fits any.
alter table inbox add column type text;

drop index failed_messages_message;
create unique index failed_messages_message on failed_messages (queue, coalesce(message_id, ''), type, fingerprint);

-- Goes out with every copy that is published for a retry: what it marks is a copy of this row, and no sender can guess it.
alter table failed_messages add column secret uuid not null default gen_random_uuid();

-- Copies that are on their way do not carry it: others are published, and whichever is handled first is the only one.
update failed_messages set published_at = null where status = 'retrying';
