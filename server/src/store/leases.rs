//! Leases in the store.

use std::collections::{BTreeMap, BTreeSet};

use remote_docker_api::{EndReason, EventKind, LeaseId};
use sqlx::SqliteConnection;
use time::OffsetDateTime;

use super::columns::{Columns, micros};
use super::rows::{self, state};
use super::words::Word;
use super::{Store, StoreError, events, vms};
use crate::ids::InstallId;
use crate::lease::{
    DestroyReason, Grant, LeaseEnd, LeasePhase, LeaseRow, PoolKey, VmPhase, VmRow, check_lease,
    check_vm,
};

/// A lease that is asked for. The fields are those of [`LeaseRow`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of `LeaseRow`")]
pub struct NewLease {
    pub id: LeaseId,
    pub project: String,
    pub key: PoolKey,
    pub ttl_s: u32,
    pub keepalive_s: Option<u32>,
    pub idle_s: Option<u32>,
    pub idempotency: Option<Idempotency>,
    pub labels: BTreeMap<String, String>,
    pub client_csr_pem: String,
    pub created_at: OffsetDateTime,
    pub wait_until: OffsetDateTime,
    pub attended: bool,
}

/// How a request that may be sent twice is known again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// What the client calls it; unique within its project.
    pub key: String,
    /// Digest of the request itself: the same key with another request is a mistake.
    pub digest: String,
}

/// What became of a lease that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inserted {
    /// It is new.
    New(LeaseRow),
    /// The same request made this one before.
    Known(LeaseRow),
    /// Another request with the same idempotency key made one before.
    Conflict,
}

/// What became of a wish to end a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// It is written; the reconciler will carry it out.
    Recorded,
    /// The lease ends or has ended, or somebody wished so before.
    AlreadyEnding,
    /// There is no such lease.
    Unknown,
}

