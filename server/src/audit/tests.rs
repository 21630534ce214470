//! The audit log from its records to its file.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use remote_docker_api::{Egress, EndReason, ErrorCode, LeaseId};
use serde_json::Value;
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::access::{Caller, Scopes};
use crate::clock::Clock;
use crate::lease::PoolKey;
use crate::metrics::Metrics;
use crate::store::{NewLease, Store};

const NOW: OffsetDateTime = time::macros::datetime!(2026-03-01 12:00 UTC);

/// Wall time is an hour ahead of server time.
struct Ahead;

impl Clock for Ahead {
    fn now(&self) -> OffsetDateTime {
        NOW
    }
    fn ahead(&self) -> Duration {
        Duration::HOUR
    }
}

struct Scene {
    folder: TempDir,
    store: Arc<Store>,
    metrics: Arc<Metrics>,
}

/// A keeper that runs.
struct Running {
    audit: Arc<Audit>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    /// Lets it write what there is, and ends it.
    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

impl Scene {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("state.db")).await.unwrap();
        Self {
            folder,
            store: Arc::new(store),
            metrics: Arc::new(Metrics::new()),
        }
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("audit.jsonl")
    }

    fn keep(&self) -> Running {
        let (audit, keeper) = Audit::in_file(AuditFile::new(self.path()), self.metrics.clone());
        let stop = CancellationToken::new();
        let keeping = keeper.run(self.store.clone(), Arc::new(Ahead), stop.clone());
        Running {
            audit,
            stop,
            task: tokio::spawn(keeping),
        }
    }

    async fn ask(&self, id: u64) -> LeaseId {
        let new = NewLease {
            id: LeaseId::from_bits(id),
            project: "web".to_owned(),
            key: PoolKey {
                engine: "26".to_owned(),
                size: "small".to_owned(),
            },
            ttl_s: 60,
            keepalive_s: None,
            idle_s: Some(30),
            egress: Egress::Internet,
            idempotency: None,
            labels: [("job".to_owned(), "b-7".to_owned())].into(),
            client_csr_pem: "-----BEGIN CERTIFICATE REQUEST-----\nhunter2".to_owned(),
            created_at: NOW,
            wait_until: NOW + Duration::MINUTE,
            attended: false,
            asked: Asked {
                credential: Some("token ci".to_owned()),
                origin: origin(),
            },
            asked_token: None,
        };
        self.store.insert_lease(&new).await.unwrap();
        new.id
    }

    async fn end_of(&self, id: LeaseId) {
        let row = self.store.lease(id).await.unwrap().unwrap();
        let (store, reason) = (&self.store, EndReason::Released);
        store
            .end_lease(&row, reason, None, NOW)
            .await
            .unwrap()
            .unwrap();
    }

    fn lines(&self) -> Vec<Value> {
        lines(&self.path())
    }

    async fn until_there_are(&self, count: usize) -> Vec<Value> {
        let look = async {
            loop {
                let lines = self.lines();
                if lines.len() >= count {
                    return lines;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        let found = tokio::time::timeout(std::time::Duration::from_secs(60), look).await;
        found.unwrap_or_else(|_| panic!("{:?}", self.lines()))
    }
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    text.lines().map(line).collect()
}

fn origin() -> Origin {
    Origin {
        remote: Some([192, 0, 2, 7].into()),
        request_id: Some("r-1".to_owned()),
    }
}

fn knock() -> Record {
    let detail = "the token is not good here".to_owned();
    Record::access_refused(NOW, None, origin(), ErrorCode::Unauthorized, detail)
}

#[tokio::test]
async fn what_happens_to_a_lease_is_told_with_who_asked_and_how_it_ended() {
    let scene = Scene::new().await;
    let running = scene.keep();
    let lease = scene.ask(7).await;
    let asked = scene.until_there_are(1).await;
    scene.end_of(lease).await;
    running.end().await;
    let lines = scene.lines();
    assert_eq!(lines[..1], asked[..1]);
    insta::assert_snapshot!(fs::read_to_string(scene.path()).unwrap());
    let text = fs::read_to_string(scene.path()).unwrap();
    assert!(
        !text.contains("hunter2") && !text.contains("BEGIN"),
        "{text}"
    );
    // Nothing is left to be told.
    assert_eq!(scene.store.unaudited().await.unwrap(), []);
}

#[tokio::test]
async fn a_server_that_died_before_it_had_written_that_it_wrote_writes_it_once_more() {
    let scene = Scene::new().await;
    scene.ask(1).await;
    scene.ask(2).await;
    // It came as far as the file.
    let facts = scene.store.unaudited().await.unwrap();
    let records = facts
        .into_iter()
        .filter_map(|fact| Record::of_lease(fact, Duration::HOUR));
    let text: String = records.map(|record| record.line()).collect();
    AuditFile::new(scene.path()).append(&text).unwrap();

    scene.keep().end().await;
    scene.keep().end().await;
    let ids: Vec<String> = scene
        .lines()
        .iter()
        .map(|line| line["id"].to_string())
        .collect();
    assert_eq!(ids.len(), 4, "{ids:?}");
    assert_eq!(ids[..2], ids[2..]);
    assert_ne!(ids[0], ids[1]);
}

#[tokio::test]
async fn a_lease_of_many_events_is_told_in_full() {
    let scene = Scene::new().await;
    for id in 1..=600 {
        let lease = scene.ask(id).await;
        scene.end_of(lease).await;
    }
    scene.keep().end().await;
    let lines = scene.lines();
    assert_eq!(lines.len(), 1200);
    let ended = lines
        .iter()
        .filter(|line| line["event"] == "lease_ended")
        .count();
    assert_eq!(ended, 600);
}

#[tokio::test]
async fn what_cannot_be_written_keeps_no_lease_from_ending_and_is_written_later() {
    let scene = Scene::new().await;
    fs::create_dir(scene.path()).unwrap();
    let running = scene.keep();
    let lease = scene.ask(1).await;
    scene.end_of(lease).await;
    let troubled = async {
        while running.audit.trouble().is_none() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let far = std::time::Duration::from_secs(60);
    tokio::time::timeout(far, troubled).await.unwrap();
    let why = running.audit.trouble().unwrap();
    assert!(why.contains("audit.jsonl"), "{why}");
    running.audit.note(knock());
    fs::remove_dir(scene.path()).unwrap();
    let lines = scene.until_there_are(3).await;
    let events: Vec<_> = lines
        .iter()
        .map(|line| line["event"].as_str().unwrap())
        .collect();
    assert_eq!(events, ["access_refused", "lease_asked", "lease_ended"]);
    let audit = running.audit.clone();
    running.end().await;
    assert_eq!(audit.trouble(), None);
    let metrics = scene.metrics.text(&[], &[]).unwrap();
    assert!(
        metrics.contains("remote_dockerd_audit_records_total 3\n"),
        "{metrics}"
    );
    assert!(
        metrics.contains("remote_dockerd_audit_records_lost_total 0\n"),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_flood_of_knocks_does_not_fill_the_disk_and_is_counted() {
    let scene = Scene::new().await;
    let running = scene.keep();
    for _ in 0..100_000 {
        running.audit.note(knock());
    }
    // What other callers do is told all the same.
    let caller = Caller {
        project: "web".into(),
        name: "token ci".into(),
        scopes: Scopes::all(),
        token: None,
        lease: None,
    };
    let (code, detail) = (ErrorCode::InvalidTtl, "too long".to_owned());
    let refused = Record::lease_refused(NOW, &caller, origin(), code, detail);
    running.audit.note(refused);
    running.end().await;
    let lines = scene.lines();
    let refused = lines.iter().filter(|line| line["event"] == "lease_refused");
    assert_eq!(refused.count(), 1);
    let size = fs::metadata(scene.path()).unwrap().len();
    // The burst, and one every three seconds that it took.
    assert!((20..40).contains(&(lines.len() - 1)), "{}", lines.len());
    assert!(size < 10_000, "{size}");
}

#[test]
fn the_file_may_be_renamed_and_cut_off_while_it_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let mut file = AuditFile::new(path.clone());
    file.append("{\"n\":1}\n").unwrap();
    let old = folder.path().join("audit.jsonl.1");
    fs::rename(&path, &old).unwrap();
    file.append("{\"n\":2}\n").unwrap();
    assert_eq!(lines(&old), [serde_json::json!({"n": 1})]);
    assert_eq!(lines(&path), [serde_json::json!({"n": 2})]);
    // Whoever rotates it may make the next one as well.
    let older = folder.path().join("audit.jsonl.2");
    fs::rename(&path, &older).unwrap();
    fs::File::create(&path).unwrap();
    file.append("{\"n\":21}\n").unwrap();
    assert_eq!(lines(&older), [serde_json::json!({"n": 2})]);
    assert_eq!(lines(&path), [serde_json::json!({"n": 21})]);
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    fs::File::options()
        .write(true)
        .truncate(true)
        .open(&path)
        .unwrap();
    file.append("{\"n\":3}\n").unwrap();
    assert_eq!(lines(&path), [serde_json::json!({"n": 3})]);
    fs::remove_file(&path).unwrap();
    file.append("{\"n\":4}\n").unwrap();
    assert_eq!(lines(&path), [serde_json::json!({"n": 4})]);
    let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(&path).unwrap());
    assert_eq!(mode & 0o7777, 0o600);
}

#[test]
fn what_comes_after_half_a_line_stands_on_a_line_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let mut half = fs::File::create(&path).unwrap();
    half.write_all(b"{\"n\":1}\n{\"n\":").unwrap();
    AuditFile::new(path.clone()).append("{\"n\":2}\n").unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text, "{\"n\":1}\n{\"n\":\n{\"n\":2}\n");
}

#[test]
fn what_could_be_written_in_part_only_is_written_again_on_a_line_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let mut file = AuditFile::new(path.clone());
    file.append("{\"n\":1}\n").unwrap();
    // As on a disk that is full after some more bytes. Every test is a process of its own under nextest, so this
    // limit is this test's alone.
    let most = |bytes| {
        let limit = libc::rlimit {
            rlim_cur: bytes,
            rlim_max: libc::RLIM_INFINITY,
        };
        // SAFETY: it reads one `rlimit`, which lives until the call returns.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &limit) }, 0);
    };
    // SAFETY: it installs no handler; without this, the signal would end the test.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    most(12);
    file.append("{\"n\":2}\n").unwrap_err();
    most(libc::RLIM_INFINITY);
    file.append("{\"n\":2}\n").unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text, "{\"n\":1}\n{\"n\"\n{\"n\":2}\n");
}

#[test]
fn what_is_no_regular_file_is_not_written_to() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    std::os::unix::fs::symlink(folder.path().join("elsewhere"), &path).unwrap();
    assert!(AuditFile::new(path.clone()).open().is_err());
    assert!(AuditFile::new(path).append("x\n").is_err());
    assert!(!folder.path().join("elsewhere").exists());
    assert!(AuditFile::new("/dev/null".into()).open().is_err());
}
