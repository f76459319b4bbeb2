-- The same text serves SQLite and PostgreSQL. Times are milliseconds since 1970; envelopes are DSSE as JSON.
CREATE TABLE releases (
    event_id        TEXT PRIMARY KEY,
    env             TEXT NOT NULL,
    app             TEXT NOT NULL,
    counter         BIGINT NOT NULL,
    release         TEXT NOT NULL,
    -- promote, or rollback
    intent          TEXT NOT NULL,
    author          TEXT NOT NULL,
    at_ms           BIGINT NOT NULL,
    -- trusted, untrusted, or unchecked
    signature       TEXT NOT NULL,
    stream_sequence BIGINT NOT NULL,
    envelope        TEXT NOT NULL
);

CREATE INDEX releases_by_time ON releases (env, app, at_ms);

CREATE TABLE outcomes (
    event_id        TEXT PRIMARY KEY,
    promotion       TEXT NOT NULL,
    env             TEXT NOT NULL,
    app             TEXT NOT NULL,
    host            TEXT NOT NULL,
    counter         BIGINT NOT NULL,
    release         TEXT NOT NULL,
    kind            TEXT NOT NULL,
    terminal        BIGINT NOT NULL,
    duration_ms     BIGINT,
    message         TEXT NOT NULL,
    reason          TEXT,
    at_ms           BIGINT NOT NULL,
    signature       TEXT NOT NULL,
    stream_sequence BIGINT NOT NULL,
    envelope        TEXT NOT NULL
);

CREATE INDEX outcomes_by_promotion ON outcomes (promotion, terminal);

-- What could not be read as an event: kept whole, never lost, and no reason to stop.
CREATE TABLE rejected (
    stream          TEXT NOT NULL,
    stream_sequence BIGINT NOT NULL,
    at_ms           BIGINT NOT NULL,
    subject         TEXT NOT NULL,
    why             TEXT NOT NULL,
    envelope        TEXT NOT NULL,
    PRIMARY KEY (stream, stream_sequence, at_ms)
);
