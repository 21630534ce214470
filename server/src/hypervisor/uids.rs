//! Which user each VM's QEMU runs as. Pure. A guest that breaks out of its QEMU has that user's rights
//! and no others: with a user of its own for each VM, it reaches neither the disk nor the memory of
//! another VM, and cannot touch another QEMU. What all of them need (templates, images, `/dev/kvm`) they
//! reach through a group of the user that libvirt's packages make.

use super::HypervisorError;
use crate::ids::{InstallId, Slot};

/// The highest user ids that a signed number of 32 bits can hold and that nobody gives out:
/// <https://systemd.io/UIDS-GIDS/> leaves those from here to 2³¹ unused.
const UNUSED: u32 = 1_879_048_192;
/// How many of them one installation takes, so that there is one for each slot.
const BLOCK: u32 = 1 << 16;
/// How many blocks there are. Two servers on one host take the same one in 4096.
const BLOCKS: u32 = (i32::MAX.cast_unsigned() - UNUSED) / BLOCK + 1;

/// What the configuration says about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UidChoice {
    /// One for each VM, out of a block that follows from the installation's id, or one for all where the
    /// server itself runs in a user namespace without them.
    Auto,
    /// One for all.
    Shared,
    /// One for each VM, out of these, both ends included.
    Range {
        /// The first.
        first: u32,
        /// The last.
        last: u32,
    },
}

/// The user ids of VMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Uids {
    /// All run as libvirt's user.
    Shared,
    /// The VM in the first slot runs as the first, and so on.
    Own {
        /// The first.
        first: u32,
        /// The last.
        last: u32,
    },
}

impl Uids {
    /// The id for the VM in this slot, if it has one of its own.
    ///
    /// # Errors
    /// When there are fewer ids than slots.
    pub(super) fn of(self, slot: Slot) -> Result<Option<u32>, HypervisorError> {
        let Self::Own { first, last } = self else {
            return Ok(None);
        };
        // Slots begin at 1.
        let id = first.checked_add(u32::from(slot.0).saturating_sub(1));
        match id.filter(|id| *id <= last) {
            Some(id) => Ok(Some(id)),
            None => Err(HypervisorError::Unsuitable(format!(
                "there is no user id for a VM in slot {}: make `hypervisor.qemu_uids` longer than \
                 {first}-{last}",
                slot.0
            ))),
        }
    }

    /// One that a VM may have, to find out what such a VM may do.
    pub(super) fn any(self) -> Option<u32> {
        match self {
            Self::Shared => None,
            Self::Own { first, .. } => Some(first),
        }
    }
}

/// Chooses, and warns when `auto` comes to one for all. `map` is `/proc/self/uid_map`.
///
/// # Errors
/// When the ids that the configuration names are not there.
pub(super) fn choose(
    choice: UidChoice,
    install: InstallId,
    map: &str,
) -> Result<(Uids, Option<String>), HypervisorError> {
    let (first, last) = match choice {
        UidChoice::Shared => return Ok((Uids::Shared, None)),
        UidChoice::Range { first, last } => (first, last),
        UidChoice::Auto => block_of(install),
    };
    if is_mapped(map, first, last) {
        return Ok((Uids::Own { first, last }, None));
    }
    let what = format!(
        "this server runs in a user namespace, as in a container, that does not have the user ids \
         {first} to {last}"
    );
    match choice {
        UidChoice::Auto => Ok((
            Uids::Shared,
            Some(format!(
                "{what}: all QEMUs run as one user, so that a guest that breaks out of its own reaches \
                 the others; set `hypervisor.qemu_uids` to ids that are there"
            )),
        )),
        _ => Err(HypervisorError::Unsuitable(format!(
            "{what}: set `hypervisor.qemu_uids` to ids that are there"
        ))),
    }
}

fn block_of(install: InstallId) -> (u32, u32) {
    let number = install.bits() % u64::from(BLOCKS);
    let first = UNUSED + u32::try_from(number).unwrap_or(0) * BLOCK;
    (first, first + BLOCK - 1)
}

/// Whether a map of a user namespace has all of these ids. Each of its lines is: first id inside, first id
/// outside, how many.
fn is_mapped(map: &str, first: u32, last: u32) -> bool {
    let mut wanted = u64::from(first);
    let mut lines: Vec<(u64, u64)> = map
        .lines()
        .filter_map(|line| {
            let mut numbers = line.split_whitespace().map(str::parse::<u64>);
            let (inside, _, count) = (numbers.next()?, numbers.next()?, numbers.next()?);
            let inside = inside.ok()?;
            Some((inside, inside.checked_add(count.ok()?)?))
        })
        .collect();
    lines.sort_unstable();
    for (begin, end) in lines {
        if (begin..end).contains(&wanted) {
            wanted = end;
        }
    }
    wanted > u64::from(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &str = "         0          0 4294967295\n";

    fn chosen(choice: UidChoice, map: &str) -> (Uids, Option<String>) {
        choose(choice, InstallId::from_bits(7), map).unwrap()
    }

    #[test]
    fn each_slot_has_a_user_that_nobody_else_has() {
        let (uids, warning) = chosen(UidChoice::Auto, ALL);
        assert_eq!(warning, None);
        let of = |slot| uids.of(Slot(slot)).unwrap().unwrap();
        assert_eq!(of(1), UNUSED + 7 * BLOCK);
        assert_eq!(of(2), of(1) + 1);
        assert_eq!(Some(of(1)), uids.any());
        // The last slot that a number of its type can be, and the next installation's first.
        let next = choose(UidChoice::Auto, InstallId::from_bits(8), ALL).unwrap();
        assert!(of(u16::MAX) < next.0.of(Slot(1)).unwrap().unwrap());
        for bits in [0, u64::MAX] {
            let (first, last) = block_of(InstallId::from_bits(bits));
            assert!(first >= UNUSED && i32::try_from(last).is_ok(), "{bits}");
        }
    }

    #[test]
    fn slots_beyond_the_range_are_refused_and_do_not_share() {
        let (uids, _) = chosen(
            UidChoice::Range {
                first: 5000,
                last: 5001,
            },
            ALL,
        );
        assert_eq!(uids.of(Slot(2)).unwrap(), Some(5001));
        let error = uids.of(Slot(3)).unwrap_err().to_string();
        assert!(error.contains("hypervisor.qemu_uids"), "{error}");
        let (shared, _) = chosen(UidChoice::Shared, ALL);
        assert_eq!(shared.of(Slot(3)).unwrap(), None);
    }

    #[test]
    fn ids_that_a_user_namespace_lacks_are_not_used() {
        let container = "0 100000 65536\n";
        let (uids, warning) = chosen(UidChoice::Auto, container);
        assert_eq!(uids, Uids::Shared);
        assert!(warning.unwrap().contains("hypervisor.qemu_uids"));
        let range = UidChoice::Range {
            first: 60000,
            last: 60099,
        };
        assert!(matches!(chosen(range, container), (Uids::Own { .. }, None)));
        let beyond = UidChoice::Range {
            first: 65000,
            last: 65536,
        };
        for map in [container, "", "x y z"] {
            assert!(
                choose(beyond, InstallId::from_bits(7), map).is_err(),
                "{map}"
            );
        }
        // Two lines that meet are as good as one.
        let pieces = "65000 1 300\n0 100000 65000\n65300 1 237\n";
        assert!(choose(beyond, InstallId::from_bits(7), pieces).is_ok());
    }
}
