-- What version 3 added to the state of version 2. It stays as it is when later versions come.
INSERT INTO firewall VALUES ('22222222-2222-4222-8222-222222222222', 9), ('33333333-3333-4333-8333-333333333333', 1);
INSERT INTO firewall_rule VALUES
    ('22222222-2222-4222-8222-222222222222', 9, -4294967296, 'action=drop dst6=2001:DB8::/32 comment=not there'),
    ('22222222-2222-4222-8222-222222222222', 1, 4294967296, 'action=accept'),
    ('22222222-2222-4222-8222-222222222222', 4, 6442450944, 'action=accept expire=253402300799 dsthost=example.com proto=tcp dstports=443-443');
INSERT INTO notes VALUES ('11111111-1111-4111-8111-111111111111', 'two
lines, größer');
