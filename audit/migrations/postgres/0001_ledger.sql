-- Every promotion, every outcome, and every message that was neither. Times are milliseconds since 1970-01-01 UTC.

CREATE TABLE releases (
    event_id         TEXT PRIMARY KEY,
    env              TEXT NOT NULL,
    app              TEXT NOT NULL,
    counter          BIGINT NOT NULL,
    release_name     TEXT NOT NULL,
    intent           TEXT NOT NULL,
    rollback_to      BIGINT,
    author           TEXT NOT NULL,
    link             TEXT,
    hosts            TEXT NOT NULL,
    expires_at_ms    BIGINT NOT NULL,
    occurred_at_ms   BIGINT NOT NULL,
    published_at_ms  BIGINT NOT NULL,
    stored_at_ms     BIGINT NOT NULL,
    stream_sequence  BIGINT NOT NULL,
    subject          TEXT NOT NULL,
    envelope         TEXT NOT NULL,
    body_sha256      TEXT NOT NULL,
    verdict          TEXT NOT NULL,
    signer           TEXT,
    traceparent      TEXT
);
CREATE INDEX releases_by_app ON releases (env, app, published_at_ms);
CREATE INDEX releases_by_time ON releases (published_at_ms);

CREATE TABLE outcomes (
    event_id         TEXT PRIMARY KEY,
    promotion_id     TEXT NOT NULL,
    env              TEXT NOT NULL,
    app              TEXT NOT NULL,
    host             TEXT NOT NULL,
    counter          BIGINT NOT NULL,
    release_name     TEXT NOT NULL,
    kind             TEXT NOT NULL,
    is_terminal      BIGINT NOT NULL,
    duration_ms      BIGINT,
    message          TEXT NOT NULL,
    reason_code      TEXT,
    reason_message   TEXT,
    occurred_at_ms   BIGINT NOT NULL,
    published_at_ms  BIGINT NOT NULL,
    stored_at_ms     BIGINT NOT NULL,
    stream_sequence  BIGINT NOT NULL,
    subject          TEXT NOT NULL,
    envelope         TEXT NOT NULL,
    body_sha256      TEXT NOT NULL,
    verdict          TEXT NOT NULL,
    signer           TEXT,
    traceparent      TEXT
);
CREATE INDEX outcomes_by_promotion ON outcomes (promotion_id);

-- Messages that could not be read as what their stream is for, whole.
CREATE TABLE rejected (
    stream           TEXT NOT NULL,
    stream_sequence  BIGINT NOT NULL,
    published_at_ms  BIGINT NOT NULL,
    stored_at_ms     BIGINT NOT NULL,
    subject          TEXT NOT NULL,
    reason           TEXT NOT NULL,
    detail           TEXT NOT NULL,
    body             BYTEA NOT NULL,
    body_sha256      TEXT NOT NULL,
    signature        TEXT,
    PRIMARY KEY (stream, stream_sequence, published_at_ms, body_sha256)
);

-- How far the ledger is complete. A stream that was made anew has another creation time and begins at one again.
CREATE TABLE positions (
    stream             TEXT PRIMARY KEY,
    stream_created_ms  BIGINT NOT NULL,
    stream_sequence    BIGINT NOT NULL
);

-- One row: the ledger's own name, which its consumers on the bus carry.
CREATE TABLE ledger (
    single  SMALLINT PRIMARY KEY CHECK (single = 1),
    id      TEXT NOT NULL
);
