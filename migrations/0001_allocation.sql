-- The write side: products with their batches and the lines asked for.

create table products (
    sku            text   primary key,
    version        bigint not null check (version > 0),
    event_sequence bigint not null check (event_sequence >= 0),
    last_place     bigint not null check (last_place >= 0),
    backordered    bigint not null check (backordered >= 0)
) with (fillfactor = 50);  -- every command updates its product in place

create table batches (
    ref       text    primary key,
    sku       text    not null references products,
    ordered   integer not null check (ordered >= 0),
    purchased integer not null check (purchased >= 0),
    allocated integer not null check (allocated >= 0),
    eta       date,
    revision  bigint,
    -- Its own column, so that an update that leaves it alone touches no index.
    open      boolean not null generated always as (allocated < purchased) stored,
    constraint never_overallocated check (allocated <= purchased)
) with (fillfactor = 50);

create index batches_open on batches (sku) where open;

-- A line is in one batch or waits (batchref null); the key makes a second one impossible.
create table order_lines (
    orderid  text    not null,
    sku      text    not null references products,
    qty      integer not null check (qty > 0),
    place    bigint  not null check (place > 0),
    batchref text    references batches,
    primary key (orderid, sku)
);

-- The oldest waiting lines of each quantity; the newest lines of a batch.
create index order_lines_waiting on order_lines (sku, qty, place) where batchref is null;
create index order_lines_placed on order_lines (batchref, place) where batchref is not null;

-- Messages that were handled.
create table inbox (
    queue       text        not null,
    message_id  text        not null,
    fingerprint bytea       not null,
    handled_at  timestamptz not null default now(),
    primary key (queue, message_id)
);

-- Events that are committed and not yet published; a row lives for milliseconds.
create table outbox (
    id             bigint      primary key generated always as identity (cache 1),
    event_id       uuid        not null default gen_random_uuid(),
    name           text        not null,
    sku            text        not null,
    sequence       bigint      not null,
    body           text        not null,
    causation_id   text        not null,
    correlation_id text        not null,
    traceparent    text,
    committed_at   timestamptz not null default now()
) with (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 100000,
    autovacuum_vacuum_cost_delay = 0
);

-- The read model, written in the same commit.
create table allocations_view (
    orderid  text    not null,
    sku      text    not null,
    qty      integer not null,
    batchref text,
    primary key (orderid, sku)
);
