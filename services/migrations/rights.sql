-- Who may do what, and see which row: applied anew by every `haven migrate`, so that what was changed by hand does not last.
-- Whatever is not granted here is refused. Nobody may update or delete an event, or create anything.

DO $$
DECLARE
    role text;
    it record;
BEGIN
    FOREACH role IN ARRAY ARRAY['PUBLIC', 'haven_gateway', 'haven_projection', 'haven_placement', 'haven_capacity',
                                'haven_relay', 'haven_auditor', 'haven_eraser', 'haven_notifier']
    LOOP
        EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA gateway, placement, capacity, keys FROM %s', role);
        EXECUTE format('REVOKE ALL ON ALL SEQUENCES IN SCHEMA gateway, placement, capacity, keys FROM %s', role);
        EXECUTE format('REVOKE ALL ON ALL FUNCTIONS IN SCHEMA gateway, placement, capacity, keys FROM %s', role);
        EXECUTE format('REVOKE ALL ON SCHEMA gateway, placement, capacity, keys FROM %s', role);
    END LOOP;
    FOR it IN SELECT policyname, schemaname, tablename FROM pg_policies
              WHERE schemaname IN ('gateway', 'placement', 'capacity', 'keys')
    LOOP
        EXECUTE format('DROP POLICY %I ON %I.%I', it.policyname, it.schemaname, it.tablename);
    END LOOP;
END
$$;

GRANT USAGE ON SCHEMA gateway TO haven_gateway, haven_projection, haven_relay, haven_auditor, haven_notifier;
GRANT USAGE ON SCHEMA placement TO haven_placement, haven_projection, haven_relay, haven_auditor;
GRANT USAGE ON SCHEMA capacity TO haven_capacity, haven_projection, haven_relay, haven_auditor;
GRANT USAGE ON SCHEMA keys TO haven_gateway, haven_eraser;

GRANT SELECT ON gateway.schema_version TO haven_gateway, haven_projection, haven_relay, haven_auditor, haven_notifier;
GRANT SELECT ON placement.schema_version TO haven_placement, haven_relay, haven_auditor;
GRANT SELECT ON capacity.schema_version TO haven_capacity, haven_relay, haven_auditor;
GRANT SELECT ON keys.schema_version TO haven_gateway, haven_eraser;

-- The logs. Column by column, without the position: OVERRIDING SYSTEM VALUE could put an event into the past.
GRANT INSERT (id, stream, version, type, record) ON gateway.events TO haven_gateway, haven_projection;
GRANT INSERT (id, stream, version, type, record) ON placement.events TO haven_placement;
GRANT INSERT (id, stream, version, type, record) ON capacity.events TO haven_capacity;
-- The projection builds the read model anew from all three.
GRANT SELECT ON gateway.events TO haven_gateway, haven_projection, haven_relay, haven_auditor;
GRANT SELECT ON placement.events TO haven_placement, haven_projection, haven_relay, haven_auditor;
GRANT SELECT ON capacity.events TO haven_capacity, haven_projection, haven_relay, haven_auditor;

-- What each consumer remembers.
GRANT SELECT, INSERT, UPDATE, DELETE ON gateway.inbox, gateway.parked, gateway.cursors, gateway.dead_letters
    TO haven_projection;
GRANT SELECT, INSERT, UPDATE, DELETE ON placement.inbox, placement.parked, placement.cursors, placement.dead_letters,
    placement.timers, placement.unit_views, placement.waiting_requests TO haven_placement;
GRANT SELECT, INSERT, UPDATE, DELETE ON capacity.inbox, capacity.parked, capacity.cursors, capacity.dead_letters,
    capacity.timers TO haven_capacity;
GRANT SELECT, INSERT, DELETE ON capacity.bed_claims TO haven_capacity; -- a claim is given back, never moved
GRANT SELECT ON gateway.cursors TO haven_gateway; -- how far the projection is

-- Sessions of the pages: nobody else has to do with them.
GRANT SELECT, INSERT, UPDATE (seen_at, sealed), DELETE ON gateway.page_sessions TO haven_gateway;

-- The relay.
GRANT SELECT, INSERT, UPDATE, DELETE ON gateway.relay_cursors, placement.relay_cursors, capacity.relay_cursors
    TO haven_relay;
