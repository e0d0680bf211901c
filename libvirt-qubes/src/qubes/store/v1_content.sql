-- A state as version 1 wrote it, with a row of every kind. It stays as it is when later versions come.
INSERT INTO meta VALUES ('event_numbers', '4294967300');
INSERT INTO label VALUES (1, 'red', '0xcc0000'), (8, 'black', '0x000000'), (9, 'pink', '0xFFC0CB');
INSERT INTO pool VALUES ('varlibqubes', 'file-reflink', 1), ('linux-kernel', 'linux-kernel', 2);
INSERT INTO pool_option VALUES
    ('varlibqubes', 'dir_path', '/var/lib/mgmtd/varlibqubes'),
    ('varlibqubes', 'revisions_to_keep', '2'),
    ('linux-kernel', 'dir_path', '/var/lib/mgmtd/vm-kernels');
INSERT INTO vm VALUES
    ('00000000-0000-0000-0000-000000000000', 0, 'dom0', 'AdminVM', 8),
    ('11111111-1111-4111-8111-111111111111', 1, 'debian', 'TemplateVM', 8),
    ('22222222-2222-4222-8222-222222222222', 2, 'sys-net', 'AppVM', 1),
    ('33333333-3333-4333-8333-333333333333', 7, 'disp4711', 'DispVM', 9);
INSERT INTO vm_property VALUES
    ('11111111-1111-4111-8111-111111111111', 'kernelopts', 'quiet ro'),
    ('11111111-1111-4111-8111-111111111111', 'memory', '700'),
    ('22222222-2222-4222-8222-222222222222', 'provides_network', 'True'),
    ('22222222-2222-4222-8222-222222222222', 'template_for_dispvms', 'True'),
    ('33333333-3333-4333-8333-333333333333', 'dispid', '4711');
INSERT INTO vm_reference VALUES
    ('22222222-2222-4222-8222-222222222222', 'template', '11111111-1111-4111-8111-111111111111'),
    ('22222222-2222-4222-8222-222222222222', 'netvm', NULL),
    ('33333333-3333-4333-8333-333333333333', 'template', '22222222-2222-4222-8222-222222222222'),
    ('33333333-3333-4333-8333-333333333333', 'netvm', '22222222-2222-4222-8222-222222222222');
INSERT INTO volume VALUES
    ('11111111-1111-4111-8111-111111111111', 'root', 1, 'varlibqubes', 'vm-templates/debian/root', 'origin', 10737418240, 'rw', 3, NULL),
    ('11111111-1111-4111-8111-111111111111', 'kernel', 2, 'linux-kernel', NULL, 'kernel', NULL, 'ro', NULL, NULL),
    ('22222222-2222-4222-8222-222222222222', 'root', 1, 'varlibqubes', 'appvms/sys-net/root', 'snapshot', NULL, 'rw', NULL, NULL),
    ('22222222-2222-4222-8222-222222222222', 'volatile', 2, 'varlibqubes', 'appvms/sys-net/volatile', 'volatile', 12884901888, 'rw', NULL, 1);
INSERT INTO tag VALUES ('22222222-2222-4222-8222-222222222222', 'created-by-dom0');
INSERT INTO feature VALUES
    ('22222222-2222-4222-8222-222222222222', 'servicevm', '1', 2),
    ('22222222-2222-4222-8222-222222222222', 'gui', '', 1);
INSERT INTO global VALUES
    ('default_kernel', '6.1', NULL, NULL),
    ('default_netvm', NULL, NULL, NULL),
    ('default_pool', NULL, NULL, 'varlibqubes'),
    ('default_template', NULL, '11111111-1111-4111-8111-111111111111', NULL),
    ('stats_interval', '5', NULL, NULL);
INSERT INTO pending VALUES
    (3, 'create', NULL, '44444444-4444-4444-8444-444444444444', 3, 'half-made'),
    (4, 'start', 'unpausing', '22222222-2222-4222-8222-222222222222', 2, 'sys-net');
INSERT INTO pending_volume VALUES
    (3, 1, 'root', 'varlibqubes', 'appvms/half-made/root', 'made'),
    (3, 2, 'private', 'varlibqubes', 'appvms/half-made/private', 'planned');
