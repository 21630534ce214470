//! The description of a VM that libvirt gets. Pure: what goes in decides what comes out, and a
//! template and its clones must come out the same but for how their memory is mapped, and for the kernel, which a
//! clone has in memory.

use std::fmt::{self, Display, Write as _};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::folder::VmFolder;
use super::idle_states;
use super::{Accelerator, ImageFiles, Source, TemplateFiles, VmSpec};
use crate::ids::{InstallId, VmId};
use crate::network::GUEST_MAC;

/// Namespace of our element in a domain's metadata. Only what carries it, with our installation's
/// id, is ours.
pub(super) const METADATA_NAMESPACE: &str = "urn:setup-remote-docker:vm:1";

/// Name of the memory's backend: the same in a template and its clones.
const MEMORY: &str = "guest-memory";

/// How libvirt calls devices without the interface of older drivers, which is code of QEMU as well.
const MODERN: &str = "virtio-non-transitional";

/// Parts of the machine that the guest has no use for: keyboard controller, SATA, system management bus,
/// the interface of another hypervisor. And the host's kernel is not to look for equal pages among
/// guests: how long a write takes would tell one what is in another's memory.
const UNNEEDED: &str = "i8042=off,sata=off,smbus=off,vmport=off,mem-merge=off";

/// A machine that went on elsewhere tells its network where it is now, five times in a second, and QEMU takes
/// each clone for one. A clone's wire is new, and its other end knows all addresses.
const QUIET_CARD: &str = "virtio-net-device.guest_announce=off";

/// The guest agent is `/init` of the initramfs and finds the disk itself. A kernel that panics
/// reboots at once, which ends the VM.
///
/// Huge pages are for programs that ask for them. For all, the kernel goes on making them in every clone out of
/// pages that clones share, 2 MiB that are copied at a time, and clears as much where a page is wanted: 5 MiB more of
/// a machine's own memory once it had answered, under software emulation.
const KERNEL_COMMAND_LINE: &str =
    "quiet console=ttyS0 root=/dev/vda rw panic=-1 transparent_hugepage=madvise";

/// Emulated processors count the host's time and so the same, which the guest's kernel cannot know: it would ask
/// a device for the time instead, which costs a hundred times as much and has QEMU's other threads wait.
const SAME_TIME: &str = " tsc=reliable";

/// What tells the agent to make `/dev/kvm` ready. The kernel takes it for a setting of a module that is not there.
const NESTED: &str = " remote_docker.nested";

/// How the processors of Intel and of AMD call what runs machines. Each is unknown to the other's, and what is
/// unknown can be switched off.
const RUNS_MACHINES: [&str; 2] = ["vmx", "svm"];

/// What the kernel of a guest that boots is told.
#[must_use]
pub fn kernel_command_line(accelerator: Accelerator, nested: bool) -> String {
    let time = match accelerator {
        // This one has a clock of its own that tells the guest.
        Accelerator::Kvm => "",
        Accelerator::Tcg => SAME_TIME,
    };
    let nested = if nested { NESTED } else { "" };
    format!("{KERNEL_COMMAND_LINE}{time}{nested}")
}

/// Slots on the PCI root. Named here so that they cannot differ between a template and its clones,
/// and so that no bridges are needed: each would cost time at every start.
#[derive(Clone, Copy)]
enum Slot {
    Disk = 1,
    Network = 2,
    Channel = 3,
    Random = 4,
}

/// Everything that decides a domain's description.
#[derive(Debug)]
pub(super) struct DomainPlan<'a> {
    pub(super) install: InstallId,
    pub(super) accelerator: Accelerator,
    /// Whether the guest may run machines of its own.
    pub(super) nested: bool,
    pub(super) spec: &'a VmSpec,
    pub(super) folder: &'a VmFolder,
    /// Numbers of the user and the group that QEMU runs as.
    pub(super) user: (u32, u32),
}

/// Whose domain it is, as its metadata says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) install: InstallId,
    pub(super) vm: VmId,
}

impl Owner {
    /// Reads the metadata element that [`domain_xml`] wrote, as libvirt gives it back.
    pub(super) fn from_metadata(element: &str) -> Option<Self> {
        let text = element.split_once('>')?.1.split_once('<')?.0;
        let (install, vm) = text.trim().split_once('/')?;
        Some(Self {
            install: install.parse().ok()?,
            vm: vm.parse().ok()?,
        })
    }
}

/// Writes the description.
pub(super) fn domain_xml(plan: &DomainPlan<'_>) -> String {
    let mut xml = String::with_capacity(4096);
    // Writing to a string cannot fail.
    let _ = write(&mut xml, plan);
    xml
}

