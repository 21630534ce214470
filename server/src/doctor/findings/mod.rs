//! Judges what was seen. Pure: the same facts give the same findings.

mod access;
mod network;
mod resources;
mod site;

use std::path::PathBuf;

use super::facts::{Facts, Images, Look, Nested, State};
use super::report::Finding;
use crate::hypervisor::trial::Versions;

/// All findings about a host, in the order in which a server would stumble; `has_uplink` tells whether guests
/// are to reach the Internet.
pub(super) fn judge(facts: &Facts, has_uplink: bool) -> Vec<Finding> {
    let mut findings = vec![root(facts.is_root), accelerator(&facts.accelerator)];
    findings.extend(facts.nested.as_ref().map(nested));
    findings.extend([
        users(&facts.shared_user),
        control_groups(&facts.control_groups),
    ]);
    findings.extend(versions(&facts.versions));
    findings.extend(state(&facts.state, facts.server_runs));
    findings.extend(images(&facts.images));
    findings.extend(network::judge(facts, has_uplink));
    findings.extend([
        resources::disk(&facts.disk, facts.images.largest_bytes),
        resources::memory(&facts.memory, facts.server_runs),
        resources::clock(&facts.clock),
    ]);
    findings.extend(resources::ports(&facts.ports, facts.server_runs));
    findings.push(access::certificate(facts.certificate.as_ref()));
    findings.extend(access::issuers(&facts.issuers));
    findings.extend(site::judge(&facts.site));
    findings
}

/// The finding about something that may not have been looked at, or whose look went wrong.
fn look<T>(name: &'static str, look: &Look<T>, seen: impl FnOnce(&T) -> Finding) -> Finding {
    match look {
        Look::Seen(fact) => seen(fact),
        Look::Failed(reason) => Finding::failed(name, reason),
        Look::TakesRoot => Finding::warning(name, "not looked at, which takes root"),
    }
}

fn root(is_root: bool) -> Finding {
    if is_root {
        Finding::ok("root", "this process has its rights")
    } else {
        Finding::failed("root", "this process does not run as root").hint(
            "the server makes network namespaces and virtual machines: run it, and this, with sudo",
        )
    }
}

fn accelerator(fact: &Look<Option<String>>) -> Finding {
    const NAME: &str = "accelerator";
    look(NAME, fact, |slow| match slow {
        None => Finding::ok(NAME, "the processor carries out what guests do (KVM)"),
        Some(why) => Finding::warning(NAME, why),
    })
}

fn nested(fact: &Look<Nested>) -> Finding {
    const NAME: &str = "nested";
    look(NAME, fact, |nested| {
        match nested {
        Nested::ByProcessor => Finding::ok(
            NAME,
            "the kernel lets machines run machines of their own (`hypervisor.nested`)",
        ),
        Nested::Emulated => Finding::ok(
            NAME,
            "machines can run machines of their own, in a processor that is emulated itself: for trying things out, \
             some hundred times slower than this host",
        ),
        Nested::Off(why) => Finding::warning(NAME, why).hint(
            "machines run all the same, without `/dev/kvm`; when no machine runs any more, load the module again, \
             or set `hypervisor.nested` to false",
        ),
    }
    })
}

fn users(fact: &Look<Option<String>>) -> Finding {
    const NAME: &str = "qemu users";
    look(NAME, fact, |shared| {
        match shared {
        None => Finding::ok(NAME, "the QEMU of each machine runs as a user of its own"),
        Some(why) => Finding::warning(NAME, format!("all machines share one: {why}")).hint(
            "a guest that breaks out of its QEMU reaches the disks and the memory of the others: set \
             `hypervisor.qemu_uids`",
        ),
    }
    })
}

fn control_groups(fact: &Look<Option<Vec<String>>>) -> Finding {
    const NAME: &str = "qemu bounds";
    look(NAME, fact, |lacking| {
        match lacking.as_deref() {
        None => Finding::warning(
            NAME,
            "none are made: `hypervisor.control_groups.enabled` is false",
        ),
        Some([]) => Finding::ok(
            NAME,
            "the kernel holds each QEMU to its memory, its threads and its time on the processors",
        ),
        Some(lacking) => Finding::warning(NAME, lacking.join("; ")).hint(
            "machines run all the same; a QEMU that a guest has broken out of may take of the host what it \
             wants",
        ),
    }
    })
}

fn versions(fact: &Look<Versions>) -> Vec<Finding> {
    let mut findings = vec![look("qemu", fact, |versions| {
        Finding::ok("qemu", format!("version {}", versions.qemu))
    })];
    if let Look::Seen(versions) = fact {
        let version = format!("version {}", versions.libvirt);
        findings.push(match &versions.libvirt_needed {
            None => Finding::ok("libvirt", version),
            Some(needed) => {
                let hint =
                    format!("this server is made for {needed} or newer: upgrade the package");
                Finding::warning("libvirt", version).hint(hint)
            }
        });
    }
    findings
}

fn state(state: &State, server_runs: bool) -> Vec<Finding> {
    const NAME: &str = "state";
    let path = state.path.display();
    let mut findings = Vec::new();
    if let Some(fault) = &state.path_fault {
        findings.push(Finding::failed(NAME, fault));
    }
    findings.push(match &state.writable {
        Err(reason) => {
            let what = format!("the state folder {path} cannot be written: {reason}");
            Finding::failed(NAME, what)
                .hint("make it writable for root, or choose another one with `--state-dir`")
        }
        Ok(()) if server_runs => Finding::ok(NAME, format!("a server runs on {path}")),
        Ok(()) if state.is_there => Finding::ok(NAME, format!("{path} can be written")),
        Ok(()) => Finding::ok(NAME, format!("{path} is not there and can be made")),
    });
    findings.push(passage("passage", &state.closed, "--state-dir"));
    findings
}

fn images(images: &Images) -> Vec<Finding> {
    const NAME: &str = "images";
    let engines = match &images.engines {
        Ok(engines) => {
            let folder = images.folder.display();
            let list = engines.join(", ");
            Finding::ok(NAME, format!("whole in {folder}, with Docker {list}"))
        }
        Err(reason) => Finding::failed(NAME, reason),
    };
    let mut findings = vec![engines];
    if images.engines.is_ok() {
        findings.push(passage("image files", &images.closed, "--images-dir"));
        findings.push(match &images.offers {
            Ok(()) => Finding::ok("offers", "engines, sizes and pools fit together"),
            Err(reason) => Finding::failed("offers", reason),
        });
    }
    findings
}

/// Whether QEMU's user comes to where it has to.
fn passage(name: &'static str, closed: &Look<Option<PathBuf>>, flag: &str) -> Finding {
    look(name, closed, |closed| match closed {
        None => Finding::ok(name, "QEMU's user may go there"),
        Some(path) => {
            let path = path.display();
            let what = format!("QEMU's user is kept out by {path}");
            Finding::failed(name, what).hint(format!(
                "let it pass, for example with `chmod o+x` for a folder and `chmod o+r` for a file, or \
                 choose another place with `{flag}`"
            ))
        }
    })
}
