//! Frames as a guest's own network card would send them, whatever the guest's kernel thinks of them.

use std::fs::File;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use remote_docker_api::Egress;

use super::lab::{Lab, until_up};
use crate::ids::VmId;
use crate::network::{GATEWAY, GATEWAY_MAC, GUEST_MAC, Network, tap};

/// What QEMU puts before each frame: a header of virtio that says nothing.
const HEADER: [u8; 10] = [0; 10];
/// To everybody.
pub(super) const BROADCAST: [u8; 6] = [0xff; 6];
/// To all that speak IPv6.
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const ARP: [u8; 2] = [0x08, 0x06];
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const ICMP: u8 = 1;
const UDP: u8 = 17;

/// The far end of a wire, in the hands of somebody who writes whatever they like.
pub(super) struct Card {
    pub(super) vm: VmId,
    pub(super) address: Ipv4Addr,
    wire: File,
}

impl Card {
    pub(super) fn new(lab: &Lab, network: &Network, number: u8) -> Self {
        let vm = VmId::from_bits(u64::from(number));
        let address = Ipv4Addr::new(10, 213, 0, number);
        lab.wait(network.wires.attach(vm, address)).unwrap();
        lab.wait(network.wires.admit(vm, Egress::Internet)).unwrap();
        let inside = lab.inside(network);
        let wire = inside.run(move || tap::open(&vm.tap()).unwrap());
        inside.run(move || until_up(&vm.tap()));
        Self { vm, address, wire }
    }

    pub(super) fn send(&mut self, frame: &[u8]) {
        let whole = [&HEADER, frame].concat();
        assert_eq!(self.wire.write(&whole).unwrap(), whole.len());
    }

    /// Whether a frame like this comes within the time.
    pub(super) fn hears(&mut self, patience: Duration, like: impl Fn(&[u8]) -> bool) -> bool {
        let start = Instant::now();
        let mut frame = [0; 4096];
        while let Some(rest) = patience.checked_sub(start.elapsed()) {
            let mut ready = [PollFd::new(self.wire.as_fd(), PollFlags::POLLIN)];
            let rest = u16::try_from(rest.as_millis()).unwrap_or(u16::MAX);
            if poll(&mut ready, PollTimeout::from(rest)).unwrap() == 0 {
                return false;
            }
            let length = self.wire.read(&mut frame).unwrap();
            if like(&frame[HEADER.len()..length]) {
                return true;
            }
        }
        false
    }
}

fn ethernet(from: [u8; 6], to: [u8; 6], kind: [u8; 2], rest: &[u8]) -> Vec<u8> {
    [&to[..], &from, &kind, rest].concat()
}

/// A datagram from port 4000.
pub(super) fn datagram(mac: [u8; 6], from: Ipv4Addr, to: (Ipv4Addr, u16), said: &[u8]) -> Vec<u8> {
    let udp = udp(4000, to.1, said);
    ethernet(mac, GATEWAY_MAC, IPV4, &ipv4(UDP, from, to.0, &udp))
}

/// What a DHCP server says to everybody, in short.
pub(super) fn dhcp_offer(from: Ipv4Addr) -> Vec<u8> {
    let udp = udp(67, 68, &[2, 1, 6, 0]);
    let packet = ipv4(UDP, from, Ipv4Addr::BROADCAST, &udp);
    ethernet(GUEST_MAC, BROADCAST, IPV4, &packet)
}

/// Asks who has `wanted`, as `mac` and `from`.
pub(super) fn who_has(mac: [u8; 6], from: Ipv4Addr, wanted: Ipv4Addr) -> Vec<u8> {
    ethernet(mac, BROADCAST, ARP, &arp(1, mac, from, wanted))
}

/// Says without being asked that `mac` has `address`.
pub(super) fn claim(mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    ethernet(mac, BROADCAST, ARP, &arp(2, mac, address, address))
}

