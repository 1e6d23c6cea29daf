-- Events that the broker refused even alone: set aside with the reason, until an operator says to try again.
alter table outbox add column refused text, add column refused_at timestamptz;
create index outbox_refused on outbox (sku) where refused is not null;

-- What the relay has to tell, in one row.
create table relay_state (
    only_row   boolean primary key default true check (only_row),
    -- Events that no queue wanted.
    unroutable bigint  not null default 0
);
insert into relay_state default values;

-- Why a retry could not be published back to its queue, as long as it cannot.
alter table failed_messages add column held_because text;
