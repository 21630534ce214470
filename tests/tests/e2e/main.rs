//! End-to-end tests: each starts its own server and leases real machines; see the harness, `e2e`.

mod build;
mod crash;
mod docker;
mod ending;
mod faults;
mod guest;
mod isolation;
mod run;
mod tls;
