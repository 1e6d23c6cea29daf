-- The session that is the leader of the relays: it leads as long as it exists under this name. To be leader needs the
-- privilege to update this row; an advisory lock needs none.
alter table relay_state
    add column led_by_pid         integer,
    add column led_by_role        oid,
    add column led_by_application text,
    add column led_since          timestamptz;
