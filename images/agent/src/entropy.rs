//! Random bytes of the host for the kernel's random number generator. A clone has the generator's
//! state of its template; the kernel reseeds when it sees a new VM generation id, and these bytes
//! make the clone's numbers its own even if it did not.

use std::fs::File;

use anyhow::{Context, bail};

/// Fewest and most bytes that are taken. Fewer would not make a state of its own.
const MIN_BYTES: usize = 32;
const MAX_BYTES: usize = 512;

/// `struct rand_pool_info` of `linux/random.h`, with room for the most.
#[repr(C)]
struct PoolInfo {
    entropy_bits: libc::c_int,
    size_bytes: libc::c_int,
    bytes: [u8; MAX_BYTES],
}

mod request {
    // linux/random.h: RNDADDENTROPY is _IOW('R', 0x03, int[2]), RNDRESEEDCRNG is _IO('R', 0x07).
    nix::ioctl_write_ptr_bad!(
        add_entropy,
        nix::request_code_write!(b'R', 0x03, 2 * std::mem::size_of::<libc::c_int>()),
        super::PoolInfo
    );
    nix::ioctl_none!(reseed, b'R', 0x07);
}

/// Reads the host's bytes as they stand in a request.
///
/// # Errors
/// Too few, too many, or not hexadecimal. The text is not part of the error.
pub(crate) fn decode(hex: &str) -> anyhow::Result<Vec<u8>> {
    if !(2 * MIN_BYTES..=2 * MAX_BYTES).contains(&hex.len()) || !hex.len().is_multiple_of(2) {
        bail!("entropy must be {MIN_BYTES} to {MAX_BYTES} bytes in hexadecimal");
    }
    let digits: Option<Vec<u8>> = hex
        .chars()
        .map(|digit| u8::try_from(digit.to_digit(16)?).ok())
        .collect();
    let digits = digits.context("entropy is not hexadecimal")?;
    Ok(digits
        .chunks_exact(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect())
}

/// Mixes the bytes in, credits them, and makes the generator use them from now on.
///
/// # Errors
/// The kernel's.
pub(crate) fn mix(bytes: &[u8]) -> anyhow::Result<()> {
    let mut info = PoolInfo {
        entropy_bits: i32::try_from(8 * bytes.len())?,
        size_bytes: i32::try_from(bytes.len())?,
        bytes: [0; MAX_BYTES],
    };
    info.bytes
        .get_mut(..bytes.len())
        .context("more entropy than fits")?
        .copy_from_slice(bytes);
    let device = File::options()
        .write(true)
        .open("/dev/urandom")
        .context("/dev/urandom")?;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&device);
    // SAFETY: `info` begins with the two integers the kernel reads and holds as many bytes behind
    // them as the second one says; `fd` is open for the length of both calls.
    unsafe {
        request::add_entropy(fd, &raw const info).context("RNDADDENTROPY")?;
        request::reseed(fd).context("RNDRESEEDCRNG")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_is_read_as_sent_or_refused_without_being_quoted() {
        let hex: String = (0..32)
            .map(|byte: u8| format!("{:02x}", byte * 7))
            .collect();
        assert_eq!(
            decode(&hex).unwrap(),
            (0..32).map(|byte| byte * 7).collect::<Vec<u8>>()
        );
        let bad = [
            "",
            "00",
            &"0".repeat(63),
            &"0".repeat(65),
            &"x".repeat(64),
            &"0".repeat(2000),
        ];
        for text in bad {
            let error = decode(text).unwrap_err().to_string();
            assert!(text.is_empty() || !error.contains(text) || text == "00");
        }
        assert!(decode(&"ä".repeat(32)).is_err());
    }

    #[test]
    fn the_kernel_reads_the_struct_that_is_sent() {
        assert_eq!(std::mem::offset_of!(PoolInfo, bytes), 8);
        assert_eq!(nix::request_code_write!(b'R', 0x03, 8), 0x4008_5203);
    }
}
