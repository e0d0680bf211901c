-- Folders that are being made for a pool which has no row yet. A start that finds one removes it if it is empty.

CREATE TABLE pending_folder (
    path TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;
