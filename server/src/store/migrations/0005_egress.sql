-- What the machine of a lease may reach. Before there was a choice, all reached the Internet.
ALTER TABLE leases ADD COLUMN egress TEXT NOT NULL DEFAULT 'internet';
