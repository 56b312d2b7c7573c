-- Few asks wait for an answer, of the others there are more every day: the board, the call list and the inbox of a shelter look for
-- either, and none of them walks through all there ever were.
CREATE INDEX ix_asks_open ON asks (request_id) WHERE state = 'open';
CREATE INDEX ix_asks_answered ON asks (shelter_id) WHERE state <> 'open';
