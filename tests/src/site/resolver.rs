//! A name server that knows some names.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A name server beside the test's server.
#[derive(Debug)]
pub struct Resolver {
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Resolver {
    /// Answers on this address of the caller's namespace.
    ///
    /// # Panics
    /// When the port is taken.
    #[must_use]
    pub fn start(at: Ipv4Addr, names: &[(&str, Ipv4Addr)]) -> Self {
        let socket = UdpSocket::bind((at, 53)).expect("the port of DNS");
        let timeout = Some(Duration::from_millis(100));
        socket.set_read_timeout(timeout).expect("a limit");
        let names: BTreeMap<_, _> = names
            .iter()
            .map(|(name, address)| ((*name).to_owned(), *address))
            .collect();
        let over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            let mut packet = [0; 512];
            while !ends.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut packet)
                    && let Some(answer) = answer(&packet[..length], &names)
                {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Self {
            over,
            thread: Some(thread),
        }
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

const HEADER: usize = 12;
const A: [u8; 4] = [0, 1, 0, 1];

/// Answers a question as RFC 1035 has it: with an address, with nothing (for another kind of record), or
/// that there is no such name.
fn answer(question: &[u8], names: &BTreeMap<String, Ipv4Addr>) -> Option<Vec<u8>> {
    let (name, end) = name(question)?;
    let kind = question.get(end..end + 4)?;
    let address = names.get(&name);
    let known = if address.is_some() { 0 } else { 3 };
    let found = address.filter(|_| kind == A);
    let count = u8::from(found.is_some());
    let mut answer = question[..2].to_vec();
    // An answer that was recursed for, to one question.
    answer.extend([0x81, 0x80 | known, 0, 1, 0, count, 0, 0, 0, 0]);
    answer.extend(&question[HEADER..end + 4]);
    if let Some(address) = found {
        // The name of the question, A, IN, for a minute, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}

/// The name in a question, and where it ends.
fn name(question: &[u8]) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    let mut at = HEADER;
    loop {
        let length = usize::from(*question.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        let label = question.get(at..at + length)?;
        labels.push(String::from_utf8_lossy(label).to_lowercase());
        at += length;
    }
}