GRANT SELECT, UPDATE (published_at) ON gateway.dead_letters, placement.dead_letters, capacity.dead_letters TO haven_relay;

-- How many dead letters were given up, of which service and why, and nothing else of them: for the coordinators. A view of the
-- owner's, so that the gateway needs no right on the tables, or in the schemas, of others.
CREATE OR REPLACE VIEW gateway.set_aside AS
    SELECT service, reason, count(*) AS count, min(given_up_at) AS since FROM (
        SELECT 'gateway' AS service, reason, given_up_at FROM gateway.dead_letters
        UNION ALL SELECT 'placement', reason, given_up_at FROM placement.dead_letters
        UNION ALL SELECT 'capacity', reason, given_up_at FROM capacity.dead_letters
    ) AS letters WHERE given_up_at IS NOT NULL GROUP BY service, reason;
GRANT SELECT ON gateway.set_aside TO haven_gateway;

-- Whoever rings people has a way out of the building. It learns who waits for whom and never about what: no event, no request,
-- no unit. The gateway sees whether people are rung and which asks reached nobody, not whom else it is for.
GRANT SELECT, INSERT, UPDATE, DELETE ON gateway.waits TO haven_projection;
GRANT SELECT ON gateway.waits TO haven_notifier;
GRANT SELECT, INSERT, UPDATE, DELETE ON gateway.rings TO haven_notifier;
GRANT SELECT, INSERT, UPDATE (at) ON gateway.ringing TO haven_notifier;
GRANT SELECT, INSERT, DELETE ON gateway.ringing TO haven_projection; -- pauses it while the read model is not whole
CREATE OR REPLACE VIEW gateway.unrung AS
    SELECT u.wait_id FROM (
        SELECT wait_id, max(failed_at) AS since FROM gateway.rings WHERE number < 3
        GROUP BY wait_id HAVING count(sent_at) = 0 AND count(failed_at) = count(*)
    ) AS u JOIN gateway.waits w ON w.wait_id = u.wait_id WHERE w.kind = 'ask';
GRANT SELECT ON gateway.unrung, gateway.ringing TO haven_gateway;

-- The gateway's intents: a fingerprint of what was sent goes with the household.
GRANT SELECT, INSERT, DELETE ON gateway.idempotency TO haven_gateway;
GRANT SELECT, DELETE ON gateway.idempotency TO haven_projection;

-- Tokens that are refused and proofs that were used, for all gateways: nothing is updated, so nothing ends before its time.
GRANT SELECT, INSERT, DELETE ON gateway.revocations, gateway.used_proofs TO haven_gateway;
GRANT SELECT, INSERT, UPDATE (beds, at, times_stopped, stopped_at) ON gateway.asked_for TO haven_gateway; -- how much was asked for

-- The read model: one writer, and readers who see what `haven.parties` of their transaction says.
GRANT SELECT, INSERT, UPDATE, DELETE ON gateway.requests, gateway.request_parties, gateway.asks, gateway.units, gateway.trail,
    gateway.trail_subjects, gateway.changes TO haven_projection;
GRANT SELECT ON gateway.requests, gateway.request_parties, gateway.asks, gateway.units, gateway.trail,
    gateway.trail_subjects, gateway.changes, gateway.last_change TO haven_gateway;
-- Of what is counted of each request the gateway has sums alone: a view of the owner's, which adds up every row.
GRANT SELECT, INSERT, UPDATE, DELETE ON gateway.demand TO haven_projection;
GRANT SELECT ON gateway.demand_sums TO haven_gateway;
GRANT SELECT ON gateway.trail, gateway.trail_subjects TO haven_auditor;
GRANT EXECUTE ON FUNCTION gateway.parties() TO haven_gateway;

DO $$
DECLARE
    it text;
BEGIN
    FOREACH it IN ARRAY ARRAY['requests', 'request_parties', 'asks', 'units', 'trail', 'trail_subjects', 'changes', 'demand']
    LOOP
        EXECUTE format('ALTER TABLE gateway.%I ENABLE ROW LEVEL SECURITY', it);
        EXECUTE format('ALTER TABLE gateway.%I FORCE ROW LEVEL SECURITY', it); -- or it would not hold for the owner
        EXECUTE format('CREATE POLICY written ON gateway.%I TO haven_projection USING (true) WITH CHECK (true)', it);
    END LOOP;