/// A digest of everything that a machine is made of here, the kernel's command line included: of what
/// a template and a clone of it look like, apart from sizes, names and paths. `processor` is what the
/// guest sees of the host's processor.
pub(super) fn layout(accelerator: Accelerator, nested: bool, processor: &str) -> String {
    let template = TemplateFiles::in_folder(Path::new("/template"));
    let mut digest = Sha256::new();
    digest.update(processor);
    digest.update(idle_states::table(1));
    for source in [Source::Template(template.clone()), Source::Clone(template)] {
        let id = VmId::from_bits(0);
        let spec = VmSpec {
            id,
            source,
            image: ImageFiles {
                disk: "/image/disk".into(),
                kernel: "/image/kernel".into(),
                initrd: "/image/initrd".into(),
            },
            vcpus: 1,
            memory_mib: 1024,
            address: None,
            slot: None,
            generation_id: 0,
        };
        digest.update(domain_xml(&DomainPlan {
            install: InstallId::from_bits(0),
            accelerator,
            nested,
            spec: &spec,
            folder: &VmFolder::new(Path::new("/vms"), id),
            user: (0, 0),
        }));
    }
    format!("{:x}", digest.finalize())[..16].to_owned()
}

fn write(xml: &mut String, plan: &DomainPlan<'_>) -> fmt::Result {
    let DomainPlan { spec, folder, .. } = plan;
    let (kind, cpu) = match plan.accelerator {
        Accelerator::Kvm => ("kvm", "mode='host-passthrough' migratable='on'"),
        Accelerator::Tcg => ("qemu", "mode='maximum'"),
    };
    let vm = spec.id;
    writeln!(
        xml,
        "<domain type='{kind}' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>"
    )?;
    writeln!(xml, "  <name>{vm}</name>")?;
    writeln!(xml, "  <genid>{}</genid>", Uuid(spec.generation_id))?;
    writeln!(
        xml,
        "  <metadata><rd:vm xmlns:rd='{METADATA_NAMESPACE}'>{}/{vm}</rd:vm></metadata>",
        plan.install
    )?;
    // A core dump of QEMU must not hold the guest's memory: there are keys in it.
    writeln!(
        xml,
        "  <memory unit='MiB' dumpCore='off'>{}</memory>",
        spec.memory_mib
    )?;
    writeln!(xml, "  <vcpu>{}</vcpu>", spec.vcpus)?;
    xml.push_str("  <os>\n    <type arch='x86_64' machine='q35'>hvm</type>\n");
    // A clone never boots. QEMU would keep a copy of the kernel in memory for each of them, 11 MiB.
    if !matches!(spec.source, Source::Clone(_)) {
        writeln!(xml, "    <kernel>{}</kernel>", File(&spec.image.kernel))?;
        writeln!(xml, "    <initrd>{}</initrd>", File(&spec.image.initrd))?;
        let told = kernel_command_line(plan.accelerator, plan.nested);
        writeln!(xml, "    <cmdline>{told}</cmdline>")?;
    }
    xml.push_str("  </os>\n");
    xml.push_str("  <features><acpi/><apic/></features>\n");
    if plan.nested {
        writeln!(xml, "  <cpu {cpu}/>")?;
    } else {
        writeln!(xml, "  <cpu {cpu}>")?;
        for name in RUNS_MACHINES {
            writeln!(xml, "    <feature policy='disable' name='{name}'/>")?;
        }
        xml.push_str("  </cpu>\n");
    }
    // The guest takes it at first, lets it be, and QEMU goes on with it 250 times a second.
    xml.push_str("  <clock offset='utc'><timer name='hpet' present='no'/></clock>\n");
    // A machine that ends stays ended: it may serve one lease in its life.
    xml.push_str("  <on_poweroff>destroy</on_poweroff>\n");
    xml.push_str("  <on_reboot>destroy</on_reboot>\n");
    xml.push_str("  <on_crash>destroy</on_crash>\n");
    devices(xml, spec, folder)?;
    // libvirt changes no owners: see `qemu_user`.
    let (uid, gid) = plan.user;
    writeln!(
        xml,
        "  <seclabel type='static' model='dac' relabel='no'><label>+{uid}:+{gid}</label></seclabel>"
    )?;
    command_line(xml, spec, folder)?;
    xml.push_str("</domain>\n");
    Ok(())
}

