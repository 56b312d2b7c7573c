CREATE TABLE bed_claims (
    unit_id text NOT NULL,
    bed integer NOT NULL,
    hold_id text NOT NULL,
    PRIMARY KEY (unit_id, bed)
);
COMMENT ON TABLE bed_claims IS 'One row per bed that a hold or a household has: the primary key is the promise.';
CREATE INDEX ix_bed_claims_hold_id ON bed_claims (hold_id);
