-- alarm_features: which alarms an asset has raised lately, and what such alarms have led to in its tenant before.
--
-- grain       one row per as-of instant and asset that exists then
-- source      PostgreSQL of dCMMS: alerts, assets, work_orders, work_order_tasks
-- parameters  feature_store.as_of: the instants, ISO 8601 with zone, separated by commas; TimeZone: UTC, since
--             the columns without a zone hold UTC. In psql, from this folder:
--                 set timezone = 'UTC'; set feature_store.as_of = '2026-01-01T00:00:00Z';
-- method      what is the same as of every instant is found once; the rest for one instant after the other
-- risk        of a rule that raised n alarms in (as-of - 372 d, as-of - 7 d], k of which a failure of the same asset
--             followed in the 7 d after: (k + 10 p) / (n + 10), with p = (sum of k + 1) / (sum of n + 10) over all
--             rules of the tenant. What followed an alarm is known 7 d later: nothing after the as-of instant is in it
-- owner       ml-platform@dcmms.example

\set instants `cat shared/instants.sql`
\set asset_facts `cat shared/asset_facts.sql`
\set existing_assets `cat shared/existing_assets.sql`
\set work_order_facts `cat shared/work_order_facts.sql`
\set counted_work_orders `cat shared/counted_work_orders.sql`

with

instants as (:instants),

asset_facts as (:asset_facts),

work_order_facts as (:work_order_facts),

counted_work_orders as (:counted_work_orders),

-- as of every instant ----------------------------------------------------------------------------------------

bounds as (
    select
        min(as_of) as first_as_of,
        max(as_of) as last_as_of,
        array_agg(as_of order by as_of) as as_ofs
    from instants
),

-- not materialized: all alarms there ever were would be written to the disk
alarms as not materialized (
    select
        alerts.tenant_id,
        alerts.asset_id,
        alerts.rule_id,
        alerts.severity,
        alerts.triggered_at::timestamptz as triggered_at,
        case when isfinite(alerts.resolved_at) then alerts.resolved_at::timestamptz end as resolved_at
    from alerts
    where alerts.asset_id is not null and isfinite(alerts.triggered_at)
),

recent_alarms as materialized (
    select
        asset_id,
        rule_id,
        severity,
        triggered_at,
        date_trunc('hour', triggered_at) as hour
    from alarms
    where
        triggered_at > (select min(since_7d) from instants)
        and triggered_at <= (select last_as_of from bounds)
),

-- alarms count at the instants from `triggered_from` on, and are open at those before `open_until`
alarms_so_far as (
    select
        alarms.asset_id,
        alarms.severity,
        alarms.triggered_at,
        case when alarms.triggered_at > bounds.first_as_of then alarms.triggered_at else '-infinity' end
            as triggered_from,
        case
            when alarms.resolved_at <= bounds.first_as_of then '-infinity'
            when alarms.resolved_at <= bounds.last_as_of then alarms.resolved_at
            else 'infinity'
        end as open_until
    from alarms
    inner join bounds on alarms.triggered_at <= bounds.last_as_of
),

histories as materialized (
    select
        asset_id,
        triggered_from,
        open_until,
        count(*)::integer as total,
        min(triggered_at) as first_at,
        max(triggered_at) as last_at,
        max(triggered_at) filter (where severity = 'critical') as last_critical_at
    from alarms_so_far
    group by asset_id, triggered_from, open_until
),

-- what came before failures ----------------------------------------------------------------------------------

-- when alarms are followed by a failure: those that always count as a range of ranges, and the few that will be
-- cancelled each with the instant from which it does not count any more
announcing_ranges as (
    select
        asset_id,
        counted_until,
        tstzrange(created_at - interval '168 hours', created_at) as announcing
    from counted_work_orders
    where is_failure and created_at > (select first_as_of - interval '8928 hours' from bounds)
),

lasting_failures as materialized (
    select
        asset_id,
        range_agg(announcing) as announcing
    from announcing_ranges
    where counted_until = 'infinity'
    group by asset_id
),

passing_failures as materialized (
    select
        asset_id,
        array_agg(announcing) as announcing,
        array_agg(counted_until) as counted_until
    from announcing_ranges
    where counted_until < 'infinity'
    group by asset_id
),

-- an alarm counts for its rule at the instants [judged_from, judged_until), as followed at those before
-- `followed_until`; NULL where at none
judged_alarms as (
    select
        alarms.tenant_id,
        alarms.rule_id,
        bounds.as_ofs[1 + width_bucket(alarms.triggered_at + interval '168 hours' - interval '1 us', bounds.as_ofs)]
            as judged_from,
        bounds.as_ofs[1 + width_bucket(alarms.triggered_at + interval '8928 hours' - interval '1 us', bounds.as_ofs)]
            as judged_until,
        case
            when lasting.announcing @> alarms.triggered_at then 'infinity'
            when passing.announcing is not null
                then (
                    select max(failures.counted_until)
                    from unnest(passing.announcing, passing.counted_until) as failures (announcing, counted_until)
                    where failures.announcing @> alarms.triggered_at
                )
        end as followed_until
    from alarms
    cross join bounds
    left join lasting_failures as lasting using (asset_id)
    left join passing_failures as passing using (asset_id)
    where
        alarms.rule_id is not null
        and alarms.triggered_at > bounds.first_as_of - interval '8928 hours'
        and alarms.triggered_at <= bounds.last_as_of - interval '168 hours'
),

