//! One VM's life under the real libvirt and QEMU. The end-to-end tests go on from there, with Docker
//! in the guest.
//!
//! Takes root, QEMU and a guest image, like those: `make test` provides them.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of a test fail it"
)]

mod bench;
mod confinement;
mod groups;

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use guest_protocol::{Call, FromGuest, LineDecoder, Reply, Request, VERSION, encode};
use remote_dockerd::hypervisor::{
    Hypervisor, HypervisorError, Libvirt, Observed, Source, TemplateFiles,
};
use remote_dockerd::ids::VmId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use virt::connect::Connect;
use virt::domain::Domain;

use bench::Bench;

/// A paused machine of the same kind, with our name or not, but not of this installation.
fn foreign(connect: &Connect, name: &str, metadata: &str) -> Domain {
    let xml = format!(
        "<domain type='qemu'><name>{name}</name>{metadata}<memory unit='MiB'>64</memory>\
         <os><type arch='x86_64' machine='q35'>hvm</type></os></domain>"
    );
    let paused = virt::sys::VIR_DOMAIN_START_PAUSED;
    connect.create_domain_xml(&xml, paused).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_from_start_to_gone() {
    let bench = Bench::open().await;
    let libvirt = &bench.libvirt;
    let spec = bench.spec(0, Source::Cold);
    let vm = spec.id;
    libvirt.destroy(vm).await.unwrap();
    let error = libvirt.channel(vm).await.err().unwrap();
    assert!(
        matches!(error, HypervisorError::NotRunning { .. }),
        "{error:?}"
    );

    let report = libvirt.start(&spec).await.unwrap();
    let steps: Vec<_> = report.steps.iter().map(|step| step.name).collect();
    assert_eq!(steps, ["wire", "disk", "define"]);
    let observed = libvirt.list().await.unwrap();
    assert_eq!(observed.running, BTreeSet::from([vm]));
    assert_eq!(observed.remnants, BTreeSet::new());
    assert_eq!(observed.stalled, BTreeSet::new());
    let taken = observed.disk_bytes[&vm];
    assert!((100_000..1 << 30).contains(&taken), "{taken}");
    // libvirt notes in QEMU's log how it was started, which is nobody's business but the host's.
    let said = libvirt.console_tail(vm, 100_000).await;
    assert!(!said.contains("-name guest="), "{said}");
    // The answer got lost and the start is asked for again: it runs, so that is well.
    libvirt.start(&spec).await.unwrap();

    // Root's libvirt believes what stands there, so no QEMU must be able to replace it.
    let notes = std::fs::metadata(bench.processes()).unwrap();
    assert_eq!((notes.uid(), notes.mode() & 0o7777), (0, 0o710));
    let pid = bench.pid(vm);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let uid = status
        .lines()
        .find(|line| line.starts_with("Uid:"))
        .unwrap();
    assert!(!uid.contains("\t0"), "QEMU runs as root: {uid}");
    let score = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    assert!(score.trim().parse::<i32>().unwrap() >= 500, "{score}");

    // Somebody else's domains: one that calls itself as a VM of ours would, one of another server.
    let somebody = bench.somebody_else();
    let alike = bench.spec(1, Source::Cold).id;
    let other = VmId::from_bits(bench.install.bits() + 2);
    let theirs = format!(
        "<metadata><rd:vm xmlns:rd='urn:setup-remote-docker:vm:1'>in-0000000000001/{other}</rd:vm></metadata>"
    );
    let domains = [
        foreign(&somebody, &alike.to_string(), ""),
        foreign(&somebody, &other.to_string(), &theirs),
    ];
    assert_eq!(libvirt.list().await.unwrap().running, observed.running);
    assert!(libvirt.shows(vm).await.unwrap());
    libvirt.resume(vm).await.unwrap();
    for theirs in [alike, other] {
        assert!(!libvirt.shows(theirs).await.unwrap());
        let error = libvirt.resume(theirs).await.unwrap_err();
        assert!(matches!(error, HypervisorError::NotRunning { .. }));
    }
    for vm in [alike, other] {
        libvirt.destroy(vm).await.unwrap();
    }
    for domain in &domains {
        assert!(domain.is_active().unwrap(), "it was not ours to destroy");
    }

    let begun = Instant::now();
    libvirt.destroy(vm).await.unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "{:?}",
        begun.elapsed()
    );
    assert!(
        !Path::new(&format!("/proc/{pid}")).exists(),
        "QEMU is still there"
    );
    assert_eq!(nothing_but_the_disk(libvirt).await, Observed::default());
    assert_eq!(libvirt.console_tail(vm, 1000).await, "");
    assert_eq!(bench.vms(), Vec::<String>::new());
    libvirt.destroy(vm).await.unwrap();
    for domain in &domains {
        domain.destroy().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_qemu_ended_is_told_until_the_vm_is_taken_away() {
    let bench = Bench::open().await;
    let libvirt = &bench.libvirt;
    let spec = bench.spec(0, Source::Cold);
    libvirt.start(&spec).await.unwrap();
    let alive = libvirt.console_tail(spec.id, 10_000).await;
    assert!(!alive.contains("QEMU "), "{alive}");
    let pid = nix::unistd::Pid::from_raw(bench.pid(spec.id).parse().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSEGV).unwrap();
    let begun = Instant::now();
    while !libvirt.list().await.unwrap().running.is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(30), "it still runs");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let said = libvirt.console_tail(spec.id, 10_000).await;
    assert!(said.starts_with("QEMU was killed by SIGSEGV\n"), "{said}");
    // libvirt's own view, which it notes in QEMU's log.
    assert!(said.contains("reason=crashed"), "{said}");
    let folder = bench.state.path().display().to_string();
    assert!(!said.contains(&folder), "{said}");
    assert_eq!(libvirt.console_tail(spec.id, 6).await, "QEMU w");
    libvirt.destroy(spec.id).await.unwrap();
    assert_eq!(libvirt.console_tail(spec.id, 10_000).await, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clone_goes_on_where_its_template_stopped() {
    let bench = Bench::open().await;
    let libvirt = &bench.libvirt;
    let folder = bench.state.path().join("template");
    std::fs::create_dir(&folder).unwrap();
    let files = TemplateFiles::in_folder(&folder);
    let template = bench.spec(0, Source::Template(files.clone()));
    libvirt.start(&template).await.unwrap();
    let second = bench.spec(9, template.source.clone());
    let error = libvirt.start(&second).await.unwrap_err();
    assert!(error.to_string().contains("memory"), "{error}");
    libvirt.destroy(second.id).await.unwrap();
    let booted = boot_id(libvirt, template.id).await;
    libvirt.snapshot(template.id, &files).await.unwrap();
    assert!(libvirt.list().await.unwrap().running.is_empty());
    libvirt.destroy(template.id).await.unwrap();
    for path in [&files.memory, &files.device_state, &files.disk] {
        let mode = std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o440, "{} can be written to", path.display());
    }
    let memory = std::fs::read(&files.memory).unwrap();

    let clones = [1, 2].map(|number| bench.spec(number, Source::Clone(files.clone())));
    for (clone, how) in clones.iter().zip(["disk made", "disk from memory"]) {
        let report = libvirt.start(clone).await.unwrap();
        let steps: Vec<_> = report.steps.iter().map(|step| step.name).collect();
        assert_eq!(
            steps,
            ["wire", "disk", "define", "state", "resume"],
            "{how}"
        );
    }
    assert_eq!(libvirt.list().await.unwrap().running.len(), 2);
    for clone in &clones {
        assert_eq!(
            boot_id(libvirt, clone.id).await,
            booted,
            "it booted by itself"
        );
        // One connection at a time: the agent takes the next one as well.
        assert_eq!(boot_id(libvirt, clone.id).await, booted);
        assert!(libvirt.shows(clone.id).await.unwrap());
        libvirt.destroy(clone.id).await.unwrap();
        assert!(!libvirt.shows(clone.id).await.unwrap());
    }
    let after = std::fs::read(&files.memory).unwrap();
    assert!(memory == after, "a clone changed its template's memory");
    assert_eq!(nothing_but_the_disk(libvirt).await, Observed::default());
}

/// What is on the host, but for how much of its disk is free, which others change.
async fn nothing_but_the_disk(libvirt: &Libvirt) -> Observed {
    let mut observed = libvirt.list().await.unwrap();
    assert!(observed.free_disk_bytes.take().is_some_and(|free| free > 0));
    observed
}

/// What the agent in the guest says its boot is called.
async fn boot_id(libvirt: &Libvirt, vm: VmId) -> String {
    let mut channel = libvirt.channel(vm).await.unwrap();
    let call = Call::Hello { version: VERSION };
    let id = u64::from(std::process::id());
    let mut request = b"\n".to_vec();
    request.extend(encode(&Request { id, call }).unwrap());
    channel.write_all(&request).await.unwrap();
    let mut decoder = LineDecoder::default();
    let mut bytes = [0; 4096];
    loop {
        let read = tokio::time::timeout(Duration::from_secs(120), channel.read(&mut bytes)).await;
        let Ok(read) = read else {
            panic!(
                "no answer; its console: {}",
                libvirt.console_tail(vm, 65_536).await
            );
        };
        decoder.feed(&bytes[..read.unwrap()]).unwrap();
        while let Some(message) = decoder.next_frame::<FromGuest>().unwrap() {
            match message {
                FromGuest::Reply { id: to, result } if to == id => match result.unwrap() {
                    Reply::Hello(hello) => return hello.boot_id,
                    other => panic!("{other:?}"),
                },
                _ => {}
            }
        }
    }
}
