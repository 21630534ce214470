//! One connection to an agent: requests and their answers, and what it says unasked.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use guest_protocol::{
    Activated, Activation, Call, Event, Fault, FrameError, FromGuest, Hello, LineDecoder, Logs,
    MAX_LOG_TAIL_BYTES, MAX_NOTICE_BYTES, OLDEST_VERSION, Phase, Reply, Request, Site, Status,
    VERSION, encode,
};
use tokio::io::{AsyncWriteExt, ReadBuf};

use super::{GuestError, printable, printable_lines};
use crate::hypervisor::Channel;

/// How many bytes a guest may send from one answer to the next. Honest guests send a few hundred.
const FLOOD_LIMIT_BYTES: usize = 512 * 1024;

/// How many unread events are kept; a guest that says more loses the oldest.
const KEPT_EVENTS: usize = 64;

/// The first version of the protocol in which a guest is told what the site wants.
const FIRST_WITH_SITE: u32 = 4;

/// How long nothing is read between two looks at a guest that is not listened to.
const DRAIN_PAUSE: Duration = Duration::from_millis(100);

/// A connection to the agent of one guest.
pub struct Link {
    channel: Box<dyn Channel>,
    decoder: LineDecoder,
    next_id: u64,
    /// An answer came: whatever a predecessor had left on the port is behind us, and from now on
    /// each line must be a frame.
    in_step: bool,
    /// Bytes received since the last answer.
    received: usize,
    events: std::collections::VecDeque<Event>,
}

/// What a guest did while nobody asked it for anything.
#[derive(Debug, PartialEq, Eq)]
pub enum Occurrence {
    /// It said this.
    Event(Event),
    /// Its machine or its agent is gone.
    Closed,
}

impl Link {
    /// Takes over a channel that was just connected. `nonce` sets where the ids of requests begin, so
    /// that an answer to a predecessor on the same port is never taken for ours.
    #[must_use]
    pub fn new(channel: Box<dyn Channel>, nonce: u32) -> Self {
        Self {
            channel,
            decoder: LineDecoder::default(),
            next_id: u64::from(nonce) << 16,
            in_step: false,
            received: 0,
            events: std::collections::VecDeque::new(),
        }
    }

    /// Tells a guest that boots what the site wants of its Docker daemon, and waits until that answers.
    ///
    /// # Errors
    /// When it takes longer than `limit`, or the guest is of another version or too far already.
    pub async fn wait_ready(&mut self, limit: Duration, site: &Site) -> Result<(), GuestError> {
        let doing = "become ready";
        within(doing, limit, async {
            let hello = self.say_hello().await?;
            let takes_site = hello.version >= FIRST_WITH_SITE;
            if !takes_site && *site != Site::default() {
                return Err(GuestError::NoSite);
            }
            match hello.phase {
                Phase::Booting => {}
                Phase::Ready => return Ok(()),
                phase => return Err(GuestError::WrongPhase { phase }),
            }
            if takes_site {
                self.prepare(site).await?;
            }
            loop {
                match self.next().await? {
                    Occurrence::Event(Event::Phase(Phase::Ready)) => return Ok(()),
                    Occurrence::Event(_) => {}
                    Occurrence::Closed => return Err(GuestError::Closed),
                }
            }
        })
        .await
    }

    async fn prepare(&mut self, site: &Site) -> Result<(), GuestError> {
        let doing = "take the site's settings";
        let call = Call::Prepare(Box::new(site.clone()));
        match self.request(doing, call).await? {
            Reply::Prepared => Ok(()),
            _ => Err(GuestError::WrongReply { doing }),
        }
    }

    /// Prepares the guest to be copied.
    ///
    /// # Errors
    /// When the agent fails or does not answer within `limit`.
    pub async fn quiesce(&mut self, limit: Duration) -> Result<(), GuestError> {
        let doing = "prepare to be copied";
        match within(doing, limit, self.request(doing, Call::Quiesce)).await? {
            Reply::Quiesced => Ok(()),
            _ => Err(GuestError::WrongReply { doing }),
        }
    }

    /// Gives the guest its identity and returns what it then is, unchecked: see
    /// [`super::check_identity`].
    ///
    /// # Errors
    /// When the agent fails or does not answer within `limit`.
    pub async fn activate(
        &mut self,
        activation: Activation,
        limit: Duration,
    ) -> Result<Activated, GuestError> {
        let doing = "take its identity";
        let call = Call::Activate(Box::new(activation));
        match within(doing, limit, self.request(doing, call)).await? {
            Reply::Activated(activated) => Ok(*activated),
            _ => Err(GuestError::WrongReply { doing }),
        }
    }

