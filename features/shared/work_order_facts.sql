-- work_order_facts: what has become of the work orders of assets, and when.
--
-- grain       one row per work order that has an asset and a date of its own
-- missing     an instant that is infinite
-- completed   where dCMMS left actual_end empty, the last task that was completed until the last edit, then that edit,
--             stand in for it: a task that is completed later is no fact about the closing
with

completed_tasks as (
    select
        work_orders.id,
        max(work_order_tasks.completed_at)::timestamptz as completed_at
    from work_order_tasks
    inner join work_orders on work_order_tasks.work_order_id = work_orders.id
    where
        work_orders.status in ('completed', 'closed')
        and work_order_tasks.completed_at <> '-infinity'
        and work_order_tasks.completed_at <= work_orders.updated_at
        and work_orders.updated_at <> 'infinity'
    group by work_orders.id
)

select
    work_orders.id,
    work_orders.asset_id,
    work_orders.type,
    work_orders.priority,
    work_orders.type in ('corrective', 'emergency') as is_failure,
    work_orders.created_at::timestamptz as created_at,
    case when isfinite(work_orders.scheduled_end) then work_orders.scheduled_end::timestamptz end as scheduled_end,
    case
        when work_orders.status = 'cancelled' and isfinite(work_orders.updated_at)
            then work_orders.updated_at::timestamptz
    end as cancelled_at,
    case
        when work_orders.status not in ('completed', 'closed') then null
        when isfinite(work_orders.actual_end) then work_orders.actual_end::timestamptz
        when completed_tasks.completed_at is not null then completed_tasks.completed_at
        when isfinite(work_orders.updated_at) then work_orders.updated_at::timestamptz
    end as completed_at
from work_orders
left join completed_tasks on work_orders.id = completed_tasks.id
where work_orders.asset_id is not null and work_orders.created_at not in ('-infinity', 'infinity')
