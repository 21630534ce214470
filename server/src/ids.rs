//! Ids of what only the server knows, and every name on the host that derives from them. A name is
//! made from an id and read back into it, so that what is found on the host can be told apart:
//! ours with a row, ours without one (an orphan), or somebody else's.

use std::net::Ipv4Addr;

use remote_docker_api::{define_id, short_code};

define_id!(
    /// Names a virtual machine, for example `vm-0f3k9m2x7q8vw`. Also the name of its domain, of its
    /// folder and the host name inside.
    VmId,
    "a VM id",
    "vm-"
);

define_id!(
    /// Names one installation of the server: drawn once, kept in the state folder. What carries
    /// another installation's id on the host is never touched.
    InstallId,
    "an installation id",
    "in-"
);

/// Prefix of taps. Thirteen characters of code follow, which makes the fifteen that Linux allows.
const TAP_PREFIX: &str = "rd";

impl VmId {
    /// Name of the VM's tap in the VMs' network namespace.
    #[must_use]
    pub fn tap(self) -> String {
        format!("{TAP_PREFIX}{}", short_code::encode(self.bits()))
    }

    /// The VM whose tap this is.
    #[must_use]
    pub fn from_tap(name: &str) -> Option<Self> {
        short_code::decode(name.strip_prefix(TAP_PREFIX)?).map(Self::from_bits)
    }

    /// `/etc/machine-id` of the VM: 32 hexadecimal digits that differ for every VM. It is a name, not
    /// a secret, so it may be derived; the constant half keeps it from being all zeros.
    #[must_use]
    pub fn machine_id(self) -> String {
        format!("{:016x}{:016x}", 0x7265_6d6f_7465_6400_u64, self.bits())
    }
}

impl InstallId {
    /// Name of the network namespace that holds this installation's VMs.
    #[must_use]
    pub fn namespace(self) -> String {
        format!("rd-{}", short_code::encode(self.bits()))
    }

    /// Name of the host's end of the VMs' way out.
    #[must_use]
    pub fn uplink(self) -> String {
        format!("ru{}", short_code::encode(self.bits()))
    }
}

/// A place for one VM: it decides the VM's address, and is taken again after the VM is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u16);

impl Slot {
    /// Address of the guest in this slot: the slot's number counted from the first address of the
    /// guests' network, which is a /16.
    #[must_use]
    pub fn address(self, network: Ipv4Addr) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(network) + u32::from(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_on_the_host_read_back_and_fit() {
        for bits in [0, 1, u64::MAX] {
            let vm = VmId::from_bits(bits);
            assert!(vm.tap().len() <= 15, "{}", vm.tap());
            assert_eq!(VmId::from_tap(&vm.tap()), Some(vm));
            assert_eq!(vm.to_string().parse(), Ok(vm));
            assert_eq!(vm.machine_id().len(), 32);
        }
        for foreign in ["eth0", "rd", "rd-uplink", "rdABCDEFGHJKMNP", "tap0"] {
            assert_eq!(VmId::from_tap(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn a_slot_is_an_address() {
        assert_eq!(
            Slot(258).address(Ipv4Addr::new(10, 213, 0, 0)),
            Ipv4Addr::new(10, 213, 1, 2)
        );
    }
}
