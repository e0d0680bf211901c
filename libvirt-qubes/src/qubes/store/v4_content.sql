-- What version 4 added to the state of version 3. It stays as it is when later versions come.
UPDATE pending SET dispid = 4712 WHERE kind = 'create';
