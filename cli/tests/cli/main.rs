//! The program as its users meet it: real processes, signals, terminals and files, against a fake
//! server that answers as each test says.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too; clippy knows that of #[test] only"
)]

mod fake;
mod sandbox;
mod terminal;

mod budget;
mod docker_config;
mod doctor;
mod formats;
mod generate;
mod help;
mod hostile;
mod lease;
mod list;
mod progress;
mod run;
mod run_alive;
mod run_signals;
mod ssh;
mod start;
mod stop;
mod tls;
mod versions;
mod warnings;
