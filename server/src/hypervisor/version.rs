//! Versions of QEMU and libvirt.

use std::fmt;

use super::HypervisorError;

/// A version as libvirt counts: `major * 1_000_000 + minor * 1_000 + release`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub(super) u32);

/// The oldest QEMU that migrates to and from files and maps a read-only file as writable memory.
pub(super) const OLDEST_QEMU: Version = Version(8_002_000);

/// The oldest libvirt that the server is made for. An older one may do; nobody has tried.
pub(super) const OLDEST_LIBVIRT: Version = Version(10_000_000);

impl Version {
    /// Reads what [`fmt::Display`] writes.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let numbers: Option<Vec<u32>> = text.split('.').map(|part| part.parse().ok()).collect();
        match numbers?[..] {
            [major @ ..4_000, minor @ ..1_000, release @ ..1_000] => {
                Some(Self(major * 1_000_000 + minor * 1_000 + release))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(number) = self;
        let (major, minor) = (number / 1_000_000, number / 1_000 % 1_000);
        write!(f, "{major}.{minor}.{}", number % 1_000)
    }
}

/// Checks QEMU's version.
///
/// # Errors
/// When it is too old, with both versions and what to do.
pub(super) fn check_qemu(found: Version) -> Result<(), HypervisorError> {
    if found >= OLDEST_QEMU {
        return Ok(());
    }
    Err(HypervisorError::Unsuitable(format!(
        "QEMU {found} is too old, {OLDEST_QEMU} or newer is needed: upgrade the package \
         qemu-system-x86 (Debian 12 has a newer one in its backports)"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_written_as_people_write_them() {
        assert_eq!(Version(10_000_002).to_string(), "10.0.2");
        assert_eq!(Version(8_002_000).to_string(), "8.2.0");
        assert_eq!(Version(11_003_000).to_string(), "11.3.0");
    }

    #[test]
    fn a_version_reads_back_and_nonsense_does_not() {
        for version in [OLDEST_QEMU, OLDEST_LIBVIRT, Version(11_003_017)] {
            assert_eq!(Version::parse(&version.to_string()), Some(version));
        }
        for text in [
            "",
            "10",
            "10.0",
            "10.0.x",
            "10.0.1000",
            "4294967295.0.0",
            "1.2.3.4",
        ] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
    }

    #[test]
    fn an_old_qemu_is_refused_with_both_versions() {
        let error = check_qemu(Version(7_002_019)).unwrap_err().to_string();
        assert!(
            error.contains("7.2.19") && error.contains("8.2.0"),
            "{error}"
        );
        assert!(check_qemu(Version(8_001_999)).is_err());
        check_qemu(OLDEST_QEMU).unwrap();
        check_qemu(Version(10_000_002)).unwrap();
    }
}
