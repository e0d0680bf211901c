-- What version 2 added to the state of version 1. It stays as it is when later versions come.
INSERT INTO assignment VALUES
    (1, '22222222-2222-4222-8222-222222222222', 'pci', '00000000-0000-0000-0000-000000000000', '00_14.0', '0x8086:0xa0ed::p0c0330', 'required'),
    (2, '22222222-2222-4222-8222-222222222222', 'usb', NULL, '*', '0951:1666::u080650', 'ask-to-attach'),
    (3, '33333333-3333-4333-8333-333333333333', 'block', '22222222-2222-4222-8222-222222222222', 'sda1', '*', 'auto-attach');
INSERT INTO assignment_option VALUES (1, 'no-strict-reset', 'True'), (3, 'read-only', 'yes'), (3, 'frontend-dev', 'xvdi');
