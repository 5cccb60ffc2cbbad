-- The role that reads Feast's registry: feature servers and the gateway. Who writes it runs code in all of them.
--
-- Run after postgres_registry.sql, in the same way and as often as you like; tables that are made later are included:
--     FEAST_READER_PASSWORD=... psql -v ON_ERROR_STOP=1 -d feast_registry -f deploy/sql/postgres_registry_reader.sql
-- Other names than these: -v reader=feast_reader -v role=feast, and the database by -d
--
-- Feast opens a registry that is complete without writing. One that has no tables yet, or another version's, it would
-- change: with this role it fails then, and `feast apply` by the other role is due.

\getenv password FEAST_READER_PASSWORD
\if :{?password} \else
do 'begin raise exception ''FEAST_READER_PASSWORD is not set''; end';
\endif
\if :{?reader} \else \set reader feast_reader
\endif
\if :{?role} \else \set role feast
\endif

begin;

select format('create role %I', :'reader')
where not exists (select from pg_roles where rolname = :'reader')
\gexec

-- each worker of a feature server or of the gateway has a few connections
alter role :"reader"
with login nosuperuser nocreatedb nocreaterole noreplication nobypassrls connection limit 100 password :'password';

select format('grant connect on database %I to %I', current_database(), :'reader')
\gexec
grant usage on schema feast to :"reader";

-- The tables are the other role's. Whoever made it may be a member of it for a moment, a superuser needs not.
select not pg_has_role(:'role', 'usage') as outsider
\gset
\if :outsider
grant :"role" to current_user;
\endif
grant select on all tables in schema feast to :"reader";
alter default privileges for role :"role" in schema feast grant select on tables to :"reader";
\if :outsider
revoke :"role" from current_user;
\endif

select format('alter role %I in database %I set %s', :'reader', current_database(), setting)
from unnest(array[
    'search_path = feast',
    'default_transaction_read_only = on',
    'statement_timeout = ''1min'''
]) as settings (setting)
\gexec

commit;
