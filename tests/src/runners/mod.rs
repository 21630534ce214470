//! Stand-ins for what runs jobs of CI systems: each takes the very files that users take, and gives them
//! what the real one documents that it gives.

pub mod github;
pub mod gitlab;
pub mod id_tokens;
pub mod jenkins;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::bounded;
use crate::{Cli, TestServer};

/// A job as a whole may take so long.
const LIMIT: Duration = Duration::from_secs(200);

/// Folder of the steps in this repository.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn integrations() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cli/integrations");
    folder.canonicalize().expect("the folder of the steps")
}

/// `program`, with nothing of the caller's environment: the client and the docker CLI are on the path.
fn command(server: &TestServer, cli: &Cli, program: &str) -> Command {
    let folder = |program: &Path| program.parent().map(|it| it.display().to_string());
    let path = [
        folder(cli.program()),
        folder(&server.setting().docker()),
        Some("/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
    ];
    let path: Vec<String> = path.into_iter().flatten().collect();
    let mut command = bounded(LIMIT, program);
    command
        .env_clear()
        .env("PATH", path.join(":"))
        .env("HOME", cli.home())
        .env("LANG", "C.UTF-8");
    command
}
