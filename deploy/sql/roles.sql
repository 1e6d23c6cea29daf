-- The roles of a database that the program has alone. Run once by an administrator, in this database, before the first
-- `allocation migrate`:
--
--     psql --set ON_ERROR_STOP=1 --file deploy/sql/roles.sql "$ADMIN_URL"
--
-- These roles cannot log in. Give each login the role that it needs; a login of `migrate` also acts as the owner, so that
-- the tables belong to one role:
--
--     create role shop_migrate login in role allocation_owner;  alter role shop_migrate set role allocation_owner;
--     create role shop login in role allocation_runtime;
--     create role shop_reports login in role allocation_reader;
--
-- Set passwords with `\password shop`, which sends no password in plain text and leaves none in a history.
begin;

do $$
declare
    role text;
begin
    foreach role in array array['allocation_owner', 'allocation_runtime', 'allocation_reader'] loop
        begin
            execute format('create role %I nologin', role);
        exception when duplicate_object or unique_violation then
            null; -- Another database of the server has created it.
        end;
        execute format('grant connect on database %I to %I', current_database(), role);
    end loop;
    -- By default every role of the server may connect, and create temporary tables.
    execute format('revoke all on database %I from public', current_database());
end
$$;

alter schema public owner to allocation_owner;
revoke all on schema public from public;
grant usage on schema public to allocation_runtime, allocation_reader;

commit;
