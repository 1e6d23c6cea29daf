-- What processes of the program report of themselves every few seconds.
create table processes (
    id         uuid primary key, -- of one run of the process
    name       text not null,    -- host and process id; in containers not unique
    version    text not null,
    roles      text[] not null,
    started_at timestamptz not null,
    seen_at    timestamptz not null,
    stopped_at timestamptz, -- the end of an orderly stop
    state      jsonb not null
) with (fillfactor = 50); -- each row is updated in place
