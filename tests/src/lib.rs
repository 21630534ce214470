//! Harness of the end-to-end tests: the real server, real QEMU, a real Docker daemon in the guest and
//! the real docker CLI.
//!
//! A test begins with a [`TestServer`]. It runs in a network namespace of its own, with a state folder
//! of its own, and starts from a template that all tests share. When it is dropped it gives all leases
//! back, stops the server and asserts that nothing is left on the host. If the test fails it prints and
//! keeps what is known instead, and then takes everything away by force.
//!
//! Takes root, the programs and an image: `make test` provides them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a harness fails by panicking and talks to whoever reads the test's output"
)]

pub mod api;
pub mod bare;
pub mod cli;
pub mod docker;
mod evidence;
pub mod figures;
pub mod footprint;
pub mod foreign;
pub mod host;
mod https;
pub mod machine;
mod netns;
pub mod private_memory;
pub mod process;
pub mod runners;
mod seed;
pub mod server;
pub mod setting;
pub mod site;
pub mod soak;
pub mod tree;
pub mod wait;

pub use api::Api;
pub use cli::Cli;
pub use docker::Docker;
pub use machine::Machine;
pub use server::{Builder, TestServer};
pub use wait::{eventually, until};
