-- Deadlines beside the time to live, retries that find what they made, and what happened to a lease.

-- Who pays for it: leases of one project are not seen by another, and none starves the others.
ALTER TABLE leases ADD COLUMN project TEXT NOT NULL DEFAULT 'default';
ALTER TABLE leases ADD COLUMN keepalive_s BIGINT;
ALTER TABLE leases ADD COLUMN idle_s BIGINT;
-- The last heartbeat, or when the lease became active.
ALTER TABLE leases ADD COLUMN heartbeat_at BIGINT;
-- The end that its holder has been warned of.
ALTER TABLE leases ADD COLUMN warned_of BIGINT;
-- More about the end, in words.
ALTER TABLE leases ADD COLUMN end_detail TEXT;
-- What the client calls the request, and a digest of the request itself.
ALTER TABLE leases ADD COLUMN idempotency_key TEXT;
ALTER TABLE leases ADD COLUMN request_digest TEXT;

-- The same call sent twice makes one lease, as long as its row is kept.
CREATE UNIQUE INDEX leases_idempotency ON leases (project, idempotency_key)
    WHERE idempotency_key IS NOT NULL;

CREATE TABLE lease_events (
    lease_id TEXT NOT NULL REFERENCES leases (id) ON DELETE CASCADE,
    -- From 1, without gaps.
    seq      BIGINT NOT NULL,
    at       BIGINT NOT NULL,
    kind     TEXT NOT NULL,
    detail   TEXT,
    PRIMARY KEY (lease_id, seq)
);