fn devices(xml: &mut String, spec: &VmSpec, folder: &VmFolder) -> fmt::Result {
    let disk = match &spec.source {
        Source::Template(files) => files.disk.clone(),
        Source::Cold | Source::Clone(_) => folder.disk(),
    };
    xml.push_str("  <devices>\n");
    // Nothing on the disk is meant to outlive the VM, so nothing is ever flushed.
    writeln!(
        xml,
        "    <disk type='file' device='disk' model='{MODERN}'>\n      \
         <driver name='qemu' type='qcow2' cache='unsafe' discard='unmap'/>\n      \
         <source file='{}'/>\n      <target dev='vda' bus='virtio'/>\n      {}\n    </disk>",
        File(&disk),
        Slot::Disk
    )?;
    let mac = GUEST_MAC.map(|byte| format!("{byte:02x}")).join(":");
    writeln!(
        xml,
        "    <interface type='ethernet'>\n      <mac address='{mac}'/>\n      \
         <target dev='{}' managed='no'/>\n      <model type='{MODERN}'/>\n      \
         <rom enabled='no'/>\n      {}\n    </interface>",
        Text(&spec.id.tap()),
        Slot::Network
    )?;
    writeln!(
        xml,
        "    <controller type='virtio-serial' index='0' model='{MODERN}'>{}</controller>",
        Slot::Channel
    )?;
    writeln!(
        xml,
        "    <channel type='unix'>\n      <source mode='bind' path='{}'/>\n      \
         <target type='virtio' name='{}'/>\n    </channel>",
        File(&folder.channel()),
        guest_protocol::PORT_NAME
    )?;
    writeln!(
        xml,
        "    <serial type='file'><source path='{}'/></serial>",
        File(&folder.console())
    )?;
    writeln!(
        xml,
        "    <rng model='{MODERN}'>\n      <backend model='random'>/dev/urandom</backend>\n      {}\n    </rng>",
        Slot::Random
    )?;
    xml.push_str("    <controller type='usb' model='none'/>\n");
    xml.push_str("    <memballoon model='none'/>\n    <audio id='1' type='none'/>\n");
    xml.push_str("  </devices>\n");
    Ok(())
}

/// What libvirt has no words for: memory in a file of our choice, idle states of the processors, and a machine without
/// the parts of a desktop that it comes with. Each part is code of QEMU that a guest can attack.
fn command_line(xml: &mut String, spec: &VmSpec, folder: &VmFolder) -> fmt::Result {
    let memory = match &spec.source {
        Source::Cold => None,
        // Clones open the file read-only and copy on write, so that none can change what the others
        // see, whatever becomes of its QEMU.
        Source::Clone(files) => Some((files, "share=off,readonly=on,rom=off")),
        Source::Template(files) => Some((files, "share=on")),
    };
    let mut machine = UNNEEDED.to_owned();
    let mut arguments = Vec::new();
    if let Some((files, mode)) = memory {
        let backend = format!(
            "memory-backend-file,id={MEMORY},size={}M,mem-path={},{mode},dump=off,merge=off",
            spec.memory_mib,
            option(&files.memory)
        );
        arguments.extend(["-object".to_owned(), backend]);
        let _ = write!(machine, ",memory-backend={MEMORY}");
    }
    arguments.extend(["-machine".to_owned(), machine]);
    arguments.extend(["-global", QUIET_CARD].map(str::to_owned));
    if matches!(spec.source, Source::Clone(_)) {
        arguments.extend(["-incoming", "defer"].map(str::to_owned));
    } else {
        // A kernel reads it when it boots.
        let table = format!("file={}", option(&folder.idle_states()));
        arguments.extend(["-acpitable".to_owned(), table]);
    }
    xml.push_str("  <qemu:commandline>\n");
    for argument in arguments {
        writeln!(xml, "    <qemu:arg value='{}'/>", Text(&argument))?;
    }
    xml.push_str("  </qemu:commandline>\n");
    Ok(())
}

/// A path in an option of QEMU's: a comma separates options, and a doubled one stands for itself.
fn option(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

impl Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "<address type='pci' domain='0x0000' bus='0x00' slot='0x{:02x}' function='0x0'/>",
            *self as u8
        )
    }
}

/// Text that is safe inside an element and inside quotes of either kind.
struct Text<'a>(&'a str);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '\'' => f.write_str("&apos;")?,
                '"' => f.write_str("&quot;")?,
                // A line break in an attribute would be read as a space.
                '\n' | '\r' | '\t' => write!(f, "&#{};", u32::from(character))?,
                _ => f.write_char(character)?,
            }
        }
        Ok(())
    }
}

struct File<'a>(&'a Path);

impl Display for File<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Text(&self.0.to_string_lossy()).fmt(f)
    }
}

struct Uuid(u128);

impl Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:032x}", self.0);
        let (a, rest) = digits.split_at(8);
        let (b, rest) = rest.split_at(4);
        let (c, rest) = rest.split_at(4);
        let (d, e) = rest.split_at(4);
        write!(f, "{a}-{b}-{c}-{d}-{e}")
    }
}

#[cfg(test)]
mod tests;
