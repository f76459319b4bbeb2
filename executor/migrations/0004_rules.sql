-- The newest rules of an environment (its policy, its freezes) that this host has believed, as they were signed: a bus that has lost them
-- opens no gate.
CREATE TABLE rules (
    subject   TEXT NOT NULL PRIMARY KEY,
    -- Of the event.
    event_id  TEXT NOT NULL,
    body      BLOB NOT NULL,
    signature TEXT,
    -- SHA-256 over what the row says.
    seal      TEXT NOT NULL
) STRICT;
