-- The number of a disposable that is being made is reserved as the other numbers are.

ALTER TABLE pending ADD COLUMN dispid INTEGER;