    /// Lets the guest listen for its holder.
    ///
    /// # Errors
    /// When the agent fails or does not answer within `limit`.
    pub async fn serve(
        &mut self,
        cert_pem: String,
        client_ca_pem: String,
        limit: Duration,
    ) -> Result<(), GuestError> {
        let doing = "listen for its holder";
        let call = Call::Serve {
            cert_pem,
            client_ca_pem,
        };
        match within(doing, limit, self.request(doing, call)).await? {
            Reply::Serving => Ok(()),
            _ => Err(GuestError::WrongReply { doing }),
        }
    }

    /// Asks the guest how it is.
    ///
    /// # Errors
    /// When the agent does not answer within `limit`.
    pub async fn status(&mut self, limit: Duration) -> Result<Status, GuestError> {
        let doing = "tell its status";
        match within(doing, limit, self.request(doing, Call::Status)).await? {
            Reply::Status(status) => Ok(status),
            _ => Err(GuestError::WrongReply { doing }),
        }
    }

    /// Moves the guest's clock by so many nanoseconds.
    ///
    /// # Errors
    /// When the agent fails or does not answer within `limit`.
    pub async fn move_clock(&mut self, by_ns: i64, limit: Duration) -> Result<(), GuestError> {
        let doing = "set its clock";
        match within(doing, limit, self.request(doing, Call::MoveClock { by_ns })).await? {
            Reply::ClockMoved => Ok(()),
            _ => Err(GuestError::WrongReply { doing }),
        }
    }

    /// Greets an agent of whose state nothing is known.
    ///
    /// # Errors
    /// When the agent is of another version or does not answer within `limit`.
    pub async fn hello(&mut self, limit: Duration) -> Result<Hello, GuestError> {
        within("say hello", limit, self.say_hello()).await
    }

    /// The ends of the guest's logs, `max_bytes` of each at most. Printable.
    ///
    /// # Errors
    /// When the agent fails or does not answer within `limit`.
    pub async fn logs(&mut self, max_bytes: u32, limit: Duration) -> Result<Logs, GuestError> {
        let doing = "send its logs";
        match within(doing, limit, self.request(doing, Call::Logs { max_bytes })).await? {
            Reply::Logs(logs) => {
                let max = usize::try_from(max_bytes)
                    .map_or(MAX_LOG_TAIL_BYTES, |max| max.min(MAX_LOG_TAIL_BYTES));
                Ok(Logs {
                    dockerd: printable_lines(&logs.dockerd, max),
                    containerd: printable_lines(&logs.containerd, max),
                    kernel: printable_lines(&logs.kernel, max),
                })
            }
            _ => Err(GuestError::WrongReply { doing }),
        }
    }

    /// Writes one line on the guest's console; a longer one is cut.
    ///
    /// # Errors
    /// When the agent fails or does not answer within `limit`.
    pub async fn notice(&mut self, mut message: String, limit: Duration) -> Result<(), GuestError> {
        let doing = "write a notice";
        while message.len() > MAX_NOTICE_BYTES {
            message.pop();
        }
        match within(doing, limit, self.request(doing, Call::Notice { message })).await? {
            Reply::Noticed => Ok(()),
            _ => Err(GuestError::WrongReply { doing }),
        }
    }

    /// Listens no more, and waits until the guest is gone. Somebody must read: the news comes behind
    /// whatever was sent before. Slowly, so that a guest that floods waits for us and not we for it.
    pub async fn gone(&mut self) {
        let nothing = |_: &[u8]| Ok::<_, Infallible>(());
        let channel = &mut *self.channel;
        while let Ok(Ok(1..)) = poll_fn(|cx| read(channel, cx, nothing)).await {
            tokio::time::sleep(DRAIN_PAUSE).await;
        }
    }

