//! Listens for the host's disk running full. Guests write as fast as the disk takes it, so this is
//! asked for far more often than the rest of the host, of which it is the cheapest part.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::hypervisor::Hypervisor;

/// How often the disk is looked at.
const PERIOD: Duration = Duration::from_secs(1);

/// How much is free, and a task that keeps it true. The task ends with this.
pub(super) struct DiskWatch {
    /// How much is to stay free, in bytes.
    reserve: u64,
    free: watch::Sender<Option<u64>>,
    /// Changes when it is, was or has just become known whether little is free.
    alarm: watch::Receiver<Option<u64>>,
    task: Option<AbortHandle>,
}

impl DiskWatch {
    /// Knows nothing yet.
    pub(super) fn new(reserve: u64) -> Self {
        let free = watch::Sender::new(None);
        Self {
            reserve,
            alarm: free.subscribe(),
            free,
            task: None,
        }
    }

    /// Begins to look.
    pub(super) fn start(&mut self, hypervisor: Arc<dyn Hypervisor>) {
        let task = tokio::spawn(watch(hypervisor, self.reserve, self.free.clone()));
        if let Some(former) = self.task.replace(task.abort_handle()) {
            former.abort();
        }
    }

    /// How much is free in bytes, as far as it is known.
    pub(super) fn free(&self) -> Option<u64> {
        *self.free.borrow()
    }

    /// Waits until there is a reason to look at the host: less than the reserve is free, or no longer.
    pub(super) async fn alarm(&mut self) {
        if self.alarm.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// What is wrong, in words.
    pub(super) fn trouble(&self) -> Option<String> {
        let free = self.free().filter(|free| *free < self.reserve)?;
        Some(lacking(free, self.reserve))
    }
}

impl Drop for DiskWatch {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

async fn watch(hypervisor: Arc<dyn Hypervisor>, reserve: u64, known: watch::Sender<Option<u64>>) {
    let mut period = tokio::time::interval(PERIOD);
    period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut fails = false;
    loop {
        period.tick().await;
        let free = match hypervisor.free_disk().await {
            Ok(free) => free,
            Err(error) => {
                if !std::mem::replace(&mut fails, true) {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "it cannot be told how much of the disk is free: nothing is done when it runs full"
                    );
                }
                continue;
            }
        };
        fails = false;
        known.send_if_modified(|known| {
            let is_low = free < reserve;
            let was_low = known.map(|free| free < reserve);
            match was_low {
                Some(true) if !is_low => tracing::info!("the disk has its reserve again"),
                Some(false) | None if is_low => {
                    tracing::warn!("no machines are started: {}", lacking(free, reserve));
                }
                _ => {}
            }
            *known = Some(free);
            is_low || was_low != Some(false)
        });
    }
}

fn lacking(free: u64, reserve: u64) -> String {
    format!(
        "no space left but {} MiB on the disk of the state folder, less than `limits.disk_reserve_mib` = {}",
        free >> 20,
        reserve >> 20
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::hypervisor::sim::{SimFault, SimHypervisor, Verb};

    #[tokio::test(start_paused = true)]
    async fn it_cries_every_second_while_little_is_free_and_once_more_when_there_is_enough() {
        let sim = SimHypervisor::new(Arc::new(SystemClock));
        let mut disk = DiskWatch::new(100);
        let heard = async |disk: &mut DiskWatch| {
            let limit = Duration::from_millis(1500);
            tokio::time::timeout(limit, disk.alarm()).await.is_ok()
        };
        disk.start(Arc::new(sim.clone()));
        assert!(heard(&mut disk).await, "it is known now");
        assert!(!heard(&mut disk).await);
        sim.set_free_disk(99);
        for _ in 0..5 {
            assert!(heard(&mut disk).await);
            assert!(disk.trouble().unwrap().contains("0 MiB"));
        }
        sim.inject(Verb::FreeDisk, SimFault::Fails);
        assert!(!heard(&mut disk).await, "nothing is known that was not");
        sim.set_free_disk(100);
        assert!(heard(&mut disk).await);
        assert_eq!((disk.free(), disk.trouble()), (Some(100), None));
        assert!(!heard(&mut disk).await);
    }
}
