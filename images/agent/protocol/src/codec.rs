//! Bytes to lines to frames, with a bound on what the other side can make us keep.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest frame in bytes, its line break included. The largest honest frame carries two
/// certificates or a tail of a log; both stay far below.
pub const MAX_FRAME_BYTES: usize = 64 * 1024;

/// A frame that cannot be taken, or cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The other side sent a line without an end.
    #[error("a frame is longer than {MAX_FRAME_BYTES} bytes")]
    TooLong,
    /// The line is not the JSON of a message.
    #[error("a frame is not a message of this protocol")]
    Malformed(#[source] serde_json::Error),
}

/// Writes `message` as one line.
///
/// # Errors
/// [`FrameError::TooLong`] if it would be longer than [`MAX_FRAME_BYTES`].
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut line = serde_json::to_vec(message).map_err(FrameError::Malformed)?;
    line.push(b'\n');
    if line.len() > MAX_FRAME_BYTES {
        Err(FrameError::TooLong)
    } else {
        Ok(line)
    }
}

/// Cuts a stream into frames. Never holds more than [`MAX_FRAME_BYTES`] of an unfinished line, and looks
/// at each byte once, however the other side cuts what it sends.
#[derive(Debug, Default)]
pub struct LineDecoder {
    pending: Vec<u8>,
    /// Where the first line begins that was not given out.
    start: usize,
    /// How far `pending` is known to hold no line break from there on.
    searched: usize,
    /// How many bytes follow the last line break.
    unfinished: usize,
}

impl LineDecoder {
    /// Takes what was read. Follow with [`Self::next_frame`] until it has nothing more.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] when the unfinished line passes the limit; the stream is then of no
    /// further use.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), FrameError> {
        self.pending.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        self.pending.extend_from_slice(bytes);
        self.unfinished = match bytes.iter().rposition(|&b| b == b'\n') {
            Some(end) => bytes.len() - end - 1,
            None => self.unfinished + bytes.len(),
        };
        if self.unfinished >= MAX_FRAME_BYTES {
            Err(FrameError::TooLong)
        } else {
            Ok(())
        }
    }

    /// The next whole frame, `None` until more bytes are fed. Empty lines are passed over.
    ///
    /// # Errors
    /// [`FrameError::Malformed`] for a line that is no message (that line is consumed, so the caller
    /// may go on), [`FrameError::TooLong`] for one over the limit.
    pub fn next_frame<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        loop {
            let Some(end) = self.pending[self.searched..]
                .iter()
                .position(|&b| b == b'\n')
            else {
                self.searched = self.pending.len();
                return Ok(None);
            };
            let next = self.searched + end + 1;
            let line = &self.pending[self.start..next];
            (self.start, self.searched) = (next, next);
            if line.len() > MAX_FRAME_BYTES {
                return Err(FrameError::TooLong);
            }
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            return serde_json::from_slice(line)
                .map(Some)
                .map_err(FrameError::Malformed);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Call, Request};

    fn drain(decoder: &mut LineDecoder) -> Vec<Request> {
        std::iter::from_fn(|| decoder.next_frame().unwrap()).collect()
    }

    #[test]
    fn a_line_that_never_ends_is_refused_before_it_fills_memory() {
        let mut decoder = LineDecoder::default();
        let mut fed = 0;
        let refused = loop {
            match decoder.feed(&[b'x'; 4096]) {
                Ok(()) => fed += 4096,
                Err(error) => break error,
            }
            assert!(
                fed <= MAX_FRAME_BYTES,
                "{fed} bytes of an unfinished line were kept"
            );
        };
        assert!(matches!(refused, FrameError::TooLong));
    }

    #[test]
    fn bytes_one_by_one_and_lines_of_nothing_cost_no_more_than_others() {
        let begun = std::time::Instant::now();
        let mut decoder = LineDecoder::default();
        for _ in 0..8 {
            for _ in 0..MAX_FRAME_BYTES - 1 {
                decoder.feed(b" ").unwrap();
                assert!(decoder.next_frame::<Request>().unwrap().is_none());
            }
            decoder.feed(b"\n").unwrap();
            assert!(decoder.next_frame::<Request>().unwrap().is_none());
        }
        decoder.feed(&vec![b'\n'; 1 << 21]).unwrap();
        assert!(decoder.next_frame::<Request>().unwrap().is_none());
        // Looking again at what was looked at before makes minutes of it.
        let took = begun.elapsed();
        assert!(took < std::time::Duration::from_secs(20), "{took:?}");
    }

    #[test]
    fn the_longest_logs_fit_into_a_frame() {
        // A quote is written as two bytes; control characters, as six, are not sent.
        let tail = "\"".repeat(crate::MAX_LOG_TAIL_BYTES);
        let reply = crate::FromGuest::Reply {
            id: u64::MAX,
            result: Ok(crate::Reply::Logs(crate::Logs {
                dockerd: tail.clone(),
                containerd: tail.clone(),
                kernel: tail,
            })),
        };
        assert!(encode(&reply).is_ok());
    }

    #[test]
    fn a_half_frame_of_a_dead_peer_costs_one_line_only() {
        let request = Request {
            id: 7,
            call: Call::Status,
        };
        let mut decoder = LineDecoder::default();
        decoder.feed(b"{\"id\":6,\"ca").unwrap();
        decoder.feed(b"\n").unwrap();
        decoder.feed(&encode(&request).unwrap()).unwrap();
        assert!(matches!(
            decoder.next_frame::<Request>(),
            Err(FrameError::Malformed(_))
        ));
        assert_eq!(drain(&mut decoder), vec![request]);
    }

    proptest! {
        /// However the stream is cut into reads, the same frames come out.
        #[test]
        fn cuts_do_not_matter(ids in prop::collection::vec(any::<u64>(), 1..20), cut in 1usize..40) {
            let requests: Vec<Request> =
                ids.iter().map(|&id| Request { id, call: Call::Quiesce }).collect();
            let bytes: Vec<u8> = requests.iter().flat_map(|r| encode(r).unwrap()).collect();
            let mut decoder = LineDecoder::default();
            let mut seen = Vec::new();
            for part in bytes.chunks(cut) {
                decoder.feed(part).unwrap();
                seen.extend(drain(&mut decoder));
            }
            prop_assert_eq!(seen, requests);
        }

        /// No bytes make the decoder panic or loop.
        #[test]
        fn noise_is_survived(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..30)) {
            let mut decoder = LineDecoder::default();
            for part in parts {
                let lines = part.iter().filter(|&&b| b == b'\n').count();
                decoder.feed(&part).unwrap();
                for _ in 0..=lines {
                    if let Ok(None) = decoder.next_frame::<Request>() { break }
                }
            }
        }
    }
}
