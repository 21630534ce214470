//! Leases in the store.

use std::collections::{BTreeMap, BTreeSet};

use remote_docker_api::{Egress, EndReason, EventKind, LeaseId};
use rusqlite::params;
use sqlx::SqliteConnection;
use time::OffsetDateTime;

use super::columns::{Columns, kept, micros};
use super::line::Line;
use super::rows;
use super::words::Word;
use super::writer::{Change, Operation};
use super::{Store, StoreError};
use crate::access::TokenHash;
use crate::audit::Asked;
use crate::ids::InstallId;
use crate::lease::{LeasePhase, LeaseRow, PoolKey};

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
    pub egress: Egress,
    pub idempotency: Option<Idempotency>,
    pub labels: BTreeMap<String, String>,
    pub client_csr_pem: String,
    pub created_at: OffsetDateTime,
    pub wait_until: OffsetDateTime,
    pub attended: bool,
    /// Who asked, for the audit log.
    pub asked: Asked,
    /// With which token of the book, if it was one.
    pub asked_token: Option<TokenHash>,
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
        self.write(Insert(new.clone())).await
    }

    /// The lease with this id, ended or not.
    ///
    /// # Errors
    /// When the database fails or the row is damaged.
    pub async fn lease(&self, id: LeaseId) -> Result<Option<LeaseRow>, StoreError> {
        #[cfg(test)]
        self.lookups
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
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
        let by = None;
        self.write(WishEnd { id, reason, by }).await
    }

    /// Writes down that `caller` gives a lease back. The first wish stands.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn release(&self, id: LeaseId, caller: &Asked) -> Result<Wish, StoreError> {
        self.write(WishEnd {
            id,
            reason: EndReason::Released,
            by: Some(caller.clone()),
        })
        .await
    }

    /// The token that a lease was asked for with, as the book of tokens has it; none for one of the
    /// operator, of a job or that is not known.
    ///
    /// # Errors
    /// When the database fails or the row is damaged.
    pub async fn asked_token(&self, id: LeaseId) -> Result<Option<TokenHash>, StoreError> {
        let row = sqlx::query("SELECT id, asked_token FROM leases WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(&self.pool)
            .await?;
        let Some(row) = row else { return Ok(None) };
        Columns::new("leases", &row).maybe_parse("asked_token")
    }

    /// To be called once at the start of the server, before it serves anybody: nobody holds the line
    /// any more for the leases that were attended. Answers how many that were. Those whose request
    /// can be sent again stay: their clients are expected back.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn startup(&self) -> Result<u64, StoreError> {
        self.write(Startup).await
    }

    /// Ports of leases that are active or that are ending: not to be given to another.
    ///
    /// # Errors
    /// When the database fails or a row is damaged.
    pub async fn used_ports(&self) -> Result<BTreeSet<u16>, StoreError> {
        let mut connection = self.pool.acquire().await?;
        let ports = ports(&mut connection, self.install).await?;
        Ok(ports.into_iter().map(|(_, port)| port).collect())
    }
}

struct Insert(NewLease);

impl Operation for Insert {
    type Answer = Inserted;

    fn run(&self, change: &mut Change<'_>) -> Result<Inserted, StoreError> {
        let Self(new) = self;
        if let Some(idempotency) = &new.idempotency
            && let Some(known) = known(change.line, &new.project, idempotency)?
        {
            return Ok(known);
        }
        let (name, digest) = match &new.idempotency {
            Some(idempotency) => (Some(&idempotency.key), Some(&idempotency.digest)),
            None => (None, None),
        };
        change.line.execute(
            "INSERT INTO leases (id, node_id, generation, project, engine, size, ttl_s, \
             keepalive_s, idle_s, idempotency_key, request_digest, labels, client_csr_pem, \
             created_at, wait_until, attended, asked, egress, asked_token, state) \
             VALUES ($1, $2, 1, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, \
             $17, $18, 'waiting')",
            params![
                new.id.to_string(),
                change.node.to_string(),
                new.project,
                new.key.engine,
                new.key.size,
                new.ttl_s,
                new.keepalive_s,
                new.idle_s,
                name,
                digest,
                json(&new.labels),
                new.client_csr_pem,
                micros(new.created_at),
                micros(new.wait_until),
                new.attended,
                json(&new.asked),
                new.egress.word(),
                new.asked_token.as_ref().map(TokenHash::to_string),
            ],
        )?;
        let row = LeaseRow {
            id: new.id,
            generation: 1,
            project: new.project.clone(),
            key: new.key.clone(),
            ttl_s: new.ttl_s,
            keepalive_s: new.keepalive_s,
            idle_s: new.idle_s,
            egress: new.egress,
            labels: new.labels.clone(),
            client_csr_pem: new.client_csr_pem.clone(),
            created_at: kept(new.created_at),
            wait_until: kept(new.wait_until),
            attended: new.attended,
            end_wish: None,
            troubles: 0,
            phase: LeasePhase::Waiting,
        };
        change.wrote_lease(&row);
        change.tell(new.id, EventKind::Queued, None, new.created_at);
        Ok(Inserted::New(row))
    }
}

