//! Makes taps. QEMU is given one by libvirt, which opens it by its name.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

/// Makes a tap in the calling thread's network namespace that stays when the maker closes it.
///
/// # Errors
/// When there is a device of this name, or no right to make one.
pub(super) fn create(name: &str) -> io::Result<()> {
    let tap = open(name)?;
    // Without an owner any user in the namespace could open a free tap, a QEMU process that has been
    // taken over included. libvirt opens taps as root.
    set(&tap, libc::TUNSETOWNER, 0)?;
    set(&tap, libc::TUNSETPERSIST, 1)
}

/// Opens a tap of this name as QEMU does, making one that is gone with the handle where none is.
pub(super) fn open(name: &str) -> io::Result<File> {
    if name.is_empty() || name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("`{name}` cannot be the name of a network device"),
        ));
    }
    let tap = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    // SAFETY: `ifreq` is a plain C structure for which all zeros is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the descriptor is open and TUNSETIFF reads and writes one `ifreq`.
    match unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF, &mut request) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(tap),
    }
}

fn set(tap: &File, request: libc::Ioctl, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open, and both requests take their integer by value.
    match unsafe { libc::ioctl(tap.as_raw_fd(), request, value) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
