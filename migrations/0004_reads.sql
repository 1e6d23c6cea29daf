-- Of a product's used-up batches only the last to arrive are shown; this finds them without a look at the others.
create index batches_used_up on batches (sku, eta desc nulls last, ref desc) where not open;
