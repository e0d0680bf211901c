-- Firewall rules and notes.

-- VMs whose list is not the default one (a rule with the id 1, action=accept). last_id: ids are never used again.
CREATE TABLE firewall (
    vm TEXT PRIMARY KEY REFERENCES vm (uuid) ON DELETE CASCADE,
    last_id INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- position: their order, with gaps, so that a rule that comes in between moves no other. rule: in its canonical form.
CREATE TABLE firewall_rule (
    vm TEXT NOT NULL REFERENCES firewall (vm) ON DELETE CASCADE,
    id INTEGER NOT NULL,
    position INTEGER NOT NULL,
    rule TEXT NOT NULL,
    PRIMARY KEY (vm, id),
    UNIQUE (vm, position)
) STRICT, WITHOUT ROWID;

-- Not WITHOUT ROWID: a text may be long.
CREATE TABLE notes (
    vm TEXT PRIMARY KEY REFERENCES vm (uuid) ON DELETE CASCADE,
    text TEXT NOT NULL
) STRICT;
