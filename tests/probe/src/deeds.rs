//! Carries an attempt out, in the time that it has.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use attack_probe::{Attempt, Deed, FIRST_PORT, FRAMES, Heard, PACE, wire};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, socket,
};

use crate::tls;

/// Whoever accepts says something at once, or nothing.
const LISTEN: Duration = Duration::from_secs(1);

pub(crate) fn carry_out(attempt: &Attempt) -> Heard {
    let patience = Duration::from_millis(attempt.patience_ms);
    let heard = match &attempt.deed {
        Deed::Tcp { to, say } => connect(*to, patience, |stream| converse(stream, say)),
        Deed::Udp { to, say } => ask(*to, say, patience),
        Deed::Ping { to, say } => ping(*to, say, patience),
        Deed::Frame { device, bytes } => send_frame(device, bytes),
        Deed::Flood { to, ports, say } => flood(*to, *ports, say),
        Deed::Tls { to, identity, say } => connect(*to, patience, |stream| {
            stream.set_read_timeout(Some(patience))?;
            tls::converse(stream, identity.as_ref(), say)
        }),
    };
    heard.unwrap_or_else(|error| Heard::Broken(error.to_string()))
}

/// How an error of the network sounds to whoever tried.
pub(crate) fn refusal(error: &io::Error) -> Heard {
    match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Heard::Silence,
        _ => Heard::Refusal(error.to_string()),
    }
}

fn connect(
    to: SocketAddrV4,
    patience: Duration,
    then: impl FnOnce(TcpStream) -> io::Result<Heard>,
) -> io::Result<Heard> {
    match TcpStream::connect_timeout(&to.into(), patience) {
        Ok(stream) => then(stream),
        Err(error) => Ok(refusal(&error)),
    }
}

fn converse(mut stream: TcpStream, say: &str) -> io::Result<Heard> {
    stream.set_read_timeout(Some(LISTEN))?;
    let mut answer = [0; 200];
    // The other side may hang up instead; that the connection stood is what counts.
    let length = stream
        .write_all(say.as_bytes())
        .and_then(|()| stream.read(&mut answer))
        .unwrap_or(0);
    Ok(Heard::Answer(text(&answer[..length])))
}

fn ask(to: SocketAddrV4, say: &str, patience: Duration) -> io::Result<Heard> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_broadcast(true)?;
    socket.set_read_timeout(Some(PACE))?;
    let start = Instant::now();
    while start.elapsed() < patience {
        let mut answer = [0; 200];
        let heard = socket
            .send_to(say.as_bytes(), to)
            .and_then(|_| socket.recv(&mut answer));
        match heard {
            Ok(length) => return Ok(Heard::Answer(text(&answer[..length]))),
            Err(error) => match refusal(&error) {
                Heard::Silence => {}
                refusal => return Ok(refusal),
            },
        }
    }
    Ok(Heard::Silence)
}

fn ping(to: Ipv4Addr, say: &str, patience: Duration) -> io::Result<Heard> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(
        AddressFamily::Inet,
        SockType::Raw,
        flags,
        SockProtocol::Icmp,
    )?;
    let start = Instant::now();
    let mut number = 0;
    while start.elapsed() < patience {
        number += 1;
        let request = echo_request(number, say);
        let address = SockaddrIn::from(SocketAddrV4::new(to, 0));
        if let Err(error) = sendto(socket.as_raw_fd(), &request, &address, MsgFlags::empty()) {
            return Ok(refusal(&error.into()));
        }
        if let Some(answer) = echo(&socket, to, say)? {
            return Ok(Heard::Answer(answer));
        }
    }
    Ok(Heard::Silence)
}

fn echo_request(number: u16, say: &str) -> Vec<u8> {
    let mut request = vec![8, 0, 0, 0, 0, 0];
    request.extend(number.to_be_bytes());
    request.extend(say.as_bytes());
    let sum = wire::checksum(&request).to_be_bytes();
    request[2..4].copy_from_slice(&sum);
    request
}

/// The echo of what was said, if it comes within [`PACE`]. Everybody's ICMP is heard here.
fn echo(socket: &OwnedFd, from: Ipv4Addr, say: &str) -> io::Result<Option<String>> {
    let start = Instant::now();
    let mut packet = [0; 500];
    while let Some(rest) = PACE.checked_sub(start.elapsed()) {
        let mut ready = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        let rest = u16::try_from(rest.as_millis()).unwrap_or(u16::MAX);
        if poll(&mut ready, PollTimeout::from(rest))? == 0 {
            break;
        }
        let length = recv(socket.as_raw_fd(), &mut packet, MsgFlags::empty())?;
        let packet = &packet[..length];
        let is_echo = packet.len() > 20 && packet[20] == 0;
        if is_echo && packet[12..16] == from.octets() && packet.ends_with(say.as_bytes()) {
            return Ok(Some(say.to_owned()));
        }
    }
    Ok(None)
}

fn send_frame(device: &str, bytes: &[u8]) -> io::Result<Heard> {
    let wire = wire::open(device)?;
    for _ in 0..FRAMES {
        nix::unistd::write(&wire, bytes)?;
        std::thread::sleep(PACE);
    }
    Ok(Heard::Silence)
}

fn flood(to: SocketAddrV4, ports: u16, say: &str) -> io::Result<Heard> {
    for port in (FIRST_PORT..).take(usize::from(ports)) {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
        socket.send_to(say.as_bytes(), to)?;
    }
    Ok(Heard::Silence)
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
