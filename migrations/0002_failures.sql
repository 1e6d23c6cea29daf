-- The ledger: every command that failed, what it was exactly, and what became of it.

create table failed_messages (
    id              bigint      primary key generated always as identity,
    queue           text        not null,
    message_id      text,
    fingerprint     bytea       not null,
    type            text        not null,
    body            bytea       not null,
    -- Properties and headers for people, and exactly as the client library had them.
    properties      json        not null,
    original        bytea       not null,
    status          text        not null check (status in ('retrying', 'resolved', 'dead', 'discarded')),
    reason          text,
    error           text        not null,
    -- The error without its variable values, and the group it makes with queue, type and reason.
    error_pattern   text        not null,
    error_group     text        not null,
    attempts        integer     not null check (attempts >= 0),
    -- Goes up with every attempt and every retry: tells the copy that is on its way from all earlier ones.
    generation      bigint      not null default 1,
    first_failed_at timestamptz not null default now(),
    last_failed_at  timestamptz not null default now(),
    due_at          timestamptz,
    published_at    timestamptz,
    -- An operator's body: it is what we say it is, whatever the sender called the first one.
    edited          boolean     not null default false,
    ended_at        timestamptz,
    check ((status = 'dead') <= (reason is not null)),
    check ((status = 'retrying') <= (due_at is not null))
);

-- A message without an id is known by its body.
create unique index failed_messages_message on failed_messages (queue, coalesce(message_id, ''), fingerprint);
create index failed_messages_due on failed_messages (due_at) where status = 'retrying' and published_at is null;
create index failed_messages_published on failed_messages (published_at)
    where status = 'retrying' and published_at is not null;
create index failed_messages_newest on failed_messages (status, last_failed_at desc, id desc);
create index failed_messages_group on failed_messages (error_group) where status = 'dead';
create index failed_messages_ended on failed_messages (ended_at) where ended_at is not null;

create table failed_attempts (
    failed_message_id bigint      not null references failed_messages on delete cascade,
    generation        bigint      not null,
    attempt           integer     not null,
    at                timestamptz not null default now(),
    host              text        not null,
    duration_ms       bigint      not null,
    error             text        not null,
    chain             text[]      not null,
    primary key (failed_message_id, generation)
);

create table failed_actions (
    id                bigint      primary key generated always as identity,
    failed_message_id bigint      not null references failed_messages on delete cascade,
    at                timestamptz not null default now(),
    who               text        not null,
    what              text        not null,
    why               text,
    -- What an edit replaced.
    previous_body     bytea
);
create index failed_actions_message on failed_actions (failed_message_id);

-- Starts of redelivered messages that have not ended: the trace of what kills its worker.
create table message_starts (
    queue      text        not null,
    message_id text        not null,
    starts     integer     not null,
    started_at timestamptz not null default now(),
    primary key (queue, message_id)
);

-- For the removal of old rows in small batches.
create index inbox_handled_at on inbox (handled_at);
