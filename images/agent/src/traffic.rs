//! What goes through the TLS connections, seen just well enough to tell whether somebody works: when
//! the last byte moved, who waits for an answer, who builds. It costs a few relaxed atomic
//! operations for each copied buffer, on memory that one connection has for itself but for one word.
//!
//! A build must be seen for what it is: it may copy files for minutes without a word to its client
//! and without a container. Its connection is told by the request line, and that is all of HTTP that
//! is looked at here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::clock;

/// Facts about all connections. Written by their [`Exchange`]s.
#[derive(Default)]
pub(crate) struct Traffic {
    /// When the last byte moved, in milliseconds since boot, and 1; 0 is never.
    moved: AtomicU64,
    /// Connections on which the client spoke last, or that are use as long as they are open.
    pending: AtomicU32,
    /// Connections that carry a build.
    builds: AtomicU32,
}

impl Traffic {
    /// How long ago the last byte moved; `None` if none ever did.
    pub(crate) fn idle(&self) -> Option<Duration> {
        let moved = self.moved.load(Relaxed).checked_sub(1)?;
        Some(clock::coarse_since_boot().saturating_sub(Duration::from_millis(moved)))
    }

    /// Connections on which the client spoke last.
    pub(crate) fn pending(&self) -> u32 {
        self.pending.load(Relaxed)
    }

    /// Connections that carry a build.
    pub(crate) fn builds(&self) -> u32 {
        self.builds.load(Relaxed)
    }

    fn touch(&self) {
        let now = u64::try_from(clock::coarse_since_boot().as_millis()).unwrap_or(u64::MAX - 1);
        self.moved.store(now + 1, Relaxed);
    }
}

/// One connection: requests and answers in turn. Its two directions may be two tasks.
pub(crate) struct Exchange {
    traffic: Arc<Traffic>,
    pending: Flag,
    builds: Flag,
    /// Whether the connection is use for as long as it is open, whatever goes through it.
    lasting: bool,
}

impl Exchange {
    pub(crate) fn new(traffic: &Arc<Traffic>) -> Self {
        Self {
            traffic: Arc::clone(traffic),
            pending: Flag::default(),
            builds: Flag::default(),
            lasting: false,
        }
    }

    /// One of which bytes do not tell whether somebody works: a program that was started over SSH may
    /// compute for an hour without a word.
    pub(crate) fn lasting(traffic: &Arc<Traffic>) -> Self {
        let mut exchange = Self::new(traffic);
        exchange.lasting = true;
        exchange.pending.set(true, &exchange.traffic.pending);
        exchange
    }

    /// The client sent these bytes.
    pub(crate) fn upward(&self, bytes: &[u8]) {
        self.traffic.touch();
        if !self.lasting
            && self.pending.set(true, &self.traffic.pending)
            && let Some(path) = request_path(bytes)
        {
            self.builds.set(is_build(path), &self.traffic.builds);
        }
    }

    /// The daemon sent these bytes.
    pub(crate) fn downward(&self, bytes: &[u8]) {
        self.traffic.touch();
        if self.lasting {
            return;
        }
        self.pending.set(false, &self.traffic.pending);
        if self.builds.get() && is_over(bytes) {
            self.builds.set(false, &self.traffic.builds);
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.pending.set(false, &self.traffic.pending);
        self.builds.set(false, &self.traffic.builds);
    }
}

/// One connection's share of a number that all connections have in common.
#[derive(Default)]
struct Flag(AtomicBool);

impl Flag {
    fn get(&self) -> bool {
        self.0.load(Relaxed)
    }

