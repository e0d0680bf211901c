-- The first schema. A file here is never changed once it was released: the next version gets its own.
-- Values that refer to something are columns with a foreign key; everything else is text in one form.

CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE label (
    idx INTEGER PRIMARY KEY CHECK (idx > 0),
    name TEXT NOT NULL UNIQUE,
    colour TEXT NOT NULL
) STRICT;

CREATE TABLE pool (
    name TEXT PRIMARY KEY,
    driver TEXT NOT NULL,
    position INTEGER NOT NULL UNIQUE
) STRICT;

CREATE TABLE pool_option (
    pool TEXT NOT NULL REFERENCES pool (name) ON DELETE CASCADE,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (pool, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE vm (
    uuid TEXT PRIMARY KEY,
    qid INTEGER NOT NULL UNIQUE,
    name TEXT NOT NULL UNIQUE,
    class TEXT NOT NULL,
    label INTEGER NOT NULL REFERENCES label (idx)
) STRICT;
CREATE INDEX vm_by_label ON vm (label);

-- What was set explicitly and refers to nothing.
CREATE TABLE vm_property (
    vm TEXT NOT NULL REFERENCES vm (uuid) ON DELETE CASCADE,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (vm, name)
) STRICT, WITHOUT ROWID;

-- What was set explicitly and refers to a VM; NULL is an explicit none.
CREATE TABLE vm_reference (
    vm TEXT NOT NULL REFERENCES vm (uuid) ON DELETE CASCADE,
    name TEXT NOT NULL,
    target TEXT REFERENCES vm (uuid),
    PRIMARY KEY (vm, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX vm_reference_by_target ON vm_reference (target);

CREATE TABLE volume (
    vm TEXT NOT NULL REFERENCES vm (uuid) ON DELETE CASCADE,
    name TEXT NOT NULL,
    position INTEGER NOT NULL,
    pool TEXT NOT NULL REFERENCES pool (name),
    vid TEXT,
    kind TEXT NOT NULL,
    size INTEGER,
    access TEXT NOT NULL,
    revisions_to_keep INTEGER,
    ephemeral INTEGER,
    PRIMARY KEY (vm, name),
    UNIQUE (pool, vid)
) STRICT, WITHOUT ROWID;

CREATE TABLE tag (
    vm TEXT NOT NULL REFERENCES vm (uuid) ON DELETE CASCADE,
    tag TEXT NOT NULL,
    PRIMARY KEY (vm, tag)
) STRICT, WITHOUT ROWID;

-- position: the order of insertion, in which they are listed.
CREATE TABLE feature (
    vm TEXT NOT NULL REFERENCES vm (uuid) ON DELETE CASCADE,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (vm, name)
) STRICT, WITHOUT ROWID;

-- Global properties: in value, or as a reference; all three NULL is an explicit none.
CREATE TABLE global (
    name TEXT PRIMARY KEY,
    value TEXT,
    vm TEXT REFERENCES vm (uuid),
    pool TEXT REFERENCES pool (name)
) STRICT, WITHOUT ROWID;
CREATE INDEX global_by_vm ON global (vm);
CREATE INDEX global_by_pool ON global (pool);

-- Operations under way: uuid, qid and name are reserved, and refer to no row.
CREATE TABLE pending (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    phase TEXT,
    uuid TEXT NOT NULL,
    qid INTEGER NOT NULL,
    name TEXT NOT NULL
) STRICT;

CREATE TABLE pending_volume (
    pending INTEGER NOT NULL REFERENCES pending (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    volume TEXT NOT NULL,
    pool TEXT NOT NULL REFERENCES pool (name),
    vid TEXT NOT NULL,
    progress TEXT NOT NULL,
    PRIMARY KEY (pending, volume)
) STRICT, WITHOUT ROWID;
CREATE INDEX pending_volume_by_pool ON pending_volume (pool);
