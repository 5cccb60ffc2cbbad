-- The role and the database of Feast's registry, in which the runs also keep their lock and their ledger.
--
-- Run by a superuser, or a role that may create roles and databases, over TLS (the password goes to the server in
-- clear), as often as you like: it also changes the password. From the environment, so that no command line shows it:
--     FEAST_REGISTRY_PASSWORD=... psql -v ON_ERROR_STOP=1 -d postgres -f deploy/sql/postgres_registry.sql
-- Other names than these: -v role=feast -v database=feast_registry
--
-- The role may make tables in the schema `feast` of that database, and nothing else: `feast apply` makes Feast's there,
-- the first run the ledger. Then FEAST_REGISTRY_URL is postgresql+psycopg://feast:...@host:port/feast_registry
-- What only reads gets the role of postgres_registry_reader.sql.

\getenv password FEAST_REGISTRY_PASSWORD
\if :{?password} \else
do 'begin raise exception ''FEAST_REGISTRY_PASSWORD is not set''; end';
\endif
\if :{?role} \else \set role feast
\endif
\if :{?database} \else \set database feast_registry
\endif

select format('create role %I', :'role')
where not exists (select from pg_roles where rolname = :'role')
\gexec
select format('create database %I', :'database')
where not exists (select from pg_database where datname = :'database')
\gexec

\connect :"database"
begin;

-- each worker of a feature server has a connection, a run two
alter role :"role"
with login nosuperuser nocreatedb nocreaterole noreplication nobypassrls connection limit 50 password :'password';

revoke all on database :"database" from public;
grant connect on database :"database" to :"role";
revoke all on schema public from public;

select 'create schema feast'
where to_regnamespace('feast') is null
\gexec
grant usage, create on schema feast to :"role";
alter role :"role" in database :"database" set search_path = feast;
alter role :"role" in database :"database" set statement_timeout = '1min';

commit;
