-- Who is signed in at the pages. What is sealed only the cookie opens.

CREATE TABLE page_sessions (
    session_id text PRIMARY KEY,
    person text NOT NULL,
    started_at bigint NOT NULL,
    seen_at bigint NOT NULL,
    ends_at bigint NOT NULL,
    sealed text NOT NULL
);
COMMENT ON TABLE page_sessions IS
    'Sessions of the pages, by a digest of their cookie; what is sealed only the cookie opens. Seconds since 1970.';
CREATE INDEX ix_page_sessions_person ON page_sessions (person);
CREATE INDEX ix_page_sessions_ends_at ON page_sessions (ends_at);
