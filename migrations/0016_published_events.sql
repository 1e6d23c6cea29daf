-- The version of the program that made an attempt. Rows of an earlier version have none.
alter table failed_attempts add column version text;

-- Published events, as long as `retention.published`. The transaction that handles a message gives its row in the inbox and
-- its events one time; by that time the events of a message are found.
create table published_events (
    event_id       uuid        not null,
    name           text        not null,
    sku            text        not null,
    sequence       bigint      not null,
    body           text        not null,
    causation_id   text        not null,
    correlation_id text        not null,
    committed_at   timestamptz not null,
    published_at   timestamptz not null default now(),
    unroutable     boolean     not null
) with (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 50000,
    autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 100000
);
create index published_events_committed_at on published_events (committed_at);
-- The same for events that are not published yet. Rows are appended in about this order; such an index costs next to nothing.
create index outbox_committed_at on outbox using brin (committed_at) with (pages_per_range = 8, autosummarize = on);

-- The failed messages of an order, in any status.
create index failed_messages_key on failed_messages (key text_pattern_ops) where key is not null;
