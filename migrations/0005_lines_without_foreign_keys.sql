-- Two lookups for every line that is written, a fifth of the time of a unit of work, to find what its product has just
-- loaded and holds under lock: no line names a product or a batch that the domain did not see, and nothing deletes one.
alter table order_lines drop constraint order_lines_sku_fkey, drop constraint order_lines_batchref_fkey;
