-- The role that reads dCMMS's PostgreSQL: SELECT on exactly the columns that the features are made of.
--
-- Run by a superuser or the owner of the tables, over TLS (the password goes to the server in clear), as often as you
-- like: it also changes the password. From the environment, so that no command line shows the password:
--     FEATURE_STORE_PASSWORD=... psql -v ON_ERROR_STOP=1 -d dcmms -f deploy/sql/postgres_extraction.sql
-- Other names than these: -v role=feature_store -v schema=public
--
-- postgres_grants.sql, which belongs beside this file, names the columns; it is made from the queries (`make docs`).
-- Where a query reads a new one, `materialize_features.py doctor` names it: run this again then.

\getenv password FEATURE_STORE_PASSWORD
\if :{?password} \else
do 'begin raise exception ''FEATURE_STORE_PASSWORD is not set''; end';
\endif
\if :{?role} \else \set role feature_store
\endif
\if :{?schema} \else \set schema public
\endif

begin;
set local search_path = :"schema";

select format('create role %I', :'role')
where not exists (select from pg_roles where rolname = :'role')
\gexec

-- a run has one connection; a backfill, the doctor and a training set may come on top
alter role :"role"
with login nosuperuser nocreatedb nocreaterole noreplication nobypassrls connection limit 5 password :'password';

-- A run sets its own STATEMENT_TIMEOUT_SECONDS; this is for whoever logs in by hand.
select format('alter role %I in database %I set %s', :'role', current_database(), setting)
from unnest(array[
    'default_transaction_read_only = on',
    'statement_timeout = ''15min''',
    'idle_in_transaction_session_timeout = ''1h''',
    format('search_path = %I', :'schema')
]) as settings (setting)
\gexec

select format('grant connect on database %I to %I', current_database(), :'role')
\gexec
grant usage on schema :"schema" to :"role";

\ir postgres_grants.sql

commit;
