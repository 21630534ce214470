-- Who asked for a lease and from where (JSON), and which events the audit log does not have yet.
ALTER TABLE leases ADD COLUMN asked TEXT;
-- What happened before there was an audit log is not told in it.
ALTER TABLE lease_events ADD COLUMN audited BOOLEAN NOT NULL DEFAULT TRUE;
CREATE INDEX lease_events_unaudited ON lease_events (at) WHERE audited = FALSE;
