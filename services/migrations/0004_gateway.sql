-- Of what is open there is little, of what is over more every day; the board asks for what is open.
CREATE INDEX ix_requests_open ON requests (opened_at, request_id)
    WHERE (view::jsonb ->> 'stage') NOT IN ('ended', 'refused', 'withdrawn', 'erased');

-- How far back the changes go, too: whoever comes back from before has to read everything again.
CREATE OR REPLACE VIEW last_change AS SELECT max(seq) AS seq, min(seq) AS first FROM changes;