rule_histories as materialized (
    select
        tenant_id,
        rule_id,
        judged_from,
        coalesce(judged_until, 'infinity') as judged_until,
        followed_until,
        count(*)::integer as total
    from judged_alarms
    group by tenant_id, rule_id, judged_from, judged_until, followed_until
)

-- as of one instant ------------------------------------------------------------------------------------------

select features.*
from instants
cross join lateral (
    with

    existing_assets as (:existing_assets),

    latest as materialized (
        select *
        from recent_alarms
        where triggered_at > instants.since_7d and triggered_at <= instants.as_of
    ),

    triggered as (
        select
            asset_id,
            count(*) filter (where triggered_at > instants.since_1d) as total_1d,
            count(*) as total_7d,
            count(*) filter (where severity = 'critical' and triggered_at > instants.since_1d) as critical_1d,
            count(*) filter (where severity = 'high' and triggered_at > instants.since_1d) as high_1d,
            count(*) filter (where severity = 'medium' and triggered_at > instants.since_1d) as medium_1d,
            count(*) filter (where severity = 'low' and triggered_at > instants.since_1d) as low_1d,
            count(*) filter (where severity = 'info' and triggered_at > instants.since_1d) as info_1d
        from latest
        group by asset_id
    ),

    hours as (
        select
            asset_id,
            max(total) as most
        from (
            select
                asset_id,
                count(*) as total
            from latest
            group by asset_id, hour
        ) as of_hours
        group by asset_id
    ),

    so_far as (
        select
            asset_id,
            max(last_at) as last_at,
            max(last_critical_at) as last_critical_at,
            sum(total) filter (where open_until > instants.as_of) as open_total,
            min(first_at) filter (where open_until > instants.as_of) as open_since
        from histories
        where triggered_from <= instants.as_of
        group by asset_id
    ),

    judged_rules as materialized (
        select
            tenant_id,
            rule_id,
            sum(total)::double precision as judged,
            coalesce(sum(total) filter (where followed_until > instants.as_of), 0)::double precision as followed
        from rule_histories
        where judged_from <= instants.as_of and judged_until > instants.as_of
        group by tenant_id, rule_id
    ),

    judged_tenants as (
        select
            tenant_id,
            (sum(followed) + 1) / (sum(judged) + 10) as risk
        from judged_rules
        group by tenant_id
    ),

    raised_rules as (
        select
            asset_id,
            rule_id,
            max(triggered_at) > instants.since_1d as is_of_1d
        from latest
        where rule_id is not null
        group by asset_id, rule_id
    ),

    -- numeric: sums of it do not depend on the order of their terms
    harmlessness as (
        select
            raised_rules.asset_id,
            raised_rules.is_of_1d,
            ln(
                1
                - (coalesce(judged_rules.followed, 0) + 10 * coalesce(judged_tenants.risk, 0.1))
                / (coalesce(judged_rules.judged, 0) + 10)
            )::numeric as log_chance
        from raised_rules
        inner join existing_assets using (asset_id)
        left join judged_tenants on existing_assets.tenant_id = judged_tenants.tenant_id
        left join judged_rules
            on existing_assets.tenant_id = judged_rules.tenant_id and raised_rules.rule_id = judged_rules.rule_id
    ),

    risks as (
        select
            asset_id,
            count(*) filter (where is_of_1d) as rules_1d,
            count(*) as rules_7d,
            1 - exp((sum(log_chance) filter (where is_of_1d))::double precision) as risk_1d,
            1 - exp(sum(log_chance)::double precision) as risk_7d
        from harmlessness
        group by asset_id
    )

    select
        instants.as_of as event_timestamp,
        asset_id::text as asset_id,
        -- triggered in the window
        coalesce(triggered.total_1d, 0)::integer as alarms_1d,
        coalesce(triggered.total_7d, 0)::integer as alarms_7d,
        coalesce(triggered.critical_1d, 0)::integer as critical_alarms_1d,
        coalesce(triggered.high_1d, 0)::integer as high_alarms_1d,
        coalesce(triggered.medium_1d, 0)::integer as medium_alarms_1d,
        coalesce(triggered.low_1d, 0)::integer as low_alarms_1d,
        coalesce(triggered.info_1d, 0)::integer as info_alarms_1d,
        coalesce(risks.rules_1d, 0)::integer as distinct_alarm_rules_1d,
        coalesce(risks.rules_7d, 0)::integer as distinct_alarm_rules_7d,
        coalesce(hours.most, 0)::integer as max_alarms_per_hour_7d,
        -- recency; between two instants, days are of 24 hours
        (extract(epoch from instants.as_of - so_far.last_at) / 3600)::real as hours_since_last_alarm,
        (extract(epoch from instants.as_of - so_far.last_critical_at) / 3600)::real as hours_since_last_critical_alarm,
        -- not resolved
        coalesce(so_far.open_total, 0)::integer as open_alarms,
        extract(day from instants.as_of - so_far.open_since)::integer as days_since_oldest_open_alarm,
        -- what such alarms have led to
        coalesce(risks.risk_1d, 0)::real as alarm_rule_risk_1d,
        coalesce(risks.risk_7d, 0)::real as alarm_rule_risk_7d,
        -- the newest fact that this row rests on
        nullif(greatest(so_far.last_at, '0001-01-01'), '0001-01-01') as newest_source_at
    from existing_assets
    left join triggered using (asset_id)
    left join hours using (asset_id)
    left join so_far using (asset_id)
    left join risks using (asset_id)
) as features
