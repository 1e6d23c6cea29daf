-- The privileges on the tables. Run after every `allocation migrate`, with the same login:
--
--     psql --set ON_ERROR_STOP=1 --file deploy/sql/grants.sql "$DATABASE_URL"
begin;

revoke all on all tables in schema public from allocation_runtime, allocation_reader;
revoke all on all sequences in schema public from allocation_runtime, allocation_reader;

-- Whoever runs the program.
grant select, insert, update on products, batches to allocation_runtime;
grant select, insert, update, delete
    on order_lines, allocations_view, outbox, failed_messages, message_starts, processes,
       failed_message_totals to allocation_runtime;
grant select, insert, delete on inbox, published_events to allocation_runtime;
grant select, delete on failed_message_changes to allocation_runtime;
grant select, update on relay_state to allocation_runtime;
grant select, insert on installation to allocation_runtime;
grant select on _sqlx_migrations to allocation_runtime;
grant select on sequence outbox_id_seq to allocation_runtime;
-- What failed and what operators did cannot be rewritten. Time, role and address of an action are set by the server.
grant select, insert on failed_attempts to allocation_runtime;
grant select, insert (failed_message_id, who, what, why, previous_body) on failed_actions to allocation_runtime;

-- Reports, and the commands that only show something: orders, trace, dead-letters list, groups, show and export.
grant select on all tables in schema public to allocation_reader;
grant select on all sequences in schema public to allocation_reader;

revoke execute on all functions in schema public from public;
grant execute on all functions in schema public to allocation_runtime, allocation_reader;

commit;
