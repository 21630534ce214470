-- What an SSH client of a lease's machine is to find there.
ALTER TABLE leases ADD COLUMN ssh_host_key TEXT;
