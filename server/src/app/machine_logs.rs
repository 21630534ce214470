//! Where the API gets the logs of machines from: the host has what was written on the console, the
//! guest has the rest.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use remote_docker_api::LeaseLogs;

use crate::guest::Guests;
use crate::http::GuestLogs;
use crate::hypervisor::Hypervisor;
use crate::ids::VmId;

/// How much of each log is told, in bytes. All of a guest's together fit into one of its frames.
const PART_BYTES: u32 = 16 * 1024;

/// How long a guest may take. What is on the console is told without it.
const GUEST_LIMIT: Duration = Duration::from_secs(5);

pub(super) struct MachineLogs {
    pub(super) hypervisor: Arc<dyn Hypervisor>,
    pub(super) guests: Guests,
}

#[async_trait]
impl GuestLogs for MachineLogs {
    async fn logs(&self, vm: VmId) -> Option<LeaseLogs> {
        let guest = tokio::time::timeout(GUEST_LIMIT, self.guests.logs(vm, PART_BYTES));
        let console = self.hypervisor.console_tail(vm, PART_BYTES as usize);
        let (console, guest) = tokio::join!(console, guest);
        let logs = match guest {
            Ok(Ok(logs)) => LeaseLogs {
                console: joined([("", console), ("kernel", logs.kernel)]),
                docker: joined([("dockerd", logs.dockerd), ("containerd", logs.containerd)]),
            },
            Ok(Err(_)) | Err(_) => LeaseLogs {
                console,
                docker: String::new(),
            },
        };
        let is_silent = logs.console.is_empty() && logs.docker.is_empty();
        (!is_silent).then_some(logs)
    }
}

/// The parts that say anything, each under its name.
fn joined(parts: [(&str, String); 2]) -> String {
    let mut text = String::new();
    for (name, part) in parts.iter().filter(|(_, part)| !part.is_empty()) {
        if !name.is_empty() {
            text.push_str(&format!("--- {name}\n"));
        }
        text.push_str(part);
        if !part.ends_with('\n') {
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::joined;

    #[test]
    fn parts_that_say_nothing_are_left_out() {
        let parts = [
            ("dockerd", "up\n".to_owned()),
            ("containerd", String::new()),
        ];
        assert_eq!(joined(parts), "--- dockerd\nup\n");
        let parts = [("", "booted".to_owned()), ("kernel", "oom".to_owned())];
        assert_eq!(joined(parts), "booted\n--- kernel\noom\n");
    }
}