struct WishEnd {
    id: LeaseId,
    reason: EndReason,
    by: Option<Asked>,
}

impl Operation for WishEnd {
    type Answer = Wish;

    fn run(&self, change: &mut Change<'_>) -> Result<Wish, StoreError> {
        // A new generation, so that a machine on its way to this lease is not spent on it.
        let row = change.line.first(
            "UPDATE leases SET end_wish = $1, end_wish_by = $3, generation = generation + 1 \
             WHERE id = $2 AND end_wish IS NULL AND state IN ('waiting', 'active') RETURNING *",
            params![
                self.reason.word(),
                self.id.to_string(),
                self.by.as_ref().map(json)
            ],
            |row| rows::lease(row),
        )?;
        if let Some(row) = &row {
            change.wrote_lease(row);
            return Ok(Wish::Recorded);
        }
        let known = change.line.first(
            "SELECT id FROM leases WHERE id = $1",
            params![self.id.to_string()],
            |_| Ok(()),
        )?;
        Ok(known.map_or(Wish::Unknown, |()| Wish::AlreadyEnding))
    }
}

struct Startup;

impl Operation for Startup {
    type Answer = u64;

    fn run(&self, change: &mut Change<'_>) -> Result<u64, StoreError> {
        let done = change.line.execute(
            "UPDATE leases SET end_wish = $1, generation = generation + 1 \
             WHERE node_id = $2 AND state <> 'ended' AND state = 'waiting' AND attended = TRUE \
             AND end_wish IS NULL AND idempotency_key IS NULL",
            params![EndReason::ClientGone.word(), change.node.to_string()],
        )?;
        change.wrote_all();
        Ok(done as u64)
    }
}

/// The lease that a request with this idempotency key made before.
fn known(
    line: &Line,
    project: &str,
    idempotency: &Idempotency,
) -> Result<Option<Inserted>, StoreError> {
    line.first(
        "SELECT * FROM leases WHERE project = $1 AND idempotency_key = $2",
        params![project, idempotency.key],
        |row| {
            let digest: Option<&str> = Columns::new("leases", row).get("request_digest")?;
            Ok(if digest == Some(&idempotency.digest) {
                Inserted::Known(rows::lease(row)?)
            } else {
                Inserted::Conflict
            })
        },
    )
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

/// Ports of this node that are not to be given to another lease, and whose they are.
pub(super) async fn ports(
    connection: &mut SqliteConnection,
    node: InstallId,
) -> Result<Vec<(LeaseId, u16)>, StoreError> {
    let rows = sqlx::query("SELECT id, port FROM leases WHERE node_id = $1 AND port IS NOT NULL")
        .bind(node.to_string())
        .fetch_all(connection)
        .await?;
    let port = |row| {
        let columns = Columns::new("leases", row);
        Ok((columns.parse("id")?, columns.number("port")?))
    };
    rows.iter().map(port).collect()
}

/// Deletes leases that ended before this moment, at most so many.
pub(super) fn prune(
    line: &Line,
    node: InstallId,
    before: OffsetDateTime,
    most: usize,
) -> Result<usize, StoreError> {
    line.execute(
        "DELETE FROM leases WHERE id IN (SELECT id FROM leases \
         WHERE node_id = $1 AND state = 'ended' AND ended_at < $2 ORDER BY ended_at LIMIT $3)",
        params![node.to_string(), micros(before), most],
    )
}

/// Texts and lists of texts always have a JSON form.
pub(super) fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
