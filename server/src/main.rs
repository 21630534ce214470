//! The server's binary: flags, logging, a runtime, signals, and the exit code.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use nix::sys::signal::{SigHandler, Signal};
use remote_dockerd::access::command as tokens;
use remote_dockerd::cli::{Cli, Command, ImageCommand, ReportFormat, Settings, TokenCommand};
use remote_dockerd::clock::{Clock, SystemClock};
use remote_dockerd::config::Config;
use remote_dockerd::{app, doctor, heap, image};
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
    let command = cli.command.unwrap_or_default();
    // First of all: the configuration may come from a pipe.
    let kept = match command {
        Command::Serve => heap::keep_little_for_threads(),
        _ => Ok(()),
    };
    // It has more to tell than that the configuration is at fault.
    if let Command::Doctor(args) = command {
        return look_at_host(cli.settings, args.format).unwrap_or_else(|error| {
            report(&error);
            ExitCode::FAILURE
        });
    }
    let config = match cli.settings.load() {
        Ok(config) => config,
        Err(error) => {
            report(&error);
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    match command {
        Command::CheckConfig | Command::Doctor(_) => ExitCode::SUCCESS,
        Command::Ca => match print_ca(&config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                report(&*error);
                ExitCode::FAILURE
            }
        },
        Command::Token(args) => match manage_tokens(&config, args.command) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                report(&*error);
                ExitCode::FAILURE
            }
        },
        Command::Image(args) => match manage_images(&config, args.command) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                report(&*error);
                ExitCode::FAILURE
            }
        },
        Command::Serve => match serve(config, kept) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                report(&*error);
                ExitCode::FAILURE
            }
        },
    }
}

/// What libvirt, which runs inside this process, need not tell: that our machines use features that it
/// does not support officially. They do, on purpose, each of them several times.
const LIBVIRT_LOG_FILTERS: &str = "4:qemu.qemu_domain 4:security.security_manager";

/// Lets the process open as many files as the system allows it: each relayed connection takes two to six, and
/// the usual soft limit of 1024 is a relic of `select`.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::warn!("the limit of open files stays as it is: {error}");
    }
}

/// Prints what clients are to trust.
fn print_ca(config: &Config) -> Result<(), Box<dyn Error>> {
    if !config.http.speaks_tls() {
        return Err("the API speaks no TLS with this configuration; see `http.tls.enabled`".into());
    }
    if let Some((cert, _)) = config.http.tls_files() {
        let cert = cert.display();
        return Err(format!(
            "the API shows the certificate in {cert}: clients need the authority that signed it, if it is not \
             one that they trust anyway"
        )
        .into());
    }
    let path = config.state_dir.join(remote_dockerd::tls::CA_FILE);
    let pem = std::fs::read(&path).map_err(|error| {
        format!(
            "cannot read {}: {error}; the server makes it when it first starts with TLS",
            path.display()
        )
    })?;
    std::io::stdout().write_all(&pem)?;
    Ok(())
}

/// To be called while this process has a single thread.
fn quiet_libvirt() {
    // SAFETY: there is no other thread yet that could read the environment at the same time.
    unsafe { std::env::set_var("LIBVIRT_LOG_FILTERS", LIBVIRT_LOG_FILTERS) };
}

/// Looks at the host and prints what is found. A signal ends it early; what was made to try things out goes
/// away even then.
fn look_at_host(settings: Settings, format: ReportFormat) -> std::io::Result<ExitCode> {
    quiet_libvirt();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let (file, overrides) = settings.split();
    let outcome = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        Ok::<_, std::io::Error>(tokio::select! {
            findings = doctor::examine(file.as_deref(), overrides) => Ok(findings),
            _ = terminate.recv() => Err(Signal::SIGTERM),
            _ = interrupt.recv() => Err(Signal::SIGINT),
        })
    });
    // Images may still be read; nobody wants to know any more.
    runtime.shutdown_background();
    let findings = match outcome? {
        Ok(findings) => findings,
        Err(signal) => {
            die_of(signal);
            return Ok(ExitCode::FAILURE);
        }
    };
    let text = match format {
        ReportFormat::Text => doctor::text(&findings),
        ReportFormat::Json => doctor::json(&findings),
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(if doctor::is_well(&findings) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Data goes to standard output, so that `token create` can be read by a script; words go to standard error.
fn manage_tokens(config: &Config, command: TokenCommand) -> Result<(), Box<dyn Error>> {
    let now = SystemClock.wall();
    let (data, words) = match command {
        TokenCommand::Create(args) => {
            let made = tokens::create(config, args.into(), now)?;
            let words = tokens::made(&made.entry) + made.unaudited.as_deref().unwrap_or_default();
            (format!("{}\n", made.token), words)
        }
        TokenCommand::Revoke(args) => {
            let (token, unaudited) = tokens::revoke(config, &args.name, now)?;
            let words = tokens::revoked(&token) + unaudited.as_deref().unwrap_or_default();
            (String::new(), words)
        }
        TokenCommand::List(args) => {
            let all = tokens::list(config)?;
            let text = match args.format {
                ReportFormat::Text => tokens::table(&all, now),
                ReportFormat::Json => tokens::json(&all, now),
            };
            (text, String::new())
        }
    };
    std::io::stdout().write_all(data.as_bytes())?;
    std::io::stderr().write_all(words.as_bytes())?;
    Ok(())
}

fn manage_images(config: &Config, command: ImageCommand) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let told = runtime.block_on(async {
        let stop = CancellationToken::new();
        // All else can be ended where it is.
        if matches!(command, ImageCommand::Test { .. }) {
            let mut terminate = signal(SignalKind::terminate())?;
            let mut interrupt = signal(SignalKind::interrupt())?;
            let told = stop.clone();
            tokio::spawn(async move {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                told.cancel();
            });
        }
        let done = image::command::run(config, command, SystemClock.wall(), &stop).await;
        Ok::<_, Box<dyn Error>>(done?)
    })?;
    std::io::stdout().write_all(told.data.as_bytes())?;
    std::io::stderr().write_all(told.words.as_bytes())?;
    told.fault.map_or(Ok(()), |fault| Err(fault.into()))
}

fn serve(config: Config, kept: std::io::Result<()>) -> Result<(), Box<dyn Error>> {
    remote_dockerd::telemetry::init(&config.log)?;
    if let Err(error) = kept {
        tracing::warn!("threads keep memory that they do not use: {error}");
    }
    quiet_libvirt();
    heap::share();
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let told = stop.clone();
        tokio::spawn(async move {
            let mut next = async || {
                tokio::select! {
                    _ = terminate.recv() => Signal::SIGTERM,
                    _ = interrupt.recv() => Signal::SIGINT,
                }
            };
            next().await;
            told.cancel();
            leave_at_once(next().await);
        });
        app::run(config, stop).await?;
        Ok(())
    })
}

/// Ends the process by the signal that it got a second time, as if nobody had listened to it: whoever
/// started it sees it die of that signal, which a shell reports as 130 or 143.
fn leave_at_once(signal: Signal) {
    tracing::warn!(
        "told to stop twice: leaving at once; the next start takes away what is left on the host"
    );
    die_of(signal);
}

fn die_of(signal: Signal) {
    // SAFETY: the default action runs no code of this process.
    let _ = unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) };
    let _ = nix::sys::signal::raise(signal);
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
