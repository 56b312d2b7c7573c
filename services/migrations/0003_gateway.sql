-- Who waits for whom, and whom Haven has rung for it (services/gateway/waits.py, services/notifications).

CREATE TABLE waits (
    wait_id text PRIMARY KEY,
    kind text NOT NULL,
    party text NOT NULL,
    pressing integer NOT NULL,
    since text NOT NULL,
    escalates_to text NOT NULL
);
COMMENT ON TABLE waits IS
    'Who waits for whom (services/gateway/waits.py): all that whoever rings people may read.';

CREATE TABLE rings (
    wait_id text NOT NULL,
    number integer NOT NULL,
    organisation text NOT NULL,
    channel text NOT NULL,
    message text NOT NULL,
    pressing integer NOT NULL,
    tries integer NOT NULL,
    next_try_at text NOT NULL,
    claimed_until text,
    sent_at text,
    failed_at text,
    PRIMARY KEY (wait_id, number, organisation, channel)
);
COMMENT ON TABLE rings IS 'What is to be sent to which channel of which organisation, and what became of it. An empty channel: '
    'there is none to ring.';
CREATE INDEX ix_rings_next_try_at ON rings (next_try_at);

CREATE TABLE ringing (
    what text PRIMARY KEY,
    at text NOT NULL
);
COMMENT ON TABLE ringing IS 'looked_at: when somebody last looked whom to ring. paused: nobody is rung, because the read model '
    'is not whole.';

-- What waits now is in no row yet, and the views do not say since when: nobody is rung before `haven rebuild` has filled them.
ALTER TABLE requests NO FORCE ROW LEVEL SECURITY; -- or whoever migrates sees no row; rights.sql brings it back
INSERT INTO ringing (what, at) SELECT 'paused', '' WHERE EXISTS (SELECT FROM requests);
