-- What version 5 added to the state of version 4. It stays as it is when later versions come.
INSERT INTO pending_folder VALUES ('/srv/fast'), ('/srv/fast/appvms');
