//! Network namespaces, and who listens in them.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use e2e::process::{bounded, succeed};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{Shutdown, shutdown};

/// Where those who listen do so, with TCP and with UDP.
pub(super) const PORT: u16 = 80;
/// Who accepts waits so long for the first word.
const FIRST_WORD: Duration = Duration::from_secs(10);

/// A network namespace.
#[derive(Debug)]
pub(super) struct Place(File);

impl Place {
    /// The one that this thread is in.
    pub(super) fn here() -> Self {
        Self(File::open("/proc/thread-self/ns/net").unwrap())
    }

    /// A new one, of which nobody knows. It goes when nobody is in it any more.
    pub(super) fn new() -> Self {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            Self::here()
        });
        made.join().unwrap()
    }

    /// The one that `ip netns` knows by this name.
    pub(super) fn named(name: &str) -> Self {
        Self(File::open(Path::new("/run/netns").join(name)).unwrap())
    }

    /// What other programs may call it, as long as this one lives.
    pub(super) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Does something in it.
    pub(super) fn run<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let there = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
                job()
            });
            there
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a script in it, to its end or to its first failure, and returns what it says.
    pub(super) fn sh(&self, script: &str) -> String {
        let mut command = bounded(Duration::from_secs(60), "sh");
        command.args(["-e", "-c", script]);
        self.run(move || succeed(&mut command))
    }

    /// Listens on all of its addresses, those of everybody among them.
    pub(super) fn listen(&self) -> Listener {
        let (tcp, udp) = self.run(|| {
            let all = (Ipv4Addr::UNSPECIFIED, PORT);
            (
                TcpListener::bind(all).unwrap(),
                UdpSocket::bind(all).unwrap(),
            )
        });
        let door = tcp.try_clone().unwrap();
        let heard = Heard::default();
        let words = heard.clone();
        let thread = thread::spawn(move || {
            // An error says that this is to end.
            while let Ok((mut connection, _)) = tcp.accept() {
                let words = words.clone();
                thread::spawn(move || {
                    connection.set_read_timeout(Some(FIRST_WORD)).unwrap();
                    let mut word = [0; 200];
                    let length = connection.read(&mut word).unwrap_or(0);
                    words.add(&word[..length]);
                    let _ = connection.write_all(b"welcome");
                });
            }
        });
        let words = heard.clone();
        thread::spawn(move || {
            let mut word = [0; 2000];
            while let Ok((length, from)) = udp.recv_from(&mut word) {
                words.add(&word[..length]);
                let _ = udp.send_to(b"welcome", from);
            }
        });
        Listener {
            heard,
            door: Some(door),
            thread: Some(thread),
        }
    }
}

/// Those who listen in one place. Their TCP port is closed when this is dropped, as a test looks for open ones at
/// its end.
#[derive(Debug)]
pub(super) struct Listener {
    heard: Heard,
    door: Option<TcpListener>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Listener {
    /// Whether these words were said to them.
    pub(super) fn heard(&self, word: &str) -> bool {
        self.heard.0.lock().unwrap().iter().any(|it| it == word)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(door) = self.door.take() {
            // Who waits at it is told so.
            let _ = shutdown(door.as_raw_fd(), Shutdown::Both);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl Heard {
    fn add(&self, word: &[u8]) {
        let word = String::from_utf8_lossy(word).into_owned();
        self.0.lock().unwrap().push(word);
    }
}
