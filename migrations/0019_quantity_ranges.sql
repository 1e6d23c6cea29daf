-- Quantities of one size class: up to 2^27 of them, if the quantity is large. The search of the first batch with enough
-- reads each quantity only near the wanted one, then ranges of them, then wider ranges; at most 2^9 of each.
-- A class of number n has quantities of n / 8 + 3 bits, of which four are the same for all of them.
create index batches_by_wide_range
    on batches (sku, size_class, (purchased >> greatest(size_class / 8 - 10, 0)), coalesce(eta, '-infinity'), ref collate "C")
    where open and untouched;
create index batches_by_range
    on batches (sku, size_class, (purchased >> greatest(size_class / 8 - 19, 0)), coalesce(eta, '-infinity'), ref collate "C")
    where open and untouched;
