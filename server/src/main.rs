//! The server's binary: flags, logging, a runtime, signals, and the exit code.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use remote_dockerd::app;
use remote_dockerd::cli::{Cli, Command};
use remote_dockerd::config::Config;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The configuration or the command line cannot be used (`EX_CONFIG` of sysexits.h).
const EXIT_CONFIG: u8 = 78;

fn main() -> ExitCode {
    let cli = Cli::parse();
    #[cfg(feature = "failpoints")]
    if let Some(name) = &cli.settings.failpoint {
        remote_dockerd::failpoint::arm(name.clone());
    }
    let config = match cli.settings.load() {
        Ok(config) => config,
        Err(error) => {
            report(&error);
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    match cli.command.unwrap_or_default() {
        Command::CheckConfig => ExitCode::SUCCESS,
        Command::Serve => match serve(config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                report(&*error);
                ExitCode::FAILURE
            }
        },
    }
}

fn serve(config: Config) -> Result<(), Box<dyn Error>> {
    remote_dockerd::telemetry::init(&config.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let told = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("told to stop: machines of active leases stay for the next start");
            told.cancel();
        });
        app::run(config, stop).await?;
        Ok(())
    })
}

/// Says what went wrong and why, down to the first cause. Not through the log: its filter may be part
/// of what is wrong.
fn report(error: &(dyn Error + 'static)) {
    let mut text = format!("error: {error}\n");
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!("  because: {error}\n"));
        cause = error.source();
    }
    // Without a standard error there is nobody to tell.
    let _ = std::io::stderr().write_all(text.as_bytes());
}
