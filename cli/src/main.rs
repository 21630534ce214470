//! `setup-remote-docker`: leases a Docker daemon on a fresh virtual machine and hands it to a build.
//!
//! Data goes to standard output, talk to standard error. One thread does everything: the program
//! starts in milliseconds and holds nothing but one connection and one child.

use std::process::ExitCode;

use clap::Parser;

mod args;
mod client;
mod clock;
mod commands;
mod config;
mod docker;
mod doctor;
mod environment;
mod error;
mod exports;
mod keys;
mod lease_dir;
mod output;
mod progress;
mod server_url;
mod session;
mod signals;
mod ssh;
mod tls;
mod transport;
mod ui;
mod warnings;
mod watch;

use error::CliError;

fn main() -> ExitCode {
    let parsed = args::CommandLine::try_parse().and_then(args::CommandLine::into_command);
    let (flags, command) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            if error.use_stderr() {
                commands::print_failure(args::failure_for_a_shell(std::env::args_os()));
            }
            error.exit()
        }
    };
    let failure = command.failure_for_a_shell();
    let environment = environment::Environment::read();
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CliError::Runtime)
        .and_then(|runtime| {
            let result = runtime.block_on(commands::dispatch(&flags, environment, command));
            // A name that is still being resolved must not hold the program up.
            runtime.shutdown_background();
            result
        });
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            ui::Ui::new(flags.quiet, true).error(&error, &error.hints());
            commands::print_failure(failure);
            ExitCode::from(error.exit_code())
        }
    }
}
