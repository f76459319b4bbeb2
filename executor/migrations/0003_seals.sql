-- SHA-256 over what a row says, written with it: a disk that changes a text, and a hand that does, are noticed when the journal is opened.
-- NULL in rows of before. `releases` needs none: its column `message` is such a sum already.
ALTER TABLE entries ADD COLUMN seal TEXT;
ALTER TABLE committed ADD COLUMN seal TEXT;
ALTER TABLE outbox ADD COLUMN seal TEXT;
ALTER TABLE refusals ADD COLUMN seal TEXT;
ALTER TABLE previews ADD COLUMN seal TEXT;
