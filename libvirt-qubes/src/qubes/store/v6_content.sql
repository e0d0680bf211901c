-- What version 6 added to the state of version 5. It stays as it is when later versions come.
UPDATE volume SET last_snapshot = 4 WHERE name = 'root' AND vm = '11111111-1111-4111-8111-111111111111';
