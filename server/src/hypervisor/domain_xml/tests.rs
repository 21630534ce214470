use std::path::PathBuf;

use super::*;

const INSTALL: InstallId = InstallId::from_bits(7);

fn spec(source: Source) -> VmSpec {
    VmSpec {
        id: VmId::from_bits(42),
        source,
        image: ImageFiles {
            disk: "/images/trixie/disk.qcow2".into(),
            kernel: "/images/trixie/vmlinuz".into(),
            initrd: "/images/trixie/initrd.img".into(),
        },
        vcpus: 2,
        memory_mib: 1024,
        address: None,
        slot: None,
        generation_id: 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef,
    }
}

fn template() -> TemplateFiles {
    TemplateFiles::in_folder(&PathBuf::from("/state/templates/k/1"))
}

fn xml(accelerator: Accelerator, spec: &VmSpec) -> String {
    xml_of(accelerator, false, spec)
}

fn xml_of(accelerator: Accelerator, nested: bool, spec: &VmSpec) -> String {
    domain_xml(&DomainPlan {
        install: INSTALL,
        accelerator,
        nested,
        spec,
        folder: &VmFolder::new(&PathBuf::from("/state/vms"), spec.id),
        user: (1_879_048_192, 1_879_048_193),
    })
}

#[test]
fn every_kind_of_start_on_every_accelerator() {
    for (accelerator, name) in [(Accelerator::Kvm, "kvm"), (Accelerator::Tcg, "tcg")] {
        for (source, kind) in [
            (Source::Cold, "cold"),
            (Source::Template(template()), "template"),
            (Source::Clone(template()), "clone"),
        ] {
            insta::assert_snapshot!(format!("{kind}_{name}"), xml(accelerator, &spec(source)));
        }
    }
}

#[test]
fn only_where_it_is_asked_for_may_a_guest_run_machines() {
    for accelerator in [Accelerator::Kvm, Accelerator::Tcg] {
        let text = |nested| xml_of(accelerator, nested, &spec(Source::Cold));
        let (usual, nested) = (text(false), text(true));
        for name in ["vmx", "svm"] {
            let off = format!("<feature policy='disable' name='{name}'/>");
            assert!(usual.contains(&off) && !nested.contains(&off), "{nested}");
        }
        let told = |text: &str| text.contains(" remote_docker.nested</cmdline>");
        assert!(told(&nested) && !told(&usual), "{nested}");
        assert_ne!(
            layout(accelerator, true, "flags"),
            layout(accelerator, false, "flags")
        );
    }
}

#[test]
fn a_clone_sees_the_machine_of_its_template() {
    let lines = |source| {
        let text = xml(Accelerator::Tcg, &spec(source));
        let differs = [
            "mem-path",
            "-incoming",
            "defer",
            "<source file=",
            "<kernel>",
            "<initrd>",
            "<cmdline>",
            "-acpitable",
            "idle-states",
        ];
        text.lines()
            .filter(|line| !differs.iter().any(|word| line.contains(word)))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        lines(Source::Template(template())),
        lines(Source::Clone(template()))
    );
}

#[test]
fn a_kernel_is_for_machines_that_boot() {
    let has_kernel = |source| {
        let text = xml(Accelerator::Tcg, &spec(source));
        let each =
            ["<kernel>", "<initrd>", "<cmdline>", "idle-states"].map(|word| text.contains(word));
        assert_eq!(each, [each[0]; 4], "{text}");
        each[0]
    };
    assert!(has_kernel(Source::Cold) && has_kernel(Source::Template(template())));
    assert!(!has_kernel(Source::Clone(template())));
}

#[test]
fn paths_cannot_break_out_of_their_place() {
    let mut spec = spec(Source::Template(TemplateFiles::in_folder(&PathBuf::from(
        "/a,share=on'/><b",
    ))));
    spec.image.kernel = "/k'&\"<evil/>\n".into();
    let xml = xml(Accelerator::Tcg, &spec);
    assert!(
        xml.contains("<kernel>/k&apos;&amp;&quot;&lt;evil/&gt;&#10;</kernel>"),
        "{xml}"
    );
    assert!(
        xml.contains("mem-path=/a,,share=on&apos;/&gt;&lt;b/memory,share=on"),
        "{xml}"
    );
}

#[test]
fn the_owner_reads_back_and_nothing_else_does() {
    let owner = Owner {
        install: INSTALL,
        vm: VmId::from_bits(42),
    };
    // As libvirt gives it back: the prefix is gone, the quotes are others.
    let element = format!(
        "<vm xmlns=\"{METADATA_NAMESPACE}\">{INSTALL}/{}</vm>",
        owner.vm
    );
    assert_eq!(Owner::from_metadata(&element), Some(owner));
    for foreign in [
        "",
        "<vm/>",
        "<vm></vm>",
        "<vm>in-0000000000007</vm>",
        "<vm>in-0000000000007/web</vm>",
        "<vm>somebody/vm-0000000000001</vm>",
    ] {
        assert_eq!(Owner::from_metadata(foreign), None, "{foreign}");
    }
}

#[test]
fn generation_ids_are_written_as_uuids() {
    assert_eq!(
        Uuid(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef).to_string(),
        "01234567-89ab-cdef-0123-456789abcdef"
    );
    assert_eq!(Uuid(1).to_string(), "00000000-0000-0000-0000-000000000001");
}

#[test]
fn another_machine_has_another_layout() {
    let kvm = layout(Accelerator::Kvm, false, "fpu sse");
    let tcg = layout(Accelerator::Tcg, false, "");
    assert_ne!(kvm, tcg);
    assert_ne!(kvm, layout(Accelerator::Kvm, false, "fpu sse avx"));
    assert_eq!(tcg, layout(Accelerator::Tcg, false, ""));
}

/// Whoever confines QEMU with it would have no machines otherwise.
#[test]
fn the_apparmor_profile_has_a_rule_for_every_file_of_a_machine() {
    let profile = include_str!("../../../host/apparmor/remote-dockerd");
    let folder = "/state/vms/vm-000000000001a/";
    let mut seen = Vec::new();
    for source in [Source::Cold, Source::Template(template())] {
        let text = xml(Accelerator::Tcg, &spec(source));
        for rest in text.split(folder).skip(1) {
            let name = rest.split(['\'', '<', ',']).next().unwrap_or_default();
            // A socket is made by libvirt, in a place of its own.
            if name != "agent.sock" {
                let rule = format!("@{{REMOTE_DOCKERD}}/vms/*/{name} ");
                assert!(profile.contains(&rule), "no rule: {rule}");
                seen.push(name.to_owned());
            }
        }
    }
    assert!(
        seen.iter().any(|name| name == "idle-states.aml"),
        "{seen:?}"
    );
}
