-- Of one volume of a VM that is removed, something may lie in more than one pool.

CREATE TABLE pending_volume_8 (
    pending INTEGER NOT NULL REFERENCES pending (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    volume TEXT NOT NULL,
    pool TEXT NOT NULL REFERENCES pool (name),
    vid TEXT NOT NULL,
    progress TEXT NOT NULL,
    PRIMARY KEY (pending, volume, pool)
) STRICT, WITHOUT ROWID;
INSERT INTO pending_volume_8 SELECT pending, position, volume, pool, vid, progress FROM pending_volume;
DROP TABLE pending_volume;
ALTER TABLE pending_volume_8 RENAME TO pending_volume;
CREATE INDEX pending_volume_by_pool ON pending_volume (pool);
