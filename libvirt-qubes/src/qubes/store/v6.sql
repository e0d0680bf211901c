-- The number of the last explicit snapshot of a volume: numbers are never used again.

ALTER TABLE volume ADD COLUMN last_snapshot INTEGER NOT NULL DEFAULT 0 CHECK (last_snapshot >= 0);
