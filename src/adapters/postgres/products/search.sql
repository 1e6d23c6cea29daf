-- The stored batches of a product that a search finds.
--
-- The recursive queries skip from one size class to the next, and within the class of the quantity from one purchased
-- quantity to the next, so that the cost does not depend on the number of batches.
--
-- $1 SKU; $2 the first class whose batches all have enough available, and $4 its smallest quantity; $3 the quantity;
-- $5 eta and $6 reference of the batch after which the search begins; $7 the limit
with recursive classes as (
    (select size_class, untouched from batches where sku = $1 and open and size_class >= $2
     order by size_class, untouched limit 1)
    union all
    select next.* from classes cross join lateral (
        select size_class, untouched from batches
        where sku = $1 and open and (size_class, untouched) > (classes.size_class, classes.untouched)
        order by size_class, untouched limit 1
    ) as next
), quantities as (
    (select purchased from batches
     where sku = $1 and open and untouched and purchased >= $3 and purchased < $4::bigint
     order by purchased limit 1)
    union all
    select next.* from quantities cross join lateral (
        select purchased from batches
        where sku = $1 and open and untouched and purchased > quantities.purchased and purchased < $4
        order by purchased limit 1
    ) as next
), found as (
    select of_class.* from classes cross join lateral (
        select ref, ordered, batches.purchased, allocated, eta, revision from batches
        where sku = $1 and open and size_class = classes.size_class and untouched = classes.untouched
          and (coalesce(eta, '-infinity'), ref collate "C") > (coalesce($5::date, '-infinity'), $6 collate "C")
        order by coalesce(eta, '-infinity'), ref collate "C" limit $7
    ) as of_class
    union all
    select of_quantity.* from quantities cross join lateral (
        select ref, ordered, batches.purchased, allocated, eta, revision from batches
        where sku = $1 and open and untouched and batches.purchased = quantities.purchased
          and (coalesce(eta, '-infinity'), ref collate "C") > (coalesce($5::date, '-infinity'), $6 collate "C")
        order by coalesce(eta, '-infinity'), ref collate "C" limit $7
    ) as of_quantity
    union all
    (select ref, ordered, purchased, allocated, eta, revision from batches
     where sku = $1 and open and size_class = $2 - 1 and untouched = false and $3 < $4
       and (coalesce(eta, '-infinity'), ref collate "C") > (coalesce($5::date, '-infinity'), $6 collate "C")
       and purchased - allocated >= $3
     order by coalesce(eta, '-infinity'), ref collate "C" limit $7)
)
select ref as "reference!", ordered as "ordered!", purchased as "purchased!", allocated as "allocated!", eta,
       revision
from found order by eta nulls first, ref collate "C" limit $7
