-- The namespace that the database belongs to, recorded by the first `migrate` or `run`: at most one row.
create table installation (
    only_row  boolean primary key default true check (only_row),
    namespace text    not null
);
