-- Keys of households, each wrapped by a key that is in no database (events/sealing.py).

CREATE TABLE data_keys (
    key_id text PRIMARY KEY,
    subject text NOT NULL,
    wrapped_by text,
    wrapped bytea,
    created_at text NOT NULL,
    destroyed_at text,
    CONSTRAINT one_key_per_subject UNIQUE (subject),
    CONSTRAINT destroyed_means_no_key_material CHECK (
        (destroyed_at IS NULL) = (wrapped IS NOT NULL) AND (wrapped IS NULL) = (wrapped_by IS NULL)
    )
);
