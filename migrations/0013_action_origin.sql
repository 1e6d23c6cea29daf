-- Who requested an action, as the database knows it: `who` is what the environment of the operator claims. Rows of an earlier
-- version have neither.
alter table failed_actions add column database_user text, add column client_address inet;
alter table failed_actions
    alter column database_user set default session_user,
    alter column client_address set default inet_client_addr();
