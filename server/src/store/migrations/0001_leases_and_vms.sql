-- Times are microseconds since 1970 in UTC. States and reasons are words, so that a person with a
-- database shell can read them. The SQL is what SQLite and PostgreSQL both accept.

CREATE TABLE meta (
    name  TEXT PRIMARY KEY NOT NULL,
    value TEXT NOT NULL
);

CREATE TABLE vms (
    id          TEXT PRIMARY KEY NOT NULL,
    node_id     TEXT NOT NULL,
    generation  BIGINT NOT NULL,
    engine      TEXT NOT NULL,
    size        TEXT NOT NULL,
    memory_mib  BIGINT NOT NULL,
    slot        BIGINT NOT NULL,
    state       TEXT NOT NULL,
    phase_since BIGINT NOT NULL,
    -- The one lease that it serves or served.
    lease_id    TEXT,
    -- Why it is being or was destroyed.
    reason      TEXT
);

-- A slot decides an address: two VMs on one host must never have the same.
CREATE UNIQUE INDEX vms_slot ON vms (node_id, slot) WHERE state <> 'gone';
-- A lease never gets a second VM.
CREATE UNIQUE INDEX vms_lease ON vms (lease_id) WHERE lease_id IS NOT NULL;

CREATE TABLE leases (
    id             TEXT PRIMARY KEY NOT NULL,
    node_id        TEXT NOT NULL,
    generation     BIGINT NOT NULL,
    engine         TEXT NOT NULL,
    size           TEXT NOT NULL,
    ttl_s          BIGINT NOT NULL,
    labels         TEXT NOT NULL,
    client_csr_pem TEXT NOT NULL,
    created_at     BIGINT NOT NULL,
    wait_until     BIGINT NOT NULL,
    attended       BOOLEAN NOT NULL,
    end_wish       TEXT,
    state          TEXT NOT NULL,
    vm_id          TEXT REFERENCES vms (id),
    -- Kept while the lease ends, so that no other gets it before the old connections are gone.
    port           BIGINT,
    ca_pem         TEXT,
    cert_pem       TEXT,
    ready_at       BIGINT,
    expires_at     BIGINT,
    warm           BOOLEAN,
    timings        TEXT,
    end_reason     TEXT,
    ended_at       BIGINT
);

CREATE UNIQUE INDEX leases_port ON leases (node_id, port) WHERE port IS NOT NULL;
-- A VM never serves a second lease.
CREATE UNIQUE INDEX leases_vm ON leases (vm_id) WHERE vm_id IS NOT NULL;
CREATE INDEX leases_state ON leases (node_id, state);
