-- For how many beds each organisation has asked: the same for all gateways.
CREATE TABLE asked_for (
    organisation text PRIMARY KEY,
    country text NOT NULL,
    beds double precision NOT NULL,
    at double precision NOT NULL,
    times_stopped integer NOT NULL,
    stopped_at double precision NOT NULL
);
COMMENT ON TABLE asked_for IS 'For how many beds each organisation has asked, as of a moment in seconds since 1970, and how often it '
    'was stopped.';
