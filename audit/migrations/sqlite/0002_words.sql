-- What people said about releases and environments: halts, approvals, absolutions, policies, freezes. An approval is said again with
-- each further signature, under the same event id.

CREATE TABLE words (
    event_id         TEXT NOT NULL,
    kind             TEXT NOT NULL,
    env              TEXT NOT NULL,
    app              TEXT,
    author           TEXT,
    occurred_at_ms   INTEGER NOT NULL,
    published_at_ms  INTEGER NOT NULL,
    stored_at_ms     INTEGER NOT NULL,
    stream_sequence  INTEGER NOT NULL,
    subject          TEXT NOT NULL,
    envelope         TEXT NOT NULL,
    body_sha256      TEXT NOT NULL,
    verdict          TEXT NOT NULL,
    signer           TEXT,
    traceparent      TEXT,
    PRIMARY KEY (stream_sequence, published_at_ms, body_sha256)
) STRICT;
CREATE INDEX words_by_time ON words (published_at_ms);
