-- In each of the schemas gateway, placement and capacity: a service's log and what it remembers of others'.

CREATE TABLE events (
    position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text NOT NULL,
    stream text NOT NULL,
    version integer NOT NULL,
    type text NOT NULL,
    record text NOT NULL,
    CONSTRAINT one_event_per_stream_version UNIQUE (stream, version),
    CONSTRAINT one_event_per_id UNIQUE (id),
    CONSTRAINT versions_start_at_one CHECK (version > 0)
);

CREATE TABLE inbox (
    consumer text NOT NULL,
    source text NOT NULL,
    stream text NOT NULL,
    version integer NOT NULL,
    event_id text NOT NULL,
    PRIMARY KEY (consumer, source, stream)
);

CREATE TABLE parked (
    consumer text NOT NULL,
    source text NOT NULL,
    stream text NOT NULL,
    version integer NOT NULL,
    reason text NOT NULL,
    record text NOT NULL,
    PRIMARY KEY (consumer, source, stream, version)
);

CREATE TABLE cursors (
    consumer text NOT NULL,
    source text NOT NULL,
    position bigint NOT NULL,
    event_id text NOT NULL,
    PRIMARY KEY (consumer, source)
);

CREATE TABLE timers (
    stream text PRIMARY KEY,
    due_at text NOT NULL
);
CREATE INDEX ix_timers_due_at ON timers (due_at);

CREATE TABLE relay_cursors (
    topic text PRIMARY KEY,
    position bigint NOT NULL,
    event_id text NOT NULL
);

CREATE TABLE dead_letters (
    id text PRIMARY KEY,
    consumer text NOT NULL,
    topic text NOT NULL,
    partition integer NOT NULL,
    position bigint NOT NULL,
    source text NOT NULL,
    stream text NOT NULL,
    version integer NOT NULL,
    event_id text NOT NULL,
    reason text NOT NULL,
    error text NOT NULL,
    tries integer NOT NULL,
    first_at text NOT NULL,
    retry_at text,
    given_up_at text,
    published_at text
);
COMMENT ON TABLE dead_letters IS 'retry_at set: tried again by itself. given_up_at set: a person has to look.';
CREATE INDEX ix_dead_letters_retry_at ON dead_letters (retry_at);
