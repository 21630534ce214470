//! A shell or a command on the machine, with this side's terminal or streams.
//!
//! What the machine says, what is typed and what this process is told go their ways beside each other: none
//! may hold another up. Above all, a reader of standard output that does not read must not keep a signal from
//! doing its work.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::pending;
use std::pin::pin;
use std::time::Duration;

use nix::sys::signal::Signal;
use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Sig};
use tokio::io::{AsyncReadExt, AsyncWriteExt, stderr, stdin, stdout};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::terminal::{self, Raw};
use super::{Connection, SshError};
use crate::error::{CliError, signal_exit_code};
use crate::signals::Signals;

/// The type of SSH's extended data that is standard error (RFC 4254, section 5.2).
const STDERR: u32 = 1;
/// A write that a signal finds under way may take so long until the program ends without it.
const STUCK: Duration = Duration::from_secs(2);

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

/// What the command is told beside its input.
enum Word {
    Signal(Sig),
    Size(u32, u32),
}

impl Connection {
    /// Does what is wanted and answers its exit code; 128 and its number for a signal. A signal that comes
    /// while nobody takes the output is passed on and then ends this as well.
    ///
    /// # Errors
    /// The connection fails, or the streams of this side, or a signal came that nothing came of.
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
        let writes = Writes::default();
        let (words, told) = mpsc::unbounded_channel();
        let mut output = pin!(deliver(&mut from_machine, &writes));
        let mut telling = pin!(tell(&to_machine, told));
        let mut feeding = pin!(feed(&to_machine));
        let mut fed = false;
        let mut resized = signal(SignalKind::window_change()).map_err(SshError::Terminal)?;
        let mut stuck: Option<Stuck> = None;
        loop {
            let given_up = stuck
                .as_ref()
                .map_or_else(Instant::now, |stuck| stuck.until);
            tokio::select! {
                code = &mut output => return code,
                never = &mut telling => match never {},
                done = &mut feeding, if !fed => {
                    done?;
                    fed = true;
                }
                Some(()) = resized.recv(), if tty => {
                    let (columns, rows) = terminal::size();
                    let _ = words.send(Word::Size(columns, rows));
                }
                caught = signals.next() => {
                    let Some(name) = name_of(caught.signal) else { continue };
                    // The receiver lives as long as this loop.
                    let _ = words.send(Word::Signal(name));
                    let under_way = writes.under_way();
                    stuck = stuck.or_else(|| under_way.map(|write| Stuck {
                        write,
                        signal: caught.signal,
                        until: Instant::now() + STUCK,
                    }));
                }
                () = sleep_until(given_up), if stuck.is_some() => {
                    if let Some(stuck) = stuck.take()
                        && writes.under_way() == Some(stuck.write)
                    {
                        return Err(CliError::Interrupted(stuck.signal));
                    }
                }
            }
        }
    }
}

/// A write that was under way when a signal came.
struct Stuck {
    write: u64,
    signal: Signal,
    until: Instant,
}

/// Counts writes: odd while one is under way.
#[derive(Default)]
struct Writes(Cell<u64>);

impl Writes {
    fn begin_or_end(&self) {
        self.0.set(self.0.get() + 1);
    }

    fn under_way(&self) -> Option<u64> {
        let count = self.0.get();
        (count % 2 == 1).then_some(count)
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

/// Writes what the machine says, until it says how the command ended.
async fn deliver(from_machine: &mut ChannelReadHalf, writes: &Writes) -> Result<u8, CliError> {
    let mut code = None;
    loop {
        match from_machine.wait().await {
            Some(ChannelMsg::Data { data }) => {
                let mut out = stdout();
                writes.begin_or_end();
                out.write_all(&data).await.map_err(CliError::Stdout)?;
                out.flush().await.map_err(CliError::Stdout)?;
                writes.begin_or_end();
            }
            Some(ChannelMsg::ExtendedData { data, ext: STDERR }) => {
                // Somebody who closed standard error does not want to know.
                let mut out = stderr();
                writes.begin_or_end();
                let _ = out.write_all(&data).await;
                let _ = out.flush().await;
                writes.begin_or_end();
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
        }
    }
}

/// Passes words on as fast as the connection takes them. That it takes none any more is for [`deliver`] to
/// find out, which learns why.
async fn tell(
    to_machine: &ChannelWriteHalf<Msg>,
    mut words: mpsc::UnboundedReceiver<Word>,
) -> Infallible {
    while let Some(word) = words.recv().await {
        let told = match word {
            Word::Signal(name) => to_machine.signal(name).await,
            Word::Size(columns, rows) => to_machine.window_change(columns, rows, 0, 0).await,
        };
        if told.is_err() {
            break;
        }
    }
    pending().await
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
