-- What version 8 added to the state of version 7. It stays as it is when later versions come.
INSERT INTO pool VALUES ('away', 'file', 3);
INSERT INTO pending_volume VALUES (3, 3, 'root', 'away', 'appvms/half-made/root', 'made');