    /// The next thing the guest says unasked, or that it is gone. Safe to drop while it waits.
    ///
    /// # Errors
    /// When the guest sends rubbish or too much, or the channel fails.
    pub async fn next(&mut self) -> Result<Occurrence, GuestError> {
        if let Some(event) = self.events.pop_front() {
            return Ok(Occurrence::Event(event));
        }
        loop {
            match self.next_frame()? {
                Some(FromGuest::Event(event)) => return Ok(Occurrence::Event(event)),
                Some(FromGuest::Reply { .. }) => {}
                None => {
                    if self.fill().await? == 0 {
                        return Ok(Occurrence::Closed);
                    }
                }
            }
        }
    }

    async fn request(&mut self, doing: &'static str, call: Call) -> Result<Reply, GuestError> {
        let id = self.next_id;
        self.next_id += 1;
        // The empty line ends what a predecessor may have left half written on this port.
        let mut frame = vec![b'\n'];
        frame.extend(encode(&Request { id, call }).map_err(GuestError::Frame)?);
        self.channel
            .write_all(&frame)
            .await
            .map_err(GuestError::Channel)?;
        self.channel.flush().await.map_err(GuestError::Channel)?;
        loop {
            match self.next_frame()? {
                Some(FromGuest::Reply {
                    id: answered,
                    result,
                }) if answered == id => {
                    self.in_step = true;
                    self.received = 0;
                    return result.map_err(|fault| GuestError::Refused {
                        doing,
                        fault: Fault {
                            message: printable(&fault.message),
                            ..fault
                        },
                    });
                }
                Some(FromGuest::Reply { .. }) => {}
                Some(FromGuest::Event(event)) => {
                    if self.events.len() == KEPT_EVENTS {
                        self.events.pop_front();
                    }
                    self.events.push_back(event);
                }
                None => {
                    if self.fill().await? == 0 {
                        return Err(GuestError::Closed);
                    }
                }
            }
        }
    }

    async fn say_hello(&mut self) -> Result<Hello, GuestError> {
        let doing = "say hello";
        match self
            .request(doing, Call::Hello { version: VERSION })
            .await?
        {
            Reply::Hello(hello) if (OLDEST_VERSION..=VERSION).contains(&hello.version) => Ok(hello),
            Reply::Hello(hello) => Err(GuestError::Version {
                theirs: hello.version,
                ours: VERSION,
            }),
            _ => Err(GuestError::WrongReply { doing }),
        }
    }

    /// The next frame of what was read.
    fn next_frame(&mut self) -> Result<Option<FromGuest>, GuestError> {
        loop {
            match self.decoder.next_frame() {
                // The rest of a frame that was being written to a server before this one; how many
                // such lines there may be is bounded by their bytes.
                Err(FrameError::Malformed(_)) if !self.in_step => {}
                // Why it is none would be told in the guest's words.
                Err(FrameError::Malformed(_)) => return Err(GuestError::Malformed),
                frame => return frame.map_err(GuestError::Frame),
            }
        }
    }

    /// Reads once; 0 means that the channel closed.
    async fn fill(&mut self) -> Result<usize, GuestError> {
        let Self {
            channel, decoder, ..
        } = self;
        let count = poll_fn(|cx| read(&mut **channel, cx, |bytes| decoder.feed(bytes)))
            .await
            .map_err(GuestError::Channel)?
            .map_err(GuestError::Frame)?;
        self.received += count;
        if self.received > FLOOD_LIMIT_BYTES {
            return Err(GuestError::Flood {
                limit_bytes: FLOOD_LIMIT_BYTES,
            });
        }
        Ok(count)
    }
}

/// Reads once and hands over what came; answers how much that was. What it is read into is there only during the call:
/// there is somebody who waits for each guest, all the time, and has no memory for what does not come.
fn read<E>(
    channel: &mut dyn Channel,
    cx: &mut Context<'_>,
    mut take: impl FnMut(&[u8]) -> Result<(), E>,
) -> Poll<io::Result<Result<usize, E>>> {
    let mut bytes = [MaybeUninit::uninit(); 8192];
    let mut buffer = ReadBuf::uninit(&mut bytes);
    ready!(Pin::new(channel).poll_read(cx, &mut buffer))?;
    let bytes = buffer.filled();
    Poll::Ready(Ok(take(bytes).map(|()| bytes.len())))
}

async fn within<T>(
    doing: &'static str,
    limit: Duration,
    work: impl Future<Output = Result<T, GuestError>>,
) -> Result<T, GuestError> {
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or(Err(GuestError::Timeout {
            doing,
            limit_s: limit.as_secs(),
        }))
}

#[cfg(test)]
mod tests;