    /// Whether this changed it.
    fn set(&self, to: bool, count: &AtomicU32) -> bool {
        // Most buffers go where the one before went: a look costs less than a swap.
        let changed = self.get() != to && self.0.swap(to, Relaxed) != to;
        if changed && to {
            count.fetch_add(1, Relaxed);
        } else if changed {
            count.fetch_sub(1, Relaxed);
        }
        changed
    }
}

/// The path, if a request of HTTP/1.1 begins here. What goes through a connection that was taken over
/// (`attach`, HTTP/2) is none.
fn request_path(bytes: &[u8]) -> Option<&[u8]> {
    ["GET ", "HEAD ", "POST ", "PUT ", "DELETE "]
        .iter()
        .find_map(|method| bytes.strip_prefix(method.as_bytes()))
        .filter(|path| path.first() == Some(&b'/'))
}

/// `/build` is the classic builder and BuildKit as old clients ask for it, `/grpc` is how buildx
/// talks to BuildKit; it closes that connection when it is done.
fn is_build(path: &[u8]) -> bool {
    let name = match path.strip_prefix(b"/v") {
        Some([b'0'..=b'9', rest @ ..]) => rest
            .iter()
            .position(|&byte| byte == b'/')
            .map_or(&b""[..], |slash| &rest[slash..]),
        _ => path,
    };
    [&b"/build"[..], b"/grpc"].iter().any(|wanted| {
        name.strip_prefix(*wanted)
            .is_some_and(|rest| matches!(rest.first(), Some(b' ' | b'?')))
    })
}

/// The answer to a build ends with these bytes, or is a refusal. Clients that keep connections open
/// are busy no longer then.
fn is_over(bytes: &[u8]) -> bool {
    const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
    let refused = || match bytes {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', _, b' ', class, ..] => {
            !matches!(class, b'1' | b'2')
        }
        _ => false,
    };
    bytes.ends_with(LAST_CHUNK) || refused()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn nothing_moved_is_told_from_moved_long_ago() {
        let traffic = Arc::new(Traffic::default());
        assert_eq!(traffic.idle(), None);
        // Whatever is counted, it is not finer than this.
        let grain = Duration::from_millis(1);
        let begun = Instant::now();
        Exchange::new(&traffic).downward(b"x");
        let short = traffic.idle().unwrap();
        assert!(short <= begun.elapsed() + grain, "{short:?}");
        std::thread::sleep(Duration::from_millis(50));
        assert!(traffic.idle().unwrap() >= short + Duration::from_millis(20));
        let begun = Instant::now();
        Exchange::new(&traffic).upward(b"x");
        let again = traffic.idle().unwrap();
        assert!(again <= begun.elapsed() + grain, "{again:?}");
    }

    #[test]
    fn a_request_is_pending_until_it_is_answered_or_its_connection_is_gone() {
        let traffic = Arc::new(Traffic::default());
        let (one, two) = (Exchange::new(&traffic), Exchange::new(&traffic));
        one.upward(b"POST /v1.47/commit?container=x HTTP/1.1\r\n\r\n");
        one.upward(b"more of it");
        two.upward(b"GET /info HTTP/1.1\r\n\r\n");
        assert_eq!(traffic.pending(), 2);
        one.downward(b"HTTP/1.1 200 OK\r\n\r\n");
        one.downward(b"more");
        assert_eq!(traffic.pending(), 1);
        drop(two);
        assert_eq!(traffic.pending(), 0);
        drop(one);
        assert_eq!((traffic.pending(), traffic.builds()), (0, 0));
    }

    #[test]
    fn a_build_lasts_until_its_answer_or_its_connection_ends() {
        let traffic = Arc::new(Traffic::default());
        let classic = Exchange::new(&traffic);
        classic.upward(b"POST /v1.45/build?dockerfile=x HTTP/1.1\r\nHost: d\r\n\r\n");
        classic.downward(b"HTTP/1.1 100 Continue\r\n\r\n");
        classic.upward(b"the context of the build");
        classic.downward(b"HTTP/1.1 200 OK\r\n\r\n{\"stream\":\"Step 1/2 : COPY\"}");
        assert_eq!((traffic.pending(), traffic.builds()), (0, 1));

        let buildx = Exchange::new(&traffic);
        buildx.upward(b"POST /grpc HTTP/1.1\r\nUpgrade: h2c\r\n\r\n");
        buildx.downward(b"HTTP/1.1 101 UPGRADED\r\n\r\n");
        buildx.upward(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        buildx.downward(b"\x00\x00\x12\x04");
        assert_eq!(traffic.builds(), 2);
        drop(buildx);

        classic.downward(b"{\"aux\":{}}\r\n0\r\n\r\n");
        assert_eq!(traffic.builds(), 0);
        classic.upward(b"POST /v1.45/build HTTP/1.1\r\n\r\n");
        assert_eq!(traffic.builds(), 1);
        classic.downward(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno");
        assert_eq!(traffic.builds(), 0);
    }

    #[test]
    fn builds_are_told_from_all_else() {
        let path = |line: &str| is_build(request_path(line.as_bytes()).unwrap());
        for line in [
            "POST /build HTTP/1.1",
            "POST /build?t=x HTTP/1.1",
            "POST /v1.24/build?t=x HTTP/1.1",
            "POST /v1.47/grpc HTTP/1.1",
        ] {
            assert!(path(line), "{line}");
        }
        for line in [
            "POST /build/prune HTTP/1.1",
            "POST /v1.47/builder HTTP/1.1",
            "GET /volumes/build HTTP/1.1",
            "GET /v1.47 HTTP/1.1",
            "GET /v HTTP/1.1",
            "POST /session HTTP/1.1",
        ] {
            assert!(!path(line), "{line}");
        }
        for noise in ["", "PRI * HTTP/2.0", "POST ", "build", "GET x"] {
            assert!(request_path(noise.as_bytes()).is_none(), "{noise}");
        }
    }
}
