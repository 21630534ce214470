//! Whole frames, to and from one network card.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// A socket for all frames that pass this card of the calling thread's network namespace. It stays with the card,
/// whichever thread uses it.
///
/// # Errors
/// When there is no such card, or the caller is not root.
pub fn open(device: &str) -> io::Result<OwnedFd> {
    // Of no protocol yet: from all cards it hears nothing.
    let flags = SockFlag::SOCK_CLOEXEC;
    let wire = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
    let index = if_nametoindex(device)?;
    // SAFETY: an address is plain numbers, for all of which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
    // SAFETY: the pointer is to an address of the length that is told, and lives until the call returns.
    let bound = unsafe {
        let address: *const libc::sockaddr_ll = &raw const address;
        let length = size_of::<libc::sockaddr_ll>() as u32;
        libc::bind(wire.as_raw_fd(), address.cast(), length)
    };
    nix::errno::Errno::result(bound)?;
    Ok(wire)
}

/// RFC 1071's checksum, which IPv4, ICMP and others have.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| {
        let low = pair.get(1).copied().unwrap_or_default();
        u32::from(u16::from_be_bytes([pair[0], low]))
    });
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::checksum;

    #[test]
    fn a_header_with_its_checksum_sums_up_to_nothing() {
        // The example that Wikipedia has for IPv4's header.
        let header = [
            0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8,
            0, 0xc7,
        ];
        assert_eq!(checksum(&header), 0);
        let mut without = header;
        without[10..12].fill(0);
        assert_eq!(checksum(&without), 0xb861);
        assert_eq!(checksum(&[0x01]), !0x0100);
    }
}
