-- The journal of one host. Times are milliseconds since 1970 in UTC.

-- Every promotion that was taken. (env, app, counter) is what makes a deploy happen once.
CREATE TABLE releases (
    env         TEXT    NOT NULL,
    app         TEXT    NOT NULL,
    counter     INTEGER NOT NULL,
    -- Of the promotion's event.
    event_id    TEXT    NOT NULL,
    -- SHA-256 over subject, body and signature: the same message, however often it comes.
    message     TEXT    NOT NULL UNIQUE,
    body        BLOB    NOT NULL,
    signature   TEXT,
    traceparent TEXT,
    -- The deploy span's, once it began: what its outcomes carry, before and after a restart.
    deploy_traceparent TEXT,
    -- 'waiting': not begun. 'running': begun, not ended. 'done': `terminal` says how.
    state       TEXT    NOT NULL CHECK (state IN ('waiting', 'running', 'done')),
    terminal    TEXT,
    received_at INTEGER NOT NULL,
    ended_at    INTEGER,
    PRIMARY KEY (env, app, counter),
    CHECK ((state = 'done') = (terminal IS NOT NULL))
) STRICT;

-- The machine's inputs, in order: replaying them makes the same machine.
CREATE TABLE entries (
    env      TEXT    NOT NULL,
    app      TEXT    NOT NULL,
    counter  INTEGER NOT NULL,
    position INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    input    TEXT    NOT NULL,
    PRIMARY KEY (env, app, counter, position),
    FOREIGN KEY (env, app, counter) REFERENCES releases (env, app, counter) ON DELETE CASCADE
) STRICT;

-- What this host goes back to.
CREATE TABLE committed (
    env          TEXT    NOT NULL,
    app          TEXT    NOT NULL,
    counter      INTEGER NOT NULL,
    promotion    TEXT    NOT NULL,
    bundle       TEXT    NOT NULL,
    committed_at INTEGER NOT NULL,
    PRIMARY KEY (env, app, counter)
) STRICT;

-- Messages that were refused, so that the sweep does not refuse them again each minute.
CREATE TABLE refusals (
    message    TEXT    NOT NULL PRIMARY KEY,
    code       TEXT    NOT NULL,
    refused_at INTEGER NOT NULL
) STRICT;

-- What the bus must be told, in this order.
CREATE TABLE outbox (
    position     INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id     TEXT    NOT NULL UNIQUE,
    subject      TEXT    NOT NULL,
    body         BLOB    NOT NULL,
    signature    TEXT,
    traceparent  TEXT,
    -- The message that is settled with the bus once this event was published.
    settles      TEXT,
    created_at   INTEGER NOT NULL,
    published_at INTEGER
) STRICT;

CREATE INDEX outbox_unpublished ON outbox (position) WHERE published_at IS NULL;
CREATE INDEX outbox_settles ON outbox (settles) WHERE settles IS NOT NULL;
