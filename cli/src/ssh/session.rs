//! A shell or a command on the machine, with this side's terminal or streams.

use std::pin::pin;

use nix::sys::signal::Signal;
use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelWriteHalf, Sig};
use tokio::io::{AsyncReadExt, AsyncWriteExt, stderr, stdin, stdout};
use tokio::signal::unix::{SignalKind, signal};

use super::terminal::{self, Raw};
use super::{Connection, SshError};
use crate::error::{CliError, signal_exit_code};
use crate::signals::Signals;

/// The type of SSH's extended data that is standard error (RFC 4254, section 5.2).
const STDERR: u32 = 1;

/// What is to be done on the machine.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// For the login shell there; the shell itself without one.
    pub(crate) command: Option<Vec<u8>>,
    /// A terminal for the command, too.
    pub(crate) tty: bool,
    /// Name of this side's terminal type.
    pub(crate) term: String,
}

impl Connection {
    /// Does what is wanted and answers its exit code; 128 and its number for a signal.
    ///
    /// # Errors
    /// The connection fails, or the streams of this side.
    pub(crate) async fn run(&self, wanted: Wanted, signals: &mut Signals) -> Result<u8, CliError> {
        let channel = self
            .handle
            .channel_open_session()
            .await
            .map_err(SshError::from)?;
        let tty = (wanted.tty || wanted.command.is_none()) && terminal::is_there();
        // From here on until the end, however it comes.
        let _raw = begin(&channel, wanted, tty).await?;
        let (mut from_machine, to_machine) = channel.split();
        let mut feeding = pin!(feed(&to_machine));
        let mut fed = false;
        let mut resized = signal(SignalKind::window_change()).map_err(SshError::Terminal)?;
        let mut code = None;
        loop {
            tokio::select! {
                message = from_machine.wait() => match message {
                    Some(ChannelMsg::Data { data }) => {
                        let mut out = stdout();
                        out.write_all(&data).await.map_err(CliError::Stdout)?;
                        out.flush().await.map_err(CliError::Stdout)?;
                    }
                    Some(ChannelMsg::ExtendedData { data, ext: STDERR }) => {
                        // Somebody who closed standard error does not want to know.
                        let mut out = stderr();
                        let _ = out.write_all(&data).await;
                        let _ = out.flush().await;
                    }
                    Some(ChannelMsg::ExitStatus { exit_status }) => {
                        code = Some(u8::try_from(exit_status).unwrap_or(u8::MAX));
                    }
                    Some(ChannelMsg::ExitSignal { signal_name, .. }) => {
                        code = Some(number_of(&signal_name));
                    }
                    Some(ChannelMsg::Failure) => return Err(SshError::Refused.into()),
                    Some(_) => {}
                    None => return code.ok_or_else(|| SshError::BrokeOff.into()),
                },
                done = &mut feeding, if !fed => {
                    done?;
                    fed = true;
                }
                Some(()) = resized.recv(), if tty => {
                    let (columns, rows) = terminal::size();
                    to_machine.window_change(columns, rows, 0, 0).await.map_err(SshError::from)?;
                }
                caught = signals.next() => {
                    let Some(name) = name_of(caught.signal) else { continue };
                    to_machine.signal(name).await.map_err(SshError::from)?;
                }
            }
        }
    }
}

/// Asks for the shell or the command.
async fn begin(channel: &Channel<Msg>, wanted: Wanted, tty: bool) -> Result<Option<Raw>, SshError> {
    if tty {
        let (columns, rows) = terminal::size();
        channel
            .request_pty(false, &wanted.term, columns, rows, 0, 0, &[])
            .await?;
    }
    match wanted.command {
        Some(command) => channel.exec(true, command).await?,
        None => channel.request_shell(true).await?,
    }
    tty.then(Raw::enter).transpose().map_err(SshError::Terminal)
}

/// Sends standard input, and its end.
async fn feed(to_machine: &ChannelWriteHalf<Msg>) -> Result<(), SshError> {
    let mut input = stdin();
    let mut buffer = vec![0; 32 * 1024];
    loop {
        match input.read(&mut buffer).await.map_err(SshError::Stdin)? {
            0 => return Ok(to_machine.eof().await?),
            length => to_machine.data(&buffer[..length]).await?,
        }
    }
}

/// The names that SSH has for the signals that end programs.
fn name_of(signal: Signal) -> Option<Sig> {
    match signal {
        Signal::SIGINT => Some(Sig::INT),
        Signal::SIGTERM => Some(Sig::TERM),
        Signal::SIGHUP => Some(Sig::HUP),
        Signal::SIGQUIT => Some(Sig::QUIT),
        _ => None,
    }
}

fn number_of(name: &Sig) -> u8 {
    let signal = match name {
        Sig::ABRT => Signal::SIGABRT,
        Sig::ALRM => Signal::SIGALRM,
        Sig::FPE => Signal::SIGFPE,
        Sig::HUP => Signal::SIGHUP,
        Sig::ILL => Signal::SIGILL,
        Sig::INT => Signal::SIGINT,
        Sig::KILL => Signal::SIGKILL,
        Sig::PIPE => Signal::SIGPIPE,
        Sig::QUIT => Signal::SIGQUIT,
        Sig::SEGV => Signal::SIGSEGV,
        Sig::TERM => Signal::SIGTERM,
        Sig::USR1 => Signal::SIGUSR1,
        Sig::Custom(_) => return u8::MAX,
    };
    signal_exit_code(signal as i32)
}
