-- counted_work_orders: the facts of the work orders that count at one of the instants at least, and at which.
--
-- grain       one row per work order
-- needs       instants, work_order_facts
-- counted     at the instants [counted_from, counted_until), and as completed at [completed_from, ...). What is the
--             same at all instants is so from -infinity, until infinity: most work orders of an asset can be summed up
--             by these three before they meet the instants
with

bounds as (
    select
        min(as_of) as first_as_of,
        max(as_of) as last_as_of
    from instants
)

select
    facts.id,
    facts.asset_id,
    facts.type,
    facts.priority,
    facts.is_failure,
    facts.created_at,
    facts.scheduled_end,
    facts.cancelled_at,
    case when facts.completed_at <= bounds.last_as_of then facts.completed_at end as completed_at,
    case when facts.created_at > bounds.first_as_of then facts.created_at else '-infinity' end as counted_from,
    case when facts.cancelled_at <= bounds.last_as_of then facts.cancelled_at else 'infinity' end as counted_until,
    case
        when facts.completed_at > bounds.first_as_of and facts.completed_at <= bounds.last_as_of
            then facts.completed_at
        else '-infinity'
    end as completed_from
from work_order_facts as facts
inner join bounds on facts.created_at <= bounds.last_as_of
where facts.cancelled_at is null or facts.cancelled_at > bounds.first_as_of