END
$$;

-- Every other policy asks this one who the reader is: within a policy its rows are the reader's own.
CREATE POLICY known ON gateway.request_parties FOR SELECT TO haven_gateway
    USING (party = ANY ((SELECT gateway.parties())::text[]));

CREATE POLICY known ON gateway.requests FOR SELECT TO haven_gateway
    USING (EXISTS (SELECT FROM gateway.request_parties p WHERE p.request_id = requests.request_id));

-- A shelter sees what it is asked, a coordinator what is asked for requests it may know.
CREATE POLICY known ON gateway.asks FOR SELECT TO haven_gateway
    USING ('shelter:' || shelter_id = ANY ((SELECT gateway.parties())::text[])
        OR EXISTS (SELECT FROM gateway.request_parties p
                   WHERE p.request_id = asks.request_id AND p.party LIKE 'coordinator:%'));

-- A shelter's own, a coordinator's country's; `availability` is the board of free beds, made from every unit.
CREATE POLICY known ON gateway.units FOR SELECT TO haven_gateway
    USING ('availability' = ANY ((SELECT gateway.parties())::text[])
        OR 'shelter:' || shelter_id = ANY ((SELECT gateway.parties())::text[])
        OR 'coordinator:' || (view::jsonb ->> 'country') = ANY ((SELECT gateway.parties())::text[]));

CREATE POLICY known ON gateway.trail_subjects FOR SELECT TO haven_gateway
    USING ('auditor' = ANY ((SELECT gateway.parties())::text[])
        OR EXISTS (SELECT FROM gateway.request_parties p WHERE p.request_id = trail_subjects.case_id));

-- `command:<id>`: the answer to one's own command, also when it put the request out of one's sight. Such an id cannot be
-- guessed.
CREATE POLICY known ON gateway.trail FOR SELECT TO haven_gateway
    USING ('auditor' = ANY ((SELECT gateway.parties())::text[])
        OR 'command:' || causation_id = ANY ((SELECT gateway.parties())::text[])
        OR EXISTS (SELECT FROM gateway.request_parties p WHERE p.request_id = trail.case_id)
        OR EXISTS (SELECT FROM gateway.trail_subjects s WHERE s.event_id = trail.event_id));

-- Every country's free beds are on a coordinator's board.
CREATE POLICY known ON gateway.changes FOR SELECT TO haven_gateway
    USING (jsonb_exists_any(parties::jsonb, (SELECT gateway.parties())::text[])
        OR kind = 'unit' AND array_to_string((SELECT gateway.parties())::text[], ',') ~ '(^|,)coordinator:');

CREATE POLICY read ON gateway.trail FOR SELECT TO haven_auditor USING (true);
CREATE POLICY read ON gateway.trail_subjects FOR SELECT TO haven_auditor USING (true);
CREATE POLICY counted ON gateway.demand FOR SELECT TO haven_migrator USING (true); -- for the view demand_sums, its own
CREATE POLICY counted ON gateway.changes FOR SELECT TO haven_migrator USING (true); -- for the view last_change, its own

-- Keys are made and read by the gateway and destroyed by the eraser alone. What is destroyed stays destroyed.
GRANT SELECT, INSERT (key_id, subject, wrapped_by, wrapped, created_at) ON keys.data_keys TO haven_gateway;
GRANT SELECT, INSERT (key_id, subject, created_at, destroyed_at), UPDATE (wrapped, wrapped_by, destroyed_at)
    ON keys.data_keys TO haven_eraser;
ALTER TABLE keys.data_keys ENABLE ROW LEVEL SECURITY;
CREATE POLICY read ON keys.data_keys FOR SELECT TO haven_gateway, haven_eraser USING (true);
CREATE POLICY made ON keys.data_keys FOR INSERT TO haven_gateway, haven_eraser WITH CHECK (true);
CREATE POLICY destroyed_once ON keys.data_keys FOR UPDATE TO haven_eraser USING (destroyed_at IS NULL) WITH CHECK (true);
