CREATE TABLE unit_views (
    unit_id text PRIMARY KEY,
    version integer NOT NULL,
    facts text NOT NULL
);

CREATE TABLE waiting_requests (
    stream text PRIMARY KEY,
    urgent integer NOT NULL,
    opened_at text NOT NULL
);
COMMENT ON TABLE waiting_requests IS
    'Requests with an unmet need: woken when a bed changes anywhere, urgent ones first, then who waits longest.';
