//! Records the frames that pass one network card.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Mutex;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::sys::socket::{LinkAddr, recvfrom, setsockopt, sockopt::RcvBufForce};

use super::place::Place;

/// What the kernel keeps until it is looked at: many times what a test makes.
const BUFFER: usize = 64 << 20;

/// Which way a frame went, as the card's own namespace sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    In,
    Out,
}

/// A frame that was seen, or its beginning.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub(super) way: Way,
    pub(super) bytes: Vec<u8>,
}

/// Somebody who sees each frame from when they were called. Frames that come in are seen before any filter, frames
/// that go out after all of them.
#[derive(Debug)]
pub(super) struct Witness {
    card: String,
    wire: OwnedFd,
    seen: Mutex<Vec<Frame>>,
}

impl Witness {
    pub(super) fn of(place: &Place, card: &str) -> Self {
        let wire = place.run(|| attack_probe::wire::open(card).unwrap());
        setsockopt(&wire, RcvBufForce, &BUFFER).unwrap();
        fcntl(wire.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        Self {
            card: card.to_owned(),
            wire,
            seen: Mutex::default(),
        }
    }

    /// Whether a frame like this has passed by now.
    pub(super) fn saw(&self, like: impl Fn(&Frame) -> bool) -> bool {
        !self.all(|frame| like(frame).then_some(())).is_empty()
    }

    /// What all frames that have passed by now say, each once.
    pub(super) fn all<T: Ord>(&self, what: impl Fn(&Frame) -> Option<T>) -> BTreeSet<T> {
        let mut seen = self.seen.lock().unwrap();
        loop {
            // All that is looked at is at the beginning; the rest is cut off.
            let mut bytes = [0; 512];
            let (length, from) = match recvfrom::<LinkAddr>(self.wire.as_raw_fd(), &mut bytes) {
                Ok(received) => received,
                Err(Errno::EAGAIN) => break,
                Err(error) => panic!("listening on {}: {error}", self.card),
            };
            let out = from.map(|from| from.pkttype()) == Some(libc::PACKET_OUTGOING);
            seen.push(Frame {
                way: if out { Way::Out } else { Way::In },
                bytes: bytes[..length].to_vec(),
            });
        }
        let lost = self.lost();
        assert_eq!(lost, 0, "frames on {} passed unseen", self.card);
        seen.iter().filter_map(what).collect()
    }

    /// How many frames did not fit into the buffer since this was last asked.
    fn lost(&self) -> u32 {
        let mut counted = libc::tpacket_stats {
            tp_packets: 0,
            tp_drops: 0,
        };
        let mut length = size_of::<libc::tpacket_stats>() as u32;
        // SAFETY: the kernel writes at most as many bytes as it is told there are.
        let asked = unsafe {
            libc::getsockopt(
                self.wire.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut counted).cast(),
                &raw mut length,
            )
        };
        Errno::result(asked).unwrap();
        counted.tp_drops
    }
}
