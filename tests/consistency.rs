//! What must hold of the tables, whatever happened: for the stories and for chaos alike.

/// Rules, each with a query for what offends against it.
pub(crate) const RULES: [(&str, &str); 6] = [
    (
        "a batch holds what its lines hold, and no more than was bought",
        "select ref from batches left join order_lines on batchref = ref group by ref
         having allocated <> coalesce(sum(qty), 0) or allocated not between 0 and purchased",
    ),
    (
        "a product's backorders are its waiting lines",
        "select p.sku from products p left join order_lines l on l.sku = p.sku and l.batchref is null
         group by p.sku having p.backordered <> coalesce(sum(l.qty), 0)",
    ),
    (
        "a line sits in a batch of its own SKU",
        "select l.orderid from order_lines l join batches b on b.ref = l.batchref where b.sku <> l.sku",
    ),
    (
        "a line's product and batch exist",
        "select l.orderid from order_lines l left join products p using (sku) left join batches b on b.ref = l.batchref
         where p.sku is null or (l.batchref is not null and b.ref is null)",
    ),
    (
        "no line waits that would fit",
        "select l.orderid from order_lines l join batches b on b.sku = l.sku
         where l.batchref is null and b.purchased - b.allocated >= l.qty",
    ),
    (
        "the read model tells the truth",
        "select orderid || ' ' || sku from order_lines l full join allocations_view v using (orderid, sku)
         where (l.qty, l.batchref) is distinct from (v.qty, v.batchref)",
    ),
];
