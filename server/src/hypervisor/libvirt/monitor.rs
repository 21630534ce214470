//! QEMU's own language (QMP), spoken through libvirt.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use virt::domain::Domain;

use super::LibvirtError;
use crate::hypervisor::HypervisorError;
use crate::hypervisor::disk::says_disk_full;

/// Takes a command to QEMU and brings the answer. Each costs a clone two changes of threads, in libvirt and in QEMU.
pub(super) trait Monitor {
    /// # Errors
    /// When QEMU cannot be talked to.
    fn ask(&self, command: &str) -> Result<String, HypervisorError>;
}

impl Monitor for Domain {
    fn ask(&self, command: &str) -> Result<String, HypervisorError> {
        self.qemu_monitor_command(command, 0).doing("talk to QEMU")
    }
}

/// How often a running migration is looked at.
const POLL: Duration = Duration::from_millis(2);

/// Writes the state of the devices to `path`. Memory that is mapped shared stays where it is.
///
/// # Errors
/// When QEMU cannot, or takes longer than `limit`.
pub(super) fn save_devices(
    domain: &impl Monitor,
    path: &Path,
    limit: Duration,
) -> Result<(), HypervisorError> {
    let doing = "write the state of the devices";
    ignore_shared_memory(domain)?;
    let target = json!({ "uri": file_uri(path) });
    command(domain, doing, "migrate", &target)?;
    finish_migration(domain, doing, path, limit)
}

/// Loads the state of the devices from `path` into a VM that was started to wait for it.
///
/// # Errors
/// When QEMU cannot, or takes longer than `limit`.
pub(super) fn load_devices(
    domain: &impl Monitor,
    path: &Path,
    limit: Duration,
) -> Result<(), HypervisorError> {
    let doing = "load the state of the devices";
    ignore_shared_memory(domain)?;
    let source = json!({ "uri": file_uri(path) });
    command(domain, doing, "migrate-incoming", &source)?;
    finish_migration(domain, doing, path, limit)
}

fn ignore_shared_memory(domain: &impl Monitor) -> Result<(), HypervisorError> {
    let capabilities = json!({
        "capabilities": [{ "capability": "x-ignore-shared", "state": true }]
    });
    command(
        domain,
        "leave shared memory out of a migration",
        "migrate-set-capabilities",
        &capabilities,
    )?;
    Ok(())
}

fn finish_migration(
    domain: &impl Monitor,
    doing: &'static str,
    path: &Path,
    limit: Duration,
) -> Result<(), HypervisorError> {
    let started = Instant::now();
    loop {
        let answer = command(domain, doing, "query-migrate", &Value::Null)?;
        match Progress::read(&answer) {
            Progress::Completed => return Ok(()),
            Progress::Failed(detail) if says_disk_full(&detail) => {
                let path = path.to_owned();
                return Err(HypervisorError::DiskFull { path });
            }
            Progress::Failed(detail) => return Err(HypervisorError::Monitor { doing, detail }),
            Progress::Running if started.elapsed() > limit => {
                let limit_s = limit.as_secs();
                return Err(HypervisorError::Timeout { doing, limit_s });
            }
            Progress::Running => std::thread::sleep(POLL),
        }
    }
}

fn command(
    domain: &impl Monitor,
    doing: &'static str,
    name: &str,
    arguments: &Value,
) -> Result<Value, HypervisorError> {
    let mut command = json!({ "execute": name });
    if !arguments.is_null() {
        command["arguments"] = arguments.clone();
    }
    let answer = domain.ask(&command.to_string())?;
    read_answer(doing, &answer)
}

fn read_answer(doing: &'static str, answer: &str) -> Result<Value, HypervisorError> {
    let failed = |detail: String| HypervisorError::Monitor { doing, detail };
    let mut answer: Value = serde_json::from_str(answer)
        .map_err(|error| failed(format!("its answer is not JSON: {error}")))?;
    if let Some(error) = answer.get("error") {
        let words = error["desc"].as_str().unwrap_or("no reason given");
        return Err(failed(words.to_owned()));
    }
    answer
        .get_mut("return")
        .map(Value::take)
        .ok_or_else(|| failed("its answer is neither a result nor an error".to_owned()))
}

#[derive(Debug, PartialEq, Eq)]
enum Progress {
    Running,
    Completed,
    Failed(String),
}

impl Progress {
    fn read(answer: &Value) -> Self {
        match answer["status"].as_str() {
            Some("completed") => Self::Completed,
            Some(status @ ("failed" | "cancelled")) => {
                let detail = answer["error-desc"].as_str();
                Self::Failed(detail.unwrap_or(status).to_owned())
            }
            // Before it begins there is no status at all.
            _ => Self::Running,
        }
    }
}

fn file_uri(path: &Path) -> String {
    format!("file:{}", path.display())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// A QEMU that has done everything at once, and what it was asked.
    #[derive(Default)]
    struct Prompt(RefCell<Vec<String>>);

    impl Monitor for Prompt {
        fn ask(&self, command: &str) -> Result<String, HypervisorError> {
            let command: Value = serde_json::from_str(command).unwrap();
            let name = command["execute"].as_str().unwrap().to_owned();
            self.0.borrow_mut().push(name);
            Ok(json!({ "return": { "status": "completed" } }).to_string())
        }
    }

    #[test]
    fn a_clone_costs_three_round_trips_to_qemu() {
        let qemu = Prompt::default();
        load_devices(&qemu, Path::new("/devices"), Duration::from_secs(60)).unwrap();
        assert_eq!(
            *qemu.0.borrow(),
            [
                "migrate-set-capabilities",
                "migrate-incoming",
                "query-migrate"
            ]
        );
    }

    #[test]
    fn answers_are_results_or_errors() {
        let ok = read_answer("try", r#"{"return":{"status":"active"},"id":"libvirt-9"}"#);
        assert_eq!(ok.unwrap()["status"], "active");
        let refused = r#"{"error":{"class":"GenericError","desc":"no such file"}}"#;
        let error = read_answer("try", refused).unwrap_err();
        assert_eq!(error.to_string(), "QEMU could not try: no such file");
        for rubbish in ["", "[]", "{}", "{\"return\"", "null"] {
            assert!(read_answer("try", rubbish).is_err(), "{rubbish}");
        }
    }

    #[test]
    fn a_migration_ends_well_or_badly_or_goes_on() {
        let read = |value: Value| Progress::read(&value);
        assert_eq!(read(json!({})), Progress::Running);
        assert_eq!(read(json!({"status": "setup"})), Progress::Running);
        assert_eq!(read(json!({"status": "active"})), Progress::Running);
        assert_eq!(read(json!({"status": "completed"})), Progress::Completed);
        let failed = json!({"status": "failed", "error-desc": "No space left on device"});
        assert_eq!(
            read(failed),
            Progress::Failed("No space left on device".into())
        );
        assert_eq!(
            read(json!({"status": "failed"})),
            Progress::Failed("failed".into())
        );
    }
}
