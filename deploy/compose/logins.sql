-- Executed once, after deploy/sql/roles.sql, when the volume of the database is created. The passwords come from the
-- environment of the container, so that none is on a command line.
\getenv owner_password POSTGRES_OWNER_PASSWORD
\getenv runtime_password POSTGRES_RUNTIME_PASSWORD
create role allocation_migrate login password :'owner_password' in role allocation_owner;
alter role allocation_migrate set role allocation_owner;
create role allocation login password :'runtime_password' in role allocation_runtime;
