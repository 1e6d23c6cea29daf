-- The stored batches of a product that a search finds.
--
-- The recursive queries skip from one size class to the next, and within the class of the quantity from one range of
-- purchased quantities to the next: near the quantity each one, then ranges, then wide ranges (migration 0019), so that the
-- cost does not depend on the number of batches.
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
), shifts as (
    -- The numbers of bits by which the quantities of the class are shifted in the indexes of ranges.
    select greatest(($2 - 1) / 8 - 10, 0) as wide, greatest(($2 - 1) / 8 - 19, 0) as narrow
), limits as (
    select $3::integer >> wide as wide, $3 >> narrow as narrow,
           (($3 >> wide)::bigint + 1) << (wide - narrow) as narrow_end,
           (($3 >> narrow)::bigint + 1) << narrow as quantity_end
    from shifts
), wide_ranges as (
    (select purchased >> greatest(size_class / 8 - 10, 0) as number from batches
     where sku = $1 and open and untouched and size_class = $2 - 1 and $3 < $4::bigint
       and (purchased >> greatest(size_class / 8 - 10, 0)) > (select wide from limits)
     order by purchased >> greatest(size_class / 8 - 10, 0) limit 1)
    union all
    select next.* from wide_ranges cross join lateral (
        select purchased >> greatest(size_class / 8 - 10, 0) as number from batches
        where sku = $1 and open and untouched and size_class = $2 - 1 and $3 < $4
          and (purchased >> greatest(size_class / 8 - 10, 0)) > wide_ranges.number
        order by purchased >> greatest(size_class / 8 - 10, 0) limit 1
    ) as next
), ranges as (
    (select purchased >> greatest(size_class / 8 - 19, 0) as number from batches
     where sku = $1 and open and untouched and size_class = $2 - 1 and $3 < $4
       and (purchased >> greatest(size_class / 8 - 19, 0)) > (select narrow from limits)
       and (purchased >> greatest(size_class / 8 - 19, 0)) < (select narrow_end from limits)
     order by purchased >> greatest(size_class / 8 - 19, 0) limit 1)
    union all
    select next.* from ranges cross join lateral (
        select purchased >> greatest(size_class / 8 - 19, 0) as number from batches
        where sku = $1 and open and untouched and size_class = $2 - 1 and $3 < $4
          and (purchased >> greatest(size_class / 8 - 19, 0)) > ranges.number
          and (purchased >> greatest(size_class / 8 - 19, 0)) < (select narrow_end from limits)
        order by purchased >> greatest(size_class / 8 - 19, 0) limit 1
    ) as next
), quantities as (
    (select purchased from batches
     where sku = $1 and open and untouched and purchased >= $3
       and purchased < least($4, (select quantity_end from limits))
     order by purchased limit 1)
    union all
    select next.* from quantities cross join lateral (
        select purchased from batches
        where sku = $1 and open and untouched and purchased > quantities.purchased
          and purchased < least($4, (select quantity_end from limits))
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
    select of_wide_range.* from wide_ranges cross join lateral (
        select ref, ordered, batches.purchased, allocated, eta, revision from batches
        where sku = $1 and open and untouched and size_class = $2 - 1
          and (purchased >> greatest(size_class / 8 - 10, 0)) = wide_ranges.number
          and (coalesce(eta, '-infinity'), ref collate "C") > (coalesce($5::date, '-infinity'), $6 collate "C")
        order by coalesce(eta, '-infinity'), ref collate "C" limit $7
    ) as of_wide_range
    union all
    select of_range.* from ranges cross join lateral (
        select ref, ordered, batches.purchased, allocated, eta, revision from batches
        where sku = $1 and open and untouched and size_class = $2 - 1
          and (purchased >> greatest(size_class / 8 - 19, 0)) = ranges.number
          and (coalesce(eta, '-infinity'), ref collate "C") > (coalesce($5::date, '-infinity'), $6 collate "C")
        order by coalesce(eta, '-infinity'), ref collate "C" limit $7
    ) as of_range
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