impl Store {
    /// Writes a new lease, which waits from now on, unless the same request was written before.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn insert_lease(&self, new: &NewLease) -> Result<Inserted, StoreError> {
        let mut tx = self.write().await?;
        if let Some(idempotency) = &new.idempotency
            && let Some(known) = known(&mut tx, &new.project, idempotency).await?
        {
            return Ok(known);
        }
        let (name, digest) = match &new.idempotency {
            Some(idempotency) => (Some(&idempotency.key), Some(&idempotency.digest)),
            None => (None, None),
        };
        let row = sqlx::query(
            "INSERT INTO leases (id, node_id, generation, project, engine, size, ttl_s, \
             keepalive_s, idle_s, idempotency_key, request_digest, labels, client_csr_pem, \
             created_at, wait_until, attended, state) \
             VALUES ($1, $2, 1, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, \
             'waiting') RETURNING *",
        )
        .bind(new.id.to_string())
        .bind(self.install.to_string())
        .bind(&new.project)
        .bind(&new.key.engine)
        .bind(&new.key.size)
        .bind(new.ttl_s)
        .bind(new.keepalive_s)
        .bind(new.idle_s)
        .bind(name)
        .bind(digest)
        .bind(json(&new.labels))
        .bind(&new.client_csr_pem)
        .bind(micros(new.created_at))
        .bind(micros(new.wait_until))
        .bind(new.attended)
        .fetch_one(&mut *tx)
        .await?;
        let row = rows::lease(&row)?;
        events::append(&mut tx, new.id, EventKind::Queued, None, new.created_at).await?;
        self.commit(tx).await?;
        Ok(Inserted::New(row))
    }

    /// The lease with this id, ended or not.
    ///
    /// # Errors
    /// When the database fails or the row is damaged.
    pub async fn lease(&self, id: LeaseId) -> Result<Option<LeaseRow>, StoreError> {
        let row = sqlx::query("SELECT * FROM leases WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(rows::lease).transpose()
    }

    /// All leases that have not ended, oldest first.
    ///
    /// # Errors
    /// When the database fails or a row is damaged.
    pub async fn live_leases(&self) -> Result<Vec<LeaseRow>, StoreError> {
        let mut connection = self.pool.acquire().await?;
        live(&mut connection, self.install).await
    }

    /// Writes down that somebody wants a lease to end. The first wish stands.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn wish_end(&self, id: LeaseId, reason: EndReason) -> Result<Wish, StoreError> {
        let mut tx = self.write().await?;
        // A new generation, so that a machine on its way to this lease is not spent on it.
        let done = sqlx::query(
            "UPDATE leases SET end_wish = $1, generation = generation + 1 \
             WHERE id = $2 AND end_wish IS NULL AND state IN ('waiting', 'active')",
        )
        .bind(reason.word())
        .bind(id.to_string())
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 1 {
            self.commit(tx).await?;
            return Ok(Wish::Recorded);
        }
        let known = sqlx::query("SELECT id FROM leases WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(&mut *tx)
            .await?;
        Ok(known.map_or(Wish::Unknown, |_| Wish::AlreadyEnding))
    }

    /// To be called once at the start of the server, before it serves anybody: nobody holds the line
    /// any more for the leases that were attended. Answers how many that were. Those whose request
    /// can be sent again stay: their clients are expected back.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn startup(&self) -> Result<u64, StoreError> {
        let mut tx = self.write().await?;
        let done = sqlx::query(
            "UPDATE leases SET end_wish = $1, generation = generation + 1 \
             WHERE node_id = $2 AND state = 'waiting' AND attended = TRUE AND end_wish IS NULL \
             AND idempotency_key IS NULL",
        )
        .bind(EndReason::ClientGone.word())
        .bind(self.install.to_string())
        .execute(&mut *tx)
        .await?;
        self.commit(tx).await?;
        Ok(done.rows_affected())
    }

    /// Ports of leases that are active or that are ending: not to be given to another.
    ///
    /// # Errors
    /// When the database fails or a row is damaged.
    pub async fn used_ports(&self) -> Result<BTreeSet<u16>, StoreError> {
        let rows =
            sqlx::query("SELECT id, port FROM leases WHERE node_id = $1 AND port IS NOT NULL")
                .bind(self.install.to_string())
                .fetch_all(&self.pool)
                .await?;
        let port = |row| Columns::new("leases", row).number("port");
        rows.iter().map(port).collect()
    }

    /// Hands a ready VM to a waiting lease: both rows in one transaction. `None` when either is no
    /// longer as it was seen, or the port went to another lease meanwhile.
    ///
    /// # Errors
    /// When the two do not belong together, the transition is not legal, or the database fails.
    pub async fn assign(
        &self,
        lease: &LeaseRow,
        vm: &VmRow,
        grant: &Grant,
        now: OffsetDateTime,
    ) -> Result<Option<LeaseRow>, StoreError> {
        if grant.vm != vm.id || lease.key != vm.key {
            return Err(StoreError::Mismatch);
        }
        check_lease(&lease.phase, &LeasePhase::Active(Box::new(grant.clone())))?;
        check_vm(&vm.phase, &VmPhase::Assigned { lease: lease.id })?;
        let mut tx = self.write().await?;
        if port_is_taken(&mut tx, self.install, grant.port).await? {
            return Ok(None);
        }
        // Both rows are compared before either is written, so that a lost race never meets the
        // unique indexes.
        let row = sqlx::query(
            "UPDATE leases SET generation = generation + 1, state = 'active', vm_id = $1, \
             port = $2, ca_pem = $3, cert_pem = $4, ready_at = $5, expires_at = $6, warm = $7, \
             timings = $8, heartbeat_at = $9, ssh_host_key = $10 \
             WHERE id = $11 AND generation = $12 AND state = 'waiting' AND EXISTS \
             (SELECT 1 FROM vms WHERE id = $1 AND generation = $13 AND state = 'ready') RETURNING *",
        )
        .bind(grant.vm.to_string())
        .bind(grant.port)
        .bind(&grant.ca_pem)
        .bind(&grant.cert_pem)
        .bind(micros(grant.ready_at))
        .bind(micros(grant.expires_at))
        .bind(grant.warm)
        .bind(json(&grant.timings))
        .bind(micros(grant.heartbeat_at))
        .bind(&grant.ssh_host_key)
        .bind(lease.id.to_string())
        .bind(lease.generation)
        .bind(vm.generation)
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let row = rows::lease(&row)?;
        let next = VmPhase::Assigned { lease: lease.id };
        if !vms::set_phase(&mut tx, vm, next, now).await? {
            return Ok(None);
        }
        events::append(&mut tx, lease.id, EventKind::Ready, None, now).await?;
        self.commit(tx).await?;
        Ok(Some(row))
    }

    /// Ends a lease and begins to destroy its VM, if it has one, in one transaction. `None` when the
    /// lease is no longer as it was seen.
    ///
    /// # Errors
    /// When the lease is ending already or the database fails.
    pub async fn end_lease(
        &self,
        seen: &LeaseRow,
        reason: EndReason,
        detail: Option<&str>,
        now: OffsetDateTime,
    ) -> Result<Option<LeaseRow>, StoreError> {
        let (from, vm) = match &seen.phase {
            LeasePhase::Active(grant) => (state::ACTIVE, Some(grant)),
            _ => (state::WAITING, None),
        };
        let end = LeaseEnd {
            reason,
            detail: detail.map(str::to_owned),
            ready_at: vm.map(|grant| grant.ready_at),
            expires_at: vm.map(|grant| grant.expires_at),
        };
        let vm = vm.map(|grant| grant.vm);
        check_lease(&seen.phase, &LeasePhase::Ending { end, vm })?;
        let mut tx = self.write().await?;
        let row = sqlx::query(
            "UPDATE leases SET generation = generation + 1, state = 'ending', end_reason = $1, \
             end_detail = $2 WHERE id = $3 AND generation = $4 AND state = $5 RETURNING *",
        )
        .bind(reason.word())
        .bind(detail)
        .bind(seen.id.to_string())
        .bind(seen.generation)
        .bind(from)
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let row = rows::lease(&row)?;
        let told = detail.unwrap_or(reason.word());
        events::append(&mut tx, seen.id, EventKind::Ending, Some(told), now).await?;
        if let Some(vm) = vm {
            let reason = match reason {
                EndReason::VmLost => DestroyReason::Lost,
                _ => DestroyReason::LeaseEnded,
            };
            release_vm(&mut tx, seen.id, vm, reason, now).await?;
        }
        self.commit(tx).await?;
        Ok(Some(row))
    }

    /// Closes a lease whose VM is gone or that never had one, and frees its port. `None` when the
    /// lease is no longer as it was seen, or its VM is not gone.
    ///
    /// # Errors
    /// When the lease is not ending or the database fails.
    pub async fn finish_lease(
        &self,
        seen: &LeaseRow,
        now: OffsetDateTime,
    ) -> Result<Option<LeaseRow>, StoreError> {
        let end = match &seen.phase {
            LeasePhase::Ending { end, .. } => end.clone(),
            // Whatever it says: the diagram refuses it.
            _ => LeaseEnd {
                reason: EndReason::Released,
                detail: None,
                ready_at: None,
                expires_at: None,
            },
        };
        let ended_at = now;
        check_lease(&seen.phase, &LeasePhase::Ended { end, ended_at })?;
        let mut tx = self.write().await?;
        let row = sqlx::query(
            "UPDATE leases SET generation = generation + 1, state = 'ended', ended_at = $1, \
             port = NULL WHERE id = $2 AND generation = $3 AND state = 'ending' \
             AND NOT EXISTS (SELECT 1 FROM vms WHERE vms.id = leases.vm_id AND vms.state <> 'gone') \
             RETURNING *",
        )
        .bind(micros(now))
        .bind(seen.id.to_string())
        .bind(seen.generation)
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let row = rows::lease(&row)?;
        events::append(&mut tx, seen.id, EventKind::Ended, None, now).await?;
        self.commit(tx).await?;
        Ok(Some(row))
    }
}

