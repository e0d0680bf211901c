-- What version 7 added to the state of version 6. It stays as it is when later versions come.
INSERT INTO started_volume VALUES
    ('22222222-2222-4222-8222-222222222222', 'root', 'varlibqubes', 2, 'rw', 'private', 0),
    ('22222222-2222-4222-8222-222222222222', 'volatile', 'varlibqubes', -1, 'ro', 'source', 1);
