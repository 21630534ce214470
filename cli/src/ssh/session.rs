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
/// A write may take so long after a signal until the program ends without it.
const STUCK: Duration = Duration::from_secs(2);
/// Writes that begin later than this after a signal have nothing to do with it: the command may have gone on.
const CONCERNED: Duration = Duration::from_secs(10);

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
    /// while nobody takes the output, or soon before nobody does, is passed on and then ends this as well.
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
        let mut caught_at: Option<(Signal, Instant)> = None;
        let mut look_at = Instant::now();
        loop {
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
                    if caught_at.is_none() {
                        let now = Instant::now();
                        caught_at = Some((caught.signal, now));
                        look_at = now + STUCK;
                    }
                }
                () = sleep_until(look_at), if caught_at.is_some() => {
                    if let Some((signal, caught)) = caught_at {
                        match look(caught, writes.0.get(), Instant::now()) {
                            Look::Stuck => return Err(CliError::Interrupted(signal)),
                            Look::Again(then) => look_at = then,
                            Look::Over => caught_at = None,
                        }
                    }
                }
            }
        }
    }
}

/// What becomes of a signal that was passed on.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// Nobody takes what the command has said.
    Stuck,
    /// It cannot be told before then.
    Again(Instant),
    /// What comes from now on does not come of the signal.
    Over,
}

/// Judges at `now` about a signal that came at `caught`, while a write is under way since `write`, if one is.
fn look(caught: Instant, write: Option<Instant>, now: Instant) -> Look {
    let last = caught + CONCERNED;
    match write {
        Some(since) if since <= last => {
            let then = since.max(caught) + STUCK;
            if then <= now {
                Look::Stuck
            } else {
                Look::Again(then)
            }
        }
        _ if now >= last => Look::Over,
        _ => Look::Again(now + STUCK),
    }
}

/// Since when a write is under way, if one is.
#[derive(Default)]
struct Writes(Cell<Option<Instant>>);

impl Writes {
    fn begin(&self) {
        self.0.set(Some(Instant::now()));
    }

    fn end(&self) {
        self.0.set(None);
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
                writes.begin();
                out.write_all(&data).await.map_err(CliError::Stdout)?;
                out.flush().await.map_err(CliError::Stdout)?;
                writes.end();
            }
            Some(ChannelMsg::ExtendedData { data, ext: STDERR }) => {
                // Somebody who closed standard error does not want to know.
                let mut out = stderr();
                writes.begin();
                let _ = out.write_all(&data).await;
                let _ = out.flush().await;
                writes.end();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_ends_this_when_a_write_of_its_time_is_stuck() {
        let caught = Instant::now();
        let at = |seconds: u64| caught + Duration::from_secs(seconds);
        // One that was under way, and one that began right after.
        assert_eq!(look(at(5), Some(at(1)), at(6)), Look::Again(at(7)));
        assert_eq!(look(at(5), Some(at(1)), at(7)), Look::Stuck);
        assert_eq!(look(caught, Some(at(1)), at(2)), Look::Again(at(3)));
        assert_eq!(look(caught, Some(at(1)), at(3)), Look::Stuck);
        // Nothing is written yet.
        assert_eq!(look(caught, None, at(2)), Look::Again(at(4)));
        // The command went on.
        assert_eq!(look(caught, None, at(10)), Look::Over);
        assert_eq!(look(caught, Some(at(11)), at(12)), Look::Over);
    }
}
