-- work_order_facts: what has become of the work orders of assets, and when.
--
-- grain       one row per work order that has an asset
-- completed   where dCMMS left actual_end empty, the last completed task, then the last edit, stand in for it
with

completed_tasks as (
    select
        work_order_id,
        max(completed_at)::timestamptz as completed_at
    from work_order_tasks
    group by work_order_id
)

select
    work_orders.id,
    work_orders.asset_id,
    work_orders.type,
    work_orders.priority,
    work_orders.type in ('corrective', 'emergency') as is_failure,
    work_orders.created_at::timestamptz as created_at,
    work_orders.scheduled_end::timestamptz as scheduled_end,
    case when work_orders.status = 'cancelled' then work_orders.updated_at::timestamptz end as cancelled_at,
    case
        when work_orders.status in ('completed', 'closed')
            then coalesce(
                work_orders.actual_end::timestamptz,
                completed_tasks.completed_at,
                work_orders.updated_at::timestamptz
            )
    end as completed_at
from work_orders
left join completed_tasks on work_orders.id = completed_tasks.work_order_id
where work_orders.asset_id is not null
