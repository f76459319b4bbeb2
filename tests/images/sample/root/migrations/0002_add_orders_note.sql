-- Nullable, so that version 1 can go on writing orders without it.
ALTER TABLE orders ADD COLUMN note text;
