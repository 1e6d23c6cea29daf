-- The types of the events that the broker nacks at present, and since when.
alter table relay_state
    add column nacked_events text[] not null default '{}',
    add column nacked_since  timestamptz;