/// The lease that a request with this idempotency key made before.
async fn known(
    connection: &mut SqliteConnection,
    project: &str,
    idempotency: &Idempotency,
) -> Result<Option<Inserted>, StoreError> {
    let row = sqlx::query("SELECT * FROM leases WHERE project = $1 AND idempotency_key = $2")
        .bind(project)
        .bind(&idempotency.key)
        .fetch_optional(connection)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let digest: Option<&str> = Columns::new("leases", &row).get("request_digest")?;
    Ok(Some(if digest == Some(&idempotency.digest) {
        Inserted::Known(rows::lease(&row)?)
    } else {
        Inserted::Conflict
    }))
}

/// All of this node that have not ended, oldest first.
pub(super) async fn live(
    connection: &mut SqliteConnection,
    node: InstallId,
) -> Result<Vec<LeaseRow>, StoreError> {
    let rows = sqlx::query(
        "SELECT * FROM leases WHERE node_id = $1 AND state <> 'ended' ORDER BY created_at, id",
    )
    .bind(node.to_string())
    .fetch_all(connection)
    .await?;
    rows.iter().map(rows::lease).collect()
}

/// Deletes leases that ended before this moment.
pub(super) async fn prune(
    connection: &mut SqliteConnection,
    node: InstallId,
    before: OffsetDateTime,
) -> Result<u64, StoreError> {
    let done =
        sqlx::query("DELETE FROM leases WHERE node_id = $1 AND state = 'ended' AND ended_at < $2")
            .bind(node.to_string())
            .bind(micros(before))
            .execute(connection)
            .await?;
    Ok(done.rows_affected())
}

async fn port_is_taken(
    connection: &mut SqliteConnection,
    node: InstallId,
    port: u16,
) -> Result<bool, StoreError> {
    let row = sqlx::query("SELECT id FROM leases WHERE node_id = $1 AND port = $2")
        .bind(node.to_string())
        .bind(port)
        .fetch_optional(connection)
        .await?;
    Ok(row.is_some())
}

/// Begins to destroy the VM of a lease that ends. The lease's own compare-and-set protects it: a VM
/// leaves *assigned* in this way only.
async fn release_vm(
    connection: &mut SqliteConnection,
    lease: LeaseId,
    vm: crate::ids::VmId,
    reason: DestroyReason,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE vms SET generation = generation + 1, state = 'destroying', reason = $1, \
         phase_since = $2 WHERE id = $3 AND lease_id = $4 AND state = 'assigned'",
    )
    .bind(reason.word())
    .bind(micros(now))
    .bind(vm.to_string())
    .bind(lease.to_string())
    .execute(connection)
    .await?;
    Ok(())
}

/// Texts and lists of texts always have a JSON form.
fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
