-- One `allocate` per transaction, as a pgbench script: the statements of src/adapters/postgres.
\set number :number + 1
\set product random(1, 1000)
begin;
insert into inbox (queue, message_id, fingerprint)
    select 'orders', * from unnest(array['pgbench-' || :client_id::text || '-' || :number::text]::text[],
                                   array[decode(repeat('ab', 32), 'hex')]::bytea[])
    on conflict do nothing
    returning message_id \gset
select sku, version, event_sequence, last_place, backordered
    from products where sku = any(array['SKU-' || :product::text]::text[]) order by sku for no key update \gset
select l.orderid, l.sku, l.qty, l.place, l.batchref
    from unnest(array[:sku]::text[], array[:message_id]::text[]) as asked (sku, orderid)
    join order_lines l on l.orderid = asked.orderid and l.sku = asked.sku;
select ref, purchased, allocated, ordered, eta, revision
    from batches where sku = any(array[:sku]::text[]) and open
    union all
    select ref, purchased, allocated, ordered, eta, revision
    from batches where ref = any(array[]::text[]) and allocated >= purchased \gset
\set event_sequence :event_sequence + 1
\set last_place :last_place + 1
\set allocated :allocated + 1
update products as p
    set version = p.version + 1, event_sequence = new.event_sequence, last_place = new.last_place,
        backordered = new.backordered
    from unnest(array[:sku]::text[], array[:event_sequence]::bigint[], array[:last_place]::bigint[],
                array[:backordered]::bigint[], array[:version]::bigint[])
         as new (sku, event_sequence, last_place, backordered, version)
    where p.sku = new.sku and p.version = new.version;
update batches as b
    set purchased = new.purchased, allocated = new.allocated, revision = new.revision
    from unnest(array[:ref]::text[], array[:purchased]::integer[], array[:allocated]::integer[],
                array[null]::bigint[])
         as new (ref, purchased, allocated, revision)
    where b.ref = new.ref;
insert into order_lines (sku, orderid, batchref, qty, place)
    select * from unnest(array[:sku]::text[], array[:message_id]::text[], array[:ref]::text[], array[1]::integer[],
                         array[:last_place]::bigint[]);
insert into allocations_view (orderid, sku, qty, batchref)
    select * from unnest(array[:message_id]::text[], array[:sku]::text[], array[1]::integer[], array[:ref]::text[])
    on conflict (orderid, sku) do update set qty = excluded.qty, batchref = excluded.batchref;
insert into outbox (name, sku, sequence, body, causation_id, correlation_id, traceparent)
    select * from unnest(array['allocated']::text[], array[:sku]::text[], array[:event_sequence]::bigint[],
                         array['{"orderid": "pgbench", "sku": "SKU", "qty": 1, "batchref": "batch"}']::text[],
                         array[:message_id]::text[], array[:message_id]::text[], array[null]::text[]);
commit;
