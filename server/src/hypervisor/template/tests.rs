use super::super::sim::{SimFault, SimHypervisor, Verb};
use super::super::{Accelerator, Observed};
use super::*;
use crate::clock::SystemClock;

fn key() -> TemplateKey {
    TemplateKey {
        image_digest: "i".into(),
        image_disk: "/d".into(),
        vcpus: 2,
        memory_mib: 1024,
        host: HostFacts {
            nested: false,
            accelerator: Accelerator::Tcg,
            qemu_version: "10.0.2".into(),
            libvirt_version: "11.3.0".into(),
            cpu_model: "max".into(),
            layout: "l".into(),
        },
        protocol: 1,
        machine: "m".into(),
        site: String::new(),
    }
}

fn image() -> ImageFiles {
    ImageFiles {
        disk: "/d".into(),
        kernel: "/k".into(),
        initrd: "/i".into(),
    }
}

struct Bench {
    sim: SimHypervisor,
    hypervisor: Arc<dyn Hypervisor>,
    folder: tempfile::TempDir,
    templates: Templates,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let sim = SimHypervisor::new(Arc::new(SystemClock));
        let templates = Templates::new(folder.path().join("templates"));
        Self {
            hypervisor: Arc::new(sim.clone()),
            sim,
            folder,
            templates,
        }
    }

    async fn build(&self, key: &TemplateKey, vm: u64) -> Result<Checked, TemplateError> {
        let order = BuildOrder {
            vm: VmId::from_bits(vm),
            generation_id: 1,
            site: &Site::default(),
        };
        self.templates
            .build(&self.hypervisor, key, image(), order)
            .await
    }
}

#[tokio::test]
async fn a_template_is_found_again_by_its_whole_key() {
    let bench = Bench::new();
    assert_eq!(bench.templates.find(&key()).unwrap(), None);
    let files = bench.build(&key(), 1).await.unwrap();
    assert_eq!(bench.templates.find(&key()).unwrap(), Some(files));
    assert_eq!(bench.hypervisor.list().await.unwrap(), Observed::default());
    let host = |change: fn(&mut HostFacts)| {
        let mut other = key();
        change(&mut other.host);
        other
    };
    for other in [
        TemplateKey {
            image_digest: "other".into(),
            ..key()
        },
        // An image whose folder was moved.
        TemplateKey {
            image_disk: "/other/d".into(),
            ..key()
        },
        TemplateKey { vcpus: 1, ..key() },
        TemplateKey {
            memory_mib: 2048,
            ..key()
        },
        TemplateKey {
            protocol: 2,
            ..key()
        },
        TemplateKey {
            machine: "other".into(),
            ..key()
        },
        TemplateKey {
            site: "other".into(),
            ..key()
        },
        host(|h| h.accelerator = Accelerator::Kvm),
        host(|h| h.qemu_version = "10.0.3".into()),
        host(|h| h.libvirt_version = "11.3.1".into()),
        host(|h| h.cpu_model = "other".into()),
        host(|h| h.layout = "other".into()),
    ] {
        assert_eq!(bench.templates.find(&other).unwrap(), None, "{other:?}");
    }
}

#[tokio::test]
async fn a_rebuild_is_a_new_generation_in_a_new_folder() {
    let bench = Bench::new();
    let first = bench.build(&key(), 1).await.unwrap();
    let second = bench.build(&key(), 2).await.unwrap();
    assert_ne!(first.files.memory, second.files.memory);
    assert!(first.files.memory.is_file());
    assert_eq!(bench.templates.find(&key()).unwrap(), Some(second));
}

#[tokio::test]
async fn a_failed_build_leaves_nothing() {
    for verb in [Verb::Start, Verb::Channel, Verb::Snapshot] {
        let bench = Bench::new();
        bench.sim.inject(verb, SimFault::FailsAfterwards);
        bench.build(&key(), 1).await.unwrap_err();
        assert_eq!(bench.templates.find(&key()).unwrap(), None, "{verb:?}");
        assert_eq!(bench.sim.vms(), vec![], "{verb:?}");
        let parent = bench
            .folder
            .path()
            .join("templates")
            .join(key().digest().unwrap());
        assert_eq!(entries(&parent).unwrap(), Vec::<PathBuf>::new(), "{verb:?}");
    }
}

#[tokio::test]
async fn damaged_and_unfinished_templates_are_not_used() {
    let bench = Bench::new();
    let files = bench.build(&key(), 1).await.unwrap().files;
    std::fs::write(&files.memory, b"cut").unwrap();
    assert_eq!(bench.templates.find(&key()).unwrap(), None);

    let parent = files.memory.parent().unwrap().parent().unwrap().to_owned();
    let unfinished = parent.join("9.building");
    std::fs::create_dir(&unfinished).unwrap();
    bench.templates.sweep_unfinished().unwrap();
    assert!(!unfinished.exists());
    assert!(parent.join("1").exists());
}

