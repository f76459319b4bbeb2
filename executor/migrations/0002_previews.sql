-- Previews that were taken and not removed yet: what must go away when its time is over, whatever happens to the daemon in between.
CREATE TABLE previews (
    env        TEXT    NOT NULL,
    app        TEXT    NOT NULL,
    counter    INTEGER NOT NULL,
    event_id   TEXT    NOT NULL,
    -- The newest promotion of it, as JSON; it says when the preview's time is over.
    promotion  TEXT    NOT NULL,
    PRIMARY KEY (env, app)
) STRICT;

-- Of the promotion's event: what is told of a committed release names it.
ALTER TABLE committed ADD COLUMN event_id TEXT;
UPDATE committed SET event_id = (
    SELECT event_id FROM releases
    WHERE releases.env = committed.env AND releases.app = committed.app AND releases.counter = committed.counter
);
