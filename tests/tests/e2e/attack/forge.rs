//! Frames as no honest machine sends them, and what is read of frames.

use std::net::Ipv4Addr;

use attack_probe::wire::checksum;

const BROADCAST: [u8; 6] = [0xff; 6];
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const OWN_V6: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const IPV4: [u8; 2] = [0x08, 0x00];
const ARP: [u8; 2] = [0x08, 0x06];
const IPV6: [u8; 2] = [0x86, 0xdd];
pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;

/// Port that [`Ends::datagram`] comes from.
pub(super) const FROM_PORT: u16 = 4000;

/// Who a frame says that it is from, and whose it is to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    pub(super) from: [u8; 6],
    pub(super) to: [u8; 6],
}

impl Ends {
    fn ethernet(self, kind: [u8; 2], rest: &[u8]) -> Vec<u8> {
        [&self.to[..], &self.from, &kind, rest].concat()
    }

    /// A datagram.
    pub(super) fn datagram(self, from: Ipv4Addr, to: (Ipv4Addr, u16), said: &str) -> Vec<u8> {
        self.ipv4(UDP, from, to.0, &[], &udp(FROM_PORT, to.1, said.as_bytes()))
    }

    /// Says that what `said_by` sent to `heard_by` could not be delivered, as nobody has that port (RFC 792).
    pub(super) fn unreachable(
        self,
        from: Ipv4Addr,
        said_by: (Ipv4Addr, u16),
        heard_by: (Ipv4Addr, u16),
        said: &str,
    ) -> Vec<u8> {
        let datagram = udp(said_by.1, heard_by.1, said.as_bytes());
        let frame = self.ipv4(UDP, said_by.0, heard_by.0, &[], &datagram);
        let mut refusal = [&[3, 3, 0, 0, 0, 0, 0, 0][..], &frame[14..]].concat();
        let sum = checksum(&refusal).to_be_bytes();
        refusal[2..4].copy_from_slice(&sum);
        self.ipv4(ICMP, from, said_by.0, &[], &refusal)
    }

    /// A datagram that wants to go on to another address from where it is sent to (RFC 791's loose source
    /// route).
    pub(super) fn routed_datagram(
        self,
        from: Ipv4Addr,
        by: Ipv4Addr,
        to: (Ipv4Addr, u16),
        said: &str,
    ) -> Vec<u8> {
        let options = [&[131, 7, 4][..], &to.0.octets(), &[0]].concat();
        self.ipv4(
            UDP,
            from,
            by,
            &options,
            &udp(FROM_PORT, to.1, said.as_bytes()),
        )
    }

    fn ipv4(
        self,
        protocol: u8,
        from: Ipv4Addr,
        to: Ipv4Addr,
        options: &[u8],
        said: &[u8],
    ) -> Vec<u8> {
        let words = 5 + u8::try_from(options.len() / 4).unwrap();
        let length = u16::try_from(20 + options.len() + said.len()).unwrap();
        let [high, low] = length.to_be_bytes();
        let mut head = [
            &[0x40 | words, 0, high, low, 0, 1, 0, 0, 64, protocol, 0, 0][..],
            &from.octets(),
            &to.octets(),
            options,
        ]
        .concat();
        let sum = checksum(&head).to_be_bytes();
        head[10..12].copy_from_slice(&sum);
        self.ethernet(IPV4, &[&head[..], said].concat())
    }

    /// What a DHCP server offers to everybody: `address`, with itself for a router and a name server.
    pub(super) fn dhcp_offer(self, from: Ipv4Addr, address: Ipv4Addr, said: &str) -> Vec<u8> {
        let mut offer = vec![2, 1, 6, 0];
        offer.resize(16, 0);
        offer.extend(address.octets());
        offer.extend(from.octets());
        offer.resize(236, 0);
        offer.extend([99, 130, 83, 99, 53, 1, 2]);
        for option in [54, 3, 6] {
            offer.extend([option, 4]);
            offer.extend(from.octets());
        }
        offer.push(255);
        offer.extend(said.as_bytes());
        let to_all = Self {
            to: BROADCAST,
            ..self
        };
        to_all.ipv4(UDP, from, Ipv4Addr::BROADCAST, &[], &udp(67, 68, &offer))
    }

    /// Asks everybody who has `wanted`, as `from`.
    pub(super) fn who_has(self, from: Ipv4Addr, wanted: Ipv4Addr, said: &str) -> Vec<u8> {
        self.arp(1, from, wanted, said)
    }

    /// Says to everybody, without being asked, who has `address`.
    pub(super) fn claim(self, address: Ipv4Addr, said: &str) -> Vec<u8> {
        self.arp(2, address, address, said)
    }