/// A disk that loses a bit says nothing, and neither the size nor the times of a file tell.
#[tokio::test]
async fn a_template_with_one_wrong_byte_is_not_found_and_never_used_again() {
    for place in 0..3 {
        let bench = Bench::new();
        let template = bench.build(&key(), 1).await.unwrap();
        let damaged = template.files.all()[place];
        let written = std::fs::metadata(damaged).unwrap().modified().unwrap();
        let mut bytes = std::fs::read(damaged).unwrap();
        bytes[3] ^= 0x10;
        std::fs::write(damaged, bytes).unwrap();
        // While a server runs, the time of the change tells.
        assert!(template.seen.check().is_err(), "{damaged:?}");
        let file = std::fs::File::options().write(true).open(damaged).unwrap();
        file.set_modified(written).unwrap();
        template.seen.check().unwrap();
        assert_eq!(bench.templates.find(&key()).unwrap(), None, "{damaged:?}");
        // It is there for those that run, and whoever reads it next passes it over at once.
        assert!(template.files.are_there());
        assert!(damaged.parent().unwrap().join(UNFIT).is_file());
        let next = bench.build(&key(), 2).await.unwrap();
        assert_eq!(bench.templates.find(&key()).unwrap(), Some(next));
    }
}

#[tokio::test]
async fn outdated_templates_are_told_from_current_ones() {
    let bench = Bench::new();
    let old = TemplateKey {
        image_digest: "old".into(),
        ..key()
    };
    let folder = |template: &Checked| template.files.memory.parent().unwrap().to_owned();
    let outdated = folder(&bench.build(&old, 1).await.unwrap());
    let former = folder(&bench.build(&key(), 2).await.unwrap());
    let current = bench.build(&key(), 3).await.unwrap();
    assert_eq!(bench.templates.count(&key()).unwrap(), 2);

    let mut others = bench.templates.others(&[folder(&current)]).unwrap();
    others.sort();
    let mut expected = vec![outdated.clone(), former];
    expected.sort();
    assert_eq!(others, expected);
    for folder in &others {
        bench.templates.remove(folder).unwrap();
    }
    assert!(
        !outdated.parent().unwrap().exists(),
        "an empty folder stays"
    );
    assert_eq!(bench.templates.find(&old).unwrap(), None);
    assert_eq!(bench.templates.find(&key()).unwrap(), Some(current));
}

#[tokio::test]
async fn a_template_that_was_set_aside_stays_where_it_is_and_is_not_found() {
    let bench = Bench::new();
    let files = bench.build(&key(), 1).await.unwrap().files;
    bench
        .templates
        .set_aside(&files, "three clones failed")
        .unwrap();
    assert_eq!(bench.templates.find(&key()).unwrap(), None);
    assert!(files.are_there());
    let next = bench.build(&key(), 2).await.unwrap();
    assert_ne!(next.files, files);
    assert_eq!(bench.templates.find(&key()).unwrap(), Some(next));
    // One whose folder somebody removed needs no mark.
    std::fs::remove_dir_all(files.memory.parent().unwrap()).unwrap();
    bench.templates.set_aside(&files, "gone").unwrap();
}

#[test]
fn the_key_has_the_layout_of_the_machine_and_nothing_of_one_machine() {
    let host = key().host;
    let nothing = Fixed::default();
    fn made(vcpus: u32, memory_mib: u32, host: &HostFacts, site: &Fixed) -> TemplateKey {
        TemplateKey::new(
            "i".into(),
            "/d".into(),
            vcpus,
            memory_mib,
            host.clone(),
            site,
        )
    }
    let new = |vcpus, memory_mib| made(vcpus, memory_mib, &host, &nothing).machine;
    assert_eq!(new(2, 1024), new(2, 1024));
    assert_ne!(new(2, 1024), new(4, 1024));
    let kvm = HostFacts {
        accelerator: Accelerator::Kvm,
        ..host.clone()
    };
    assert_ne!(made(2, 1024, &kvm, &nothing).machine, new(2, 1024));
    // A site without such settings has the templates that it had.
    assert_eq!(made(2, 1024, &host, &nothing).site, "");
    let site = |mtu| Fixed {
        mtu: Some(mtu),
        ..Fixed::default()
    };
    let with = |mtu| made(2, 1024, &host, &site(mtu));
    assert_eq!(with(1400), with(1400));
    assert_ne!(with(1400).site, with(1399).site);
    assert_ne!(with(1400).site, "");
}
