-- Devices assigned to VMs. backend NULL: whichever VM has it; port, device '*': any.
CREATE TABLE assignment (
    id INTEGER PRIMARY KEY,
    vm TEXT NOT NULL REFERENCES vm (uuid) ON DELETE CASCADE,
    class TEXT NOT NULL,
    backend TEXT REFERENCES vm (uuid),
    port TEXT NOT NULL,
    device TEXT NOT NULL,
    mode TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX assignment_once ON assignment (vm, class, coalesce(backend, ''), port, device);
CREATE INDEX assignment_by_backend ON assignment (backend);

CREATE TABLE assignment_option (
    assignment INTEGER NOT NULL REFERENCES assignment (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (assignment, name)
) STRICT, WITHOUT ROWID;
