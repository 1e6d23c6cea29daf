//! Rules that the tables always satisfy, for the integration tests and the chaos tests.

/// Rules, each with a query that returns violations.
pub(crate) const RULES: [(&str, &str); 6] = [
    (
        "the allocated quantity of a batch is the sum of its lines and at most the purchased quantity",
        "select ref from batches left join order_lines on batchref = ref group by ref
         having allocated <> coalesce(sum(qty), 0) or allocated not between 0 and purchased",
    ),
    (
        "the backordered quantity of a product is the sum of its lines without a batch",
        "select p.sku from products p left join order_lines l on l.sku = p.sku and l.batchref is null
         group by p.sku having p.backordered <> coalesce(sum(l.qty), 0)",
    ),
    (
        "a line and its batch have the same SKU",
        "select l.orderid from order_lines l join batches b on b.ref = l.batchref where b.sku <> l.sku",
    ),
    (
        "the product and the batch of a line exist",
        "select l.orderid from order_lines l left join products p using (sku) left join batches b on b.ref = l.batchref
         where p.sku is null or (l.batchref is not null and b.ref is null)",
    ),
    (
        "no backordered line fits into a batch",
        "select l.orderid from order_lines l join batches b on b.sku = l.sku
         where l.batchref is null and b.purchased - b.allocated >= l.qty",
    ),
    (
        "the read model equals the lines",
        "select orderid || ' ' || sku from order_lines l full join allocations_view v using (orderid, sku)
         where (l.qty, l.batchref) is distinct from (v.qty, v.batchref)",
    ),
];
