-- Who may connect to Haven's database, and the four schemas. Run it in that database as its administrator, before
-- `haven migrate` and again whenever it changes; a second run changes nothing:
--
--     psql --set ON_ERROR_STOP=1 --file roles.sql --dbname haven
--
-- No role has a password here, and without one none can connect: `\password haven_gateway` in psql, passwords.sql beside
-- this file, or deploy/postgresql.py sets it. One PostgreSQL cluster serves one Haven: roles belong to the cluster.
-- What each role may do with each table is in services/migrations/rights.sql, which the migrator applies.

BEGIN;
SELECT pg_advisory_xact_lock(hashtext('haven roles'));

DO $$
DECLARE
    it record;
BEGIN
    FOR it IN
        -- A worker frozen inside a transaction holds the log's lock: the server ends it after ten seconds. A statement
        -- that takes five never comes back in time for anybody. How many connections: four processes of each kind
        -- (services/connections.py says what each may hold) and a quarter more. More processes: more here, and with it
        -- max_connections in postgresql.conf; `haven doctor` says when there are too few.
        SELECT * FROM (VALUES
            ('haven_migrator',   '',         4,  '0',   '4s',  '60s'), -- owns every table, and is no superuser
            ('haven_gateway',    'gateway',  105, '5s', '4s',  '10s'), -- HTTP: appends to the gateway's log, reads what may be seen
            ('haven_projection', 'gateway',  30, '5s',  '4s',  '10s'), -- writes what is seen; says that a key was destroyed
            ('haven_placement',  'placement', 30, '5s', '4s',  '10s'),
            ('haven_capacity',   'capacity', 30, '5s',  '4s',  '10s'),
            ('haven_relay',      '',         30, '5s',  '4s',  '10s'), -- reads the three logs, keeps how far it published
            ('haven_auditor',    'gateway',  4,  '60s', '4s',  '60s'), -- reads the trail and the logs, opens no sealed field
            ('haven_eraser',     'keys',     10,  '5s',  '4s',  '10s'), -- the only one that may destroy a key
            ('haven_notifier',   'gateway',  15,  '5s',  '4s',  '10s')  -- rings people, and sees only that somebody waits
        ) AS roles(name, path, connections, statement_timeout, lock_timeout, idle_timeout)
    LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = it.name) THEN
            EXECUTE format('CREATE ROLE %I', it.name);
        END IF;
        EXECUTE format(
            'ALTER ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS NOINHERIT '
            'CONNECTION LIMIT %s', it.name, it.connections);
        -- Without being named pg_catalog is searched too, and first: nobody's table can stand in for one of its own.
        EXECUTE format('ALTER ROLE %I IN DATABASE %I SET search_path = %L', it.name, current_database(), it.path);
        EXECUTE format('ALTER ROLE %I IN DATABASE %I SET statement_timeout = %L',
            it.name, current_database(), it.statement_timeout);
        EXECUTE format('ALTER ROLE %I IN DATABASE %I SET lock_timeout = %L',
            it.name, current_database(), it.lock_timeout);
        EXECUTE format('ALTER ROLE %I IN DATABASE %I SET idle_in_transaction_session_timeout = %L',
            it.name, current_database(), it.idle_timeout);
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), it.name);
    END LOOP;

    -- TEMPORARY goes too: a temporary table is found before any other, and could stand in for a real one.
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
END
$$;

REVOKE ALL ON SCHEMA public FROM PUBLIC;

SET LOCAL client_min_messages = warning; -- it says of each that is there already that it is
CREATE SCHEMA IF NOT EXISTS gateway AUTHORIZATION haven_migrator;
CREATE SCHEMA IF NOT EXISTS placement AUTHORIZATION haven_migrator;
CREATE SCHEMA IF NOT EXISTS capacity AUTHORIZATION haven_migrator;
CREATE SCHEMA IF NOT EXISTS keys AUTHORIZATION haven_migrator;

COMMIT;
