//! Disks of VMs: qcow2 files that hold what differs from the one below.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::process::Command;

use super::HypervisorError;
use super::folder::file_error;
use super::qemu_user::QemuUser;

const QEMU_IMG: &str = "qemu-img";

/// How many templates' fresh overlays are remembered, some 200 KiB each.
const MAX_REMEMBERED: usize = 32;

/// How much of a failing program's words goes into an error, in bytes.
const MAX_DETAIL: usize = 800;

/// Makes overlays. A fresh overlay over a disk that never changes is always the same few blocks, so
/// those of templates are made by `qemu-img` once and written from memory after that.
#[derive(Debug, Default)]
pub(super) struct Disks {
    fresh: Mutex<HashMap<PathBuf, Arc<[u8]>>>,
}

impl Disks {
    /// Makes an overlay over `base` for QEMU to write to.
    ///
    /// # Errors
    /// When it cannot be made or is there.
    pub(super) async fn overlay(
        &self,
        base: &Path,
        path: &Path,
        user: &QemuUser,
    ) -> Result<(), HypervisorError> {
        if path.exists() {
            return Err(file_error(
                "create",
                path,
                std::io::ErrorKind::AlreadyExists.into(),
            ));
        }
        let output = Command::new(QEMU_IMG)
            .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"])
            .args([base, path])
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            // A call that nobody waits for any more still ends by itself.
            .kill_on_drop(false)
            .output()
            .await
            .map_err(|error| HypervisorError::Program {
                program: QEMU_IMG,
                detail: match error.kind() {
                    std::io::ErrorKind::NotFound => {
                        "it is not installed: install the package qemu-utils".to_owned()
                    }
                    _ => error.to_string(),
                },
            })?;
        judge(&output, path)?;
        user.give(path, 0o600)
            .map_err(|error| file_error("give away", path, error))
    }

    /// Makes an overlay over the disk of a template, which never changes.
    ///
    /// # Errors
    /// When it cannot be made or is there.
    pub(super) async fn overlay_of_template(
        &self,
        base: &Path,
        path: &Path,
        user: &QemuUser,
    ) -> Result<(), HypervisorError> {
        let known = self.remembered().get(base).cloned();
        let Some(fresh) = known else {
            self.overlay(base, path, user).await?;
            let bytes = tokio::fs::read(path)
                .await
                .map_err(|error| file_error("read", path, error))?;
            let mut remembered = self.remembered();
            if remembered.len() >= MAX_REMEMBERED {
                remembered.clear();
            }
            remembered.insert(base.to_owned(), bytes.into());
            return Ok(());
        };
        let mut options = tokio::fs::OpenOptions::new();
        let failed = |error| file_error("create", path, error);
        options.write(true).create_new(true).mode(0o600);
        let mut file = options.open(path).await.map_err(failed)?;
        let written = async {
            tokio::io::AsyncWriteExt::write_all(&mut file, &fresh).await?;
            tokio::io::AsyncWriteExt::flush(&mut file).await
        };
        written.await.map_err(failed)?;
        user.give(path, 0o600)
            .map_err(|error| file_error("give away", path, error))
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, Arc<[u8]>>> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads how `qemu-img` ended.
fn judge(output: &Output, path: &Path) -> Result<(), HypervisorError> {
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim();
    if says_disk_full(said) {
        return Err(HypervisorError::DiskFull {
            path: path.to_owned(),
        });
    }
    let mut start = said.len().saturating_sub(MAX_DETAIL);
    while !said.is_char_boundary(start) {
        start += 1;
    }
    Err(HypervisorError::Program {
        program: QEMU_IMG,
        detail: format!("{}: {}", output.status, &said[start..]),
    })
}

/// Whether a program or library that was given no other way to say so says that the disk is full.
pub(super) fn says_disk_full(message: &str) -> bool {
    // The words for ENOSPC and EDQUOT in the C locale.
    ["No space left on device", "Disk quota exceeded"]
        .iter()
        .any(|words| message.contains(words))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    fn ended(code: i32, stderr: &str) -> Output {
        Output {
            status: ExitStatus::from_raw(code << 8),
            stdout: Vec::new(),
            stderr: stderr.as_bytes().to_vec(),
        }
    }

    #[test]
    fn the_end_of_qemu_img_is_understood() {
        let path = Path::new("/state/vms/vm/disk.qcow2");
        judge(&ended(0, ""), path).unwrap();
        let full = "qemu-img: /state/vms/vm/disk.qcow2: Could not write: No space left on device\n";
        let error = judge(&ended(1, full), path).unwrap_err();
        assert!(
            matches!(error, HypervisorError::DiskFull { .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains("/state/vms/vm/disk.qcow2"));
        let missing = "qemu-img: x: Could not open '/t/disk': No such file or directory";
        let error = judge(&ended(1, missing), path).unwrap_err().to_string();
        assert!(
            error.contains("No such file") && error.contains("qemu-img"),
            "{error}"
        );
    }

    #[test]
    fn a_flood_of_words_is_cut() {
        let flood = "ü".repeat(100_000) + "the end";
        let error = judge(&ended(1, &flood), Path::new("/x")).unwrap_err();
        let text = error.to_string();
        assert!(
            text.len() < 2 * MAX_DETAIL && text.ends_with("the end"),
            "{text}"
        );
    }
}