    /// With words behind it, where others fill up with zeros.
    fn arp(self, operation: u8, from: Ipv4Addr, about: Ipv4Addr, said: &str) -> Vec<u8> {
        let packet = [
            &[0, 1, 8, 0, 6, 4, 0, operation][..],
            &self.from,
            &from.octets(),
            &[0; 6],
            &about.octets(),
            said.as_bytes(),
        ]
        .concat();
        let to_all = Self {
            to: BROADCAST,
            ..self
        };
        to_all.ethernet(ARP, &packet)
    }

    /// A router's advertisement (RFC 4861) to all nodes, with an option that nobody knows, for the words.
    pub(super) fn router_advertisement(self, said: &str) -> Vec<u8> {
        let mut advertisement = vec![134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
        let eights = (said.len() + 2).div_ceil(8);
        advertisement.extend([253, u8::try_from(eights).unwrap()]);
        advertisement.extend(said.as_bytes());
        advertisement.resize(16 + eights * 8, 0);
        self.icmpv6(advertisement)
    }

    /// An echo request to all nodes.
    pub(super) fn ping_all_nodes(self, said: &str) -> Vec<u8> {
        self.icmpv6([&[128, 0, 0, 0, 0, 1, 0, 1], said.as_bytes()].concat())
    }

    fn icmpv6(self, mut said: Vec<u8>) -> Vec<u8> {
        let length = u16::try_from(said.len()).unwrap();
        let head = [&OWN_V6[..], &ALL_NODES, &u32::from(length).to_be_bytes()].concat();
        let sum = checksum(&[&head[..], &[0, 0, 0, 58], &said].concat());
        said[2..4].copy_from_slice(&sum.to_be_bytes());
        let packet = [
            &[0x60, 0, 0, 0][..],
            &length.to_be_bytes(),
            &[58, 255],
            &OWN_V6,
            &ALL_NODES,
            &said,
        ]
        .concat();
        let to_all = Self {
            to: ALL_NODES_MAC,
            ..self
        };
        to_all.ethernet(IPV6, &packet)
    }
}

/// Without a checksum, which IPv4 allows.
fn udp(from: u16, to: u16, said: &[u8]) -> Vec<u8> {
    let length = u16::try_from(said.len() + 8).unwrap();
    let words = [from, to, length, 0].map(u16::to_be_bytes);
    [words.as_flattened(), said].concat()
}

/// Whether the words are in the frame.
pub(super) fn says(frame: &[u8], word: &str) -> bool {
    let word = word.as_bytes();
    let mut rest = frame;
    // Most of a frame is passed over by looking for the first byte.
    while let Some(at) = rest.iter().position(|byte| *byte == word[0]) {
        if rest[at..].starts_with(word) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

/// One end of a conversation: which protocol, which address, which port. ICMP has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    pub(super) protocol: u8,
    pub(super) address: Ipv4Addr,
    pub(super) port: u16,
}

/// Both ends, as a frame with IPv4 has them. ICMP's but echoes are left out, as they speak of others.
pub(super) fn ends(frame: &[u8]) -> Option<(End, End)> {
    if frame.get(12..14)? != IPV4 {
        return None;
    }
    let packet = &frame[14..];
    let (protocol, words) = (*packet.get(9)?, packet.first()? & 15);
    let said = packet.get(usize::from(words) * 4..)?;
    let ports = match protocol {
        TCP | UDP => [said.get(..2)?, said.get(2..4)?],
        ICMP if matches!(said.first()?, 0 | 8) => [&[0, 0][..]; 2],
        _ => return None,
    };
    let end = |at: usize, port: &[u8]| {
        let octets: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
        Some(End {
            protocol,
            address: octets.into(),
            port: u16::from_be_bytes(port.try_into().ok()?),
        })
    };
    Some((end(12, ports[0])?, end(16, ports[1])?))
}

/// Whether the frame is an ARP reply to this address.
pub(super) fn is_arp_reply_to(frame: &[u8], address: Ipv4Addr) -> bool {
    frame.len() >= 42
        && frame[12..14] == ARP
        && frame[20..22] == [0, 2]
        && frame[38..42] == address.octets()
}

/// Whether the frame is an answer to [`Ends::ping_all_nodes`], or the question where to send one.
pub(super) fn is_about_our_ping(frame: &[u8]) -> bool {
    let asks = || frame.len() >= 78 && frame[54] == 135 && frame[62..78] == OWN_V6;
    let answers = || frame.len() >= 55 && frame[54] == 129;
    frame.len() >= 54 && frame[12..14] == IPV6 && (asks() || answers())
}
