-- What held for volumes when they were started, until they are at rest in that pool.

CREATE TABLE started_volume (
    vm TEXT NOT NULL REFERENCES vm (uuid) ON DELETE CASCADE,
    volume TEXT NOT NULL,
    pool TEXT NOT NULL REFERENCES pool (name),
    revisions_to_keep INTEGER NOT NULL,
    access TEXT NOT NULL,
    sharing TEXT NOT NULL,
    ephemeral INTEGER NOT NULL,
    PRIMARY KEY (vm, volume, pool)
) STRICT, WITHOUT ROWID;
CREATE INDEX started_volume_by_pool ON started_volume (pool);
