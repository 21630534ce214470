//! One connection to an agent: requests and their answers, and what it says unasked.

use std::time::Duration;

use guest_protocol::{
    Activated, Activation, Call, Event, FrameError, FromGuest, LineDecoder, Phase, Reply, Request,
    Status, VERSION, encode,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::GuestError;
use crate::hypervisor::Channel;

/// How many bytes a guest may send while one answer is awaited. Honest guests send a few hundred.
const FLOOD_LIMIT_BYTES: usize = 512 * 1024;

/// How many unread events are kept; a guest that says more loses the oldest.
const KEPT_EVENTS: usize = 64;

/// A connection to the agent of one guest.
pub struct Link {
    channel: Box<dyn Channel>,
    decoder: LineDecoder,
    next_id: u64,
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
            events: std::collections::VecDeque::new(),
        }
    }

    /// Waits until the guest's Docker daemon answers.
    ///
    /// # Errors
    /// When it takes longer than `limit`, or the guest is of another version or too far already.
    pub async fn wait_ready(&mut self, limit: Duration) -> Result<(), GuestError> {
        let doing = "become ready";
        within(doing, limit, async {
            match self
                .request("say hello", Call::Hello { version: VERSION })
                .await?
            {
                Reply::Hello(hello) if hello.version != VERSION => {
                    return Err(GuestError::Version {
                        theirs: hello.version,
                        ours: VERSION,
                    });
                }
                Reply::Hello(hello) => match hello.phase {
                    Phase::Booting => {}
                    Phase::Ready => return Ok(()),
                    phase => return Err(GuestError::WrongPhase { phase }),
                },
                _ => return Err(GuestError::WrongReply { doing: "say hello" }),
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

    /// The next thing the guest says unasked, or that it is gone. Safe to drop while it waits.
    ///
    /// # Errors
    /// When the guest sends rubbish or the channel fails.
    pub async fn next(&mut self) -> Result<Occurrence, GuestError> {
        if let Some(event) = self.events.pop_front() {
            return Ok(Occurrence::Event(event));
        }
        loop {
            match self
                .decoder
                .next_frame::<FromGuest>()
                .map_err(GuestError::Frame)?
            {
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
        let mut received = 0;
        loop {
            match self.decoder.next_frame::<FromGuest>() {
                Ok(Some(FromGuest::Reply {
                    id: answered,
                    result,
                })) if answered == id => {
                    return result.map_err(|fault| GuestError::Refused { doing, fault });
                }
                Ok(Some(FromGuest::Reply { .. })) => {}
                Ok(Some(FromGuest::Event(event))) => {
                    if self.events.len() == KEPT_EVENTS {
                        self.events.pop_front();
                    }
                    self.events.push_back(event);
                }
                // The rest of a frame that was being written to a server before this one; how many
                // such lines there may be is bounded by their bytes.
                Err(FrameError::Malformed(_)) => {}
                Err(error) => return Err(GuestError::Frame(error)),
                Ok(None) => match self.fill().await? {
                    0 => return Err(GuestError::Closed),
                    count => received += count,
                },
            }
            if received > FLOOD_LIMIT_BYTES {
                return Err(GuestError::Flood {
                    limit_bytes: FLOOD_LIMIT_BYTES,
                });
            }
        }
    }

    /// Reads once; 0 means that the channel closed.
    async fn fill(&mut self) -> Result<usize, GuestError> {
        let mut buffer = [0; 8192];
        let count = self
            .channel
            .read(&mut buffer)
            .await
            .map_err(GuestError::Channel)?;
        self.decoder
            .feed(&buffer[..count])
            .map_err(GuestError::Frame)?;
        Ok(count)
    }
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
