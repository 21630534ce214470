use std::fs;

use sha2::{Digest, Sha256};

use super::testing::{write_image, write_manifest};
use super::*;
use crate::seen::NotSeen;

#[test]
fn a_good_image_is_found() {
    let folder = tempfile::tempdir().unwrap();
    write_image(&folder.path().join("trixie"), "26");
    write_image(&folder.path().join("trixie.new"), "26");
    let images = load_all(folder.path()).unwrap();
    assert_eq!(images.len(), 1);
    assert_eq!(images[0].engine, "26");
    assert_eq!(images[0].files.kernel, folder.path().join("trixie/vmlinuz"));
}

/// A template is known again by it.
#[test]
fn the_digest_is_that_of_the_content_and_not_of_the_recipe() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("trixie");
    let digest = || load_all(folder.path()).unwrap().remove(0).digest;
    write_image(&image, "26");
    let first = digest();
    write_image(&image, "26");
    assert_eq!(digest(), first);

    let manifest = fs::read_to_string(image.join("manifest.json")).unwrap();
    let sha256 = |content: &str| format!("{:x}", Sha256::digest(content));
    let rebuilt = manifest.replace(&sha256("vmlinuz"), &sha256("VMLINUZ"));
    fs::write(image.join("vmlinuz"), "VMLINUZ").unwrap();
    write_manifest(&image, &rebuilt);
    assert_ne!(digest(), first);
}

#[test]
fn no_image_tells_how_to_get_one() {
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().to_owned(), folder.path().join("missing")] {
        let error = load_all(&path).unwrap_err();
        assert!(matches!(error, ImageError::None { .. }), "{error:?}");
        assert!(error.to_string().contains("images/build.sh"), "{error}");
    }
}

#[test]
fn a_changed_file_is_named_with_what_differs() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("trixie");
    write_image(&image, "26");
    fs::write(image.join("vmlinuz"), "vmlinuX").unwrap();
    let error = load_all(folder.path()).unwrap_err();
    assert!(
        matches!(&error, ImageError::Changed { what: "sha256", .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("vmlinuz"), "{error}");
    fs::write(image.join("vmlinuz"), "short").unwrap();
    let error = load_all(folder.path()).unwrap_err();
    assert!(
        matches!(&error, ImageError::Changed { what: "size", .. }),
        "{error:?}"
    );
    fs::remove_file(image.join("vmlinuz")).unwrap();
    let error = load_all(folder.path()).unwrap_err();
    assert!(matches!(&error, ImageError::Unreadable { .. }), "{error:?}");
}

#[test]
fn a_manifest_that_is_none_or_of_another_time_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("trixie");
    write_image(&image, "26");
    for (text, is_format) in [("{}", false), ("rubbish", false), ("{\"format\": 2}", true)] {
        fs::write(image.join("manifest.json"), text).unwrap();
        let error = load_all(folder.path()).unwrap_err();
        assert_eq!(
            matches!(error, ImageError::Format { found: 2, .. }),
            is_format,
            "{error:?}"
        );
    }
}

#[test]
fn every_byte_of_an_image_counts() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("trixie");
    for name in [
        "disk.qcow2",
        "vmlinuz",
        "initrd.img",
        "manifest.json",
        "manifest.sha256",
    ] {
        write_image(&image, "26");
        let path = image.join(name);
        let good = fs::read(&path).unwrap();
        // What follows the digest in its file is for `sha256sum`.
        let length = if name == "manifest.sha256" {
            64
        } else {
            good.len()
        };
        for place in 0..length {
            let mut bad = good.clone();
            bad[place] ^= 1;
            fs::write(&path, &bad).unwrap();
            load_all(folder.path()).expect_err(&format!("byte {place} of {name}"));
        }
        fs::write(&path, &good).unwrap();
        load_all(folder.path()).unwrap();
        fs::remove_file(&path).unwrap();
        load_all(folder.path()).expect_err(name);
    }
}

#[test]
fn an_agent_of_another_time_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("trixie");
    write_image(&image, "26");
    let text = fs::read_to_string(image.join("manifest.json")).unwrap();
    let spoken = format!("\"agent_protocol\":{}", guest_protocol::VERSION);
    write_manifest(&image, &text.replace(&spoken, "\"agent_protocol\":2"));
    let error = load_all(folder.path()).unwrap_err();
    assert!(
        matches!(error, ImageError::Protocol { found: 2, .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("version 2"), "{error}");
}

#[test]
fn a_version_is_nothing_that_a_terminal_would_act_on() {
    let folder = tempfile::tempdir().unwrap();
    for bad in ["", "\u{1b}[2J", "a b", &"1".repeat(65)] {
        write_image(&folder.path().join("trixie"), bad);
        let error = load_all(folder.path()).unwrap_err();
        assert!(
            matches!(error, ImageError::Word { key: "engine", .. }),
            "{error:?}"
        );
        assert!(!error.to_string().contains('\u{1b}'));
    }
}

#[test]
fn where_all_images_are_retired_that_is_what_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("trixie");
    write_image(&image, "26");
    let digest = load_all(folder.path()).unwrap().remove(0).digest;
    let now = time::OffsetDateTime::UNIX_EPOCH;
    Mark::Retired.set(&image, &digest, now).unwrap();
    let error = load_all(folder.path()).unwrap_err();
    assert!(matches!(error, ImageError::AllRetired { .. }), "{error:?}");
    assert!(error.to_string().contains("image test"), "{error}");
}

#[test]
fn an_image_that_was_tested_is_used_before_one_that_was_not() {
    let folder = tempfile::tempdir().unwrap();
    write_image(&folder.path().join("a"), "26");
    write_image(&folder.path().join("b"), "26");
    let used = || {
        let images = load_all(folder.path()).unwrap();
        let disk = images[0].files.disk.parent().unwrap();
        (images.len(), disk.file_name().unwrap().to_owned())
    };
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    let digest = entries(folder.path()).unwrap().remove(0).digest;
    let now = time::OffsetDateTime::UNIX_EPOCH;
    Mark::Tested.set(&a, &digest, now).unwrap();
    assert_eq!(used(), (1, "a".into()));
    Mark::Tested
        .set(&b, &digest, now + time::Duration::SECOND)
        .unwrap();
    assert_eq!(used(), (1, "b".into()));
    Mark::Retired.set(&b, &digest, now).unwrap();
    assert_eq!(used(), (1, "a".into()));
    // One that is not used is not read either, and holds up nobody.
    fs::write(b.join("vmlinuz"), "vmlinuX").unwrap();
    assert_eq!(used(), (1, "a".into()));
    Mark::Retired.remove(&b).unwrap();
    load_all(folder.path()).unwrap_err();
}

#[test]
fn a_file_that_takes_the_place_of_a_checked_one_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("trixie");
    write_image(&image, "26");
    let seen = load_all(folder.path()).unwrap().remove(0).seen;
    seen.check().unwrap();
    // The same content under the same name, as a rebuild puts it there.
    fs::rename(&image, folder.path().join("trixie.old")).unwrap();
    write_image(&image, "26");
    let error = seen.check().unwrap_err();
    let error = ImageError::from(error);
    assert!(matches!(&error, ImageError::Replaced { .. }), "{error:?}");
    assert!(
        error.to_string().contains("start the server again"),
        "{error}"
    );
    fs::remove_dir_all(&image).unwrap();
    assert!(matches!(seen.check(), Err(NotSeen::Unreadable { .. })));
}
