-- What lives and what is long over are found without a look at the rows of all that ended lately.

DROP INDEX leases_state;
CREATE INDEX leases_live ON leases (node_id, created_at, id) WHERE state <> 'ended';
CREATE INDEX leases_ended ON leases (node_id, ended_at) WHERE state = 'ended';
CREATE INDEX vms_gone ON vms (node_id, phase_since) WHERE state = 'gone';
