//! End-to-end tests: each starts its own server and leases real machines; see the harness, `e2e`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

mod access;
mod activity;
mod api_tls;
mod attack;
mod build;
mod compose;
mod confinement;
mod crash;
mod docker;
mod doctor;
mod ending;
mod engines;
mod faults;
mod guest;
mod hygiene;
mod images;
mod integrations;
mod isolation;
mod life;
mod nested;
mod python;
mod recipe;
mod run;
mod rust_client;
mod schema;
mod site;
mod soak;
mod ssh;
mod stopping;
mod tls;
mod unprivileged;