/// Says that what came from `said_by` to `heard_by` could not be delivered: nobody has that port (RFC 792).
pub(super) fn unreachable(
    from: Ipv4Addr,
    said_by: (Ipv4Addr, u16),
    heard_by: (Ipv4Addr, u16),
) -> Vec<u8> {
    let refused = ipv4(UDP, said_by.0, heard_by.0, &udp(said_by.1, heard_by.1, b""));
    let mut said = [&[3, 3, 0, 0, 0, 0, 0, 0][..], &refused].concat();
    let sum = checksum(&said).to_be_bytes();
    said[2..4].copy_from_slice(&sum);
    let packet = ipv4(ICMP, from, said_by.0, &said);
    ethernet(GUEST_MAC, GATEWAY_MAC, IPV4, &packet)
}

fn arp(operation: u8, mac: [u8; 6], from: Ipv4Addr, about: Ipv4Addr) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, operation];
    [&head[..], &mac, &from.octets(), &[0; 6], &about.octets()].concat()
}

/// Whether a frame says that the gateway is at its place.
pub(super) fn is_gateways_answer(frame: &[u8]) -> bool {
    frame.len() >= 42
        && frame[12..14] == ARP
        && frame[20..22] == [0, 2]
        && frame[28..32] == GATEWAY.octets()
}

/// A router's advertisement (RFC 4861) to all nodes, without options.
pub(super) fn router_advertisement() -> Vec<u8> {
    let said = [134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    ethernet(GUEST_MAC, ALL_NODES_MAC, IPV6, &icmpv6(&said))
}

/// An echo request to all nodes.
pub(super) fn ping_all_nodes() -> Vec<u8> {
    let said = [128, 0, 0, 0, 0, 1, 0, 1];
    ethernet(GUEST_MAC, ALL_NODES_MAC, IPV6, &icmpv6(&said))
}

const OWN_V6: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// Whether a frame is an answer to [`ping_all_nodes`], or the question where to send one.
pub(super) fn is_about_our_ping(frame: &[u8]) -> bool {
    let asks = || frame.len() >= 78 && frame[54] == 135 && frame[62..78] == OWN_V6;
    let answers = || frame.len() >= 55 && frame[54] == 129;
    frame.len() >= 54 && frame[12..14] == IPV6 && (asks() || answers())
}

fn icmpv6(said: &[u8]) -> Vec<u8> {
    let length = u16::try_from(said.len()).unwrap();
    let pseudo = [
        &OWN_V6[..],
        &ALL_NODES,
        &u32::from(length).to_be_bytes(),
        &[0, 0, 0, 58],
        said,
    ]
    .concat();
    let mut said = said.to_vec();
    said[2..4].copy_from_slice(&checksum(&pseudo).to_be_bytes());
    let head = [0x60, 0, 0, 0];
    [
        &head[..],
        &length.to_be_bytes(),
        &[58, 255],
        &OWN_V6,
        &ALL_NODES,
        &said,
    ]
    .concat()
}

/// Without a checksum, which IPv4 allows.
fn udp(from: u16, to: u16, said: &[u8]) -> Vec<u8> {
    let length = u16::try_from(said.len() + 8).unwrap();
    let words = [from, to, length, 0].map(u16::to_be_bytes);
    [words.as_flattened(), said].concat()
}

fn ipv4(protocol: u8, from: Ipv4Addr, to: Ipv4Addr, said: &[u8]) -> Vec<u8> {
    let length = u16::try_from(said.len() + 20).unwrap().to_be_bytes();
    let mut head = [
        &[
            0x45, 0, length[0], length[1], 0, 1, 0, 0, 64, protocol, 0, 0,
        ][..],
        &from.octets(),
        &to.octets(),
    ]
    .concat();
    let sum = checksum(&head).to_be_bytes();
    head[10..12].copy_from_slice(&sum);
    [&head[..], said].concat()
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| {
        let low = pair.get(1).copied().unwrap_or_default();
        u32::from(u16::from_be_bytes([pair[0], low]))
    });
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(u16::MAX)
}
