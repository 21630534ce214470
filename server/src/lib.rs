//! `remote-dockerd`: leases out virtual machines that run a Docker daemon each.
//!
//! ARCHITECTURE.md at the top of the repository has the map of these rooms, the invariants and
//! three walk-throughs.

pub mod access;
pub mod app;
pub mod audit;
pub mod calendar;
pub mod cli;
pub mod clock;
pub mod config;
pub mod doctor;
pub mod failpoint;
pub mod guest;
pub mod heap;
pub mod http;
pub mod hypervisor;
pub mod ids;
pub mod image;
pub mod lease;
mod log_budget;
pub mod metrics;
pub mod network;
mod numbers;
pub mod oidc;
pub mod pki;
mod private_file;
pub mod reconcile;
pub mod relay;
pub mod seen;
pub mod state_dir;
pub mod store;
mod table;
pub mod telemetry;
pub mod tls;
mod words;
