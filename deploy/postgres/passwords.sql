-- Sets the roles' passwords from files, one for each role, for a server that is prepared by psql alone (a container's first
-- start). Run it after roles.sql in the same database:
--
--     psql --set ON_ERROR_STOP=1 --file passwords.sql --dbname haven
--
-- The files are /run/secrets/<role>_password; `--set secrets=<folder>` names another folder. No history file is written, and what is sent stays on the server's own socket; from
-- another machine use deploy/postgresql.py, which never sends a password at all.

\set QUIET on
\unset HISTFILE
\if :{?secrets}
\else
    \set secrets /run/secrets
\endif
SET password_encryption = 'scram-sha-256';

\set file :secrets '/haven_migrator_password'
\set password `cat :file`
ALTER ROLE haven_migrator PASSWORD :'password';
\set file :secrets '/haven_gateway_password'
\set password `cat :file`
ALTER ROLE haven_gateway PASSWORD :'password';
\set file :secrets '/haven_projection_password'
\set password `cat :file`
ALTER ROLE haven_projection PASSWORD :'password';
\set file :secrets '/haven_placement_password'
\set password `cat :file`
ALTER ROLE haven_placement PASSWORD :'password';
\set file :secrets '/haven_capacity_password'
\set password `cat :file`
ALTER ROLE haven_capacity PASSWORD :'password';
\set file :secrets '/haven_relay_password'
\set password `cat :file`
ALTER ROLE haven_relay PASSWORD :'password';
\set file :secrets '/haven_auditor_password'
\set password `cat :file`
ALTER ROLE haven_auditor PASSWORD :'password';
\set file :secrets '/haven_eraser_password'
\set password `cat :file`
ALTER ROLE haven_eraser PASSWORD :'password';
\set file :secrets '/haven_notifier_password'
\set password `cat :file`
ALTER ROLE haven_notifier PASSWORD :'password';
\unset password
