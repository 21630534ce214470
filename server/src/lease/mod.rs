//! The pure core: what a lease and a VM are, how they may change, and what is to be done next.
//!
//! ```text
//! VM     Planned → Starting → Activating → Ready → Assigned
//!           └──────────┴───────────┴─────────┴────────┴──▶ Destroying{reason} ──▶ Gone
//! lease  Waiting → Active{vm, expires_at} → Ending{reason} → Ended{reason}
//!           └─────────────────────────────────▲
//! ```
//!
//! Nothing here knows the time, the database, libvirt or a log: [`plan()`] gets all it needs and
//! answers what to do.

mod capacity;
mod deadline;
mod disk;
mod growth;
mod model;
mod outlook;
mod plan;
mod pool;
mod queue;
mod quiet;
mod quota;
mod roster;
mod routes;
mod shown;
mod snapshot;
mod transition;
mod verdict;
mod wakeup;

#[cfg(test)]
mod tests;

pub use capacity::Budget;
pub use deadline::{Cause, Heard};
pub use model::{DestroyReason, Grant, LeaseEnd, LeasePhase, LeaseRow, PoolKey, VmPhase, VmRow};
pub use outlook::{Pace, outlook};
pub use plan::{Action, plan};
pub use quiet::Quiet;
pub use quota::Quota;
pub use roster::{Roster, Sight};
pub use routes::route;
pub use shown::{Before, Shown};
pub use snapshot::{Activity, Policy, Snapshot, TemplateState};
pub use transition::{IllegalTransition, check_lease, check_vm};
pub use wakeup::next_wakeup;
