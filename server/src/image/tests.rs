use std::fs;

use super::*;

/// An image whose files hold their own names.
fn write_image(folder: &Path, engine: &str) {
    fs::create_dir_all(folder).unwrap();
    let mut files = serde_json::Map::new();
    for name in ["disk.qcow2", "vmlinuz", "initrd.img"] {
        fs::write(folder.join(name), name).unwrap();
        let sha256 = format!("{:x}", Sha256::digest(name));
        files.insert(
            name.into(),
            serde_json::json!({ "size": name.len(), "sha256": sha256 }),
        );
    }
    let manifest = serde_json::json!({
        "format": 1, "name": "x", "engine": engine, "engine_version": "26.1.5",
        "recipe_digest": "d", "files": files,
    });
    fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
}

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
    fs::write(image.join("manifest.json"), rebuilt).unwrap();
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
fn one_engine_twice_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    write_image(&folder.path().join("a"), "26");
    write_image(&folder.path().join("b"), "26");
    let error = load_all(folder.path()).unwrap_err();
    assert!(matches!(error, ImageError::Twice { .. }), "{error:?}");
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
    assert!(matches!(&error, ImageError::Replaced { .. }), "{error:?}");
    assert!(
        error.to_string().contains("start the server again"),
        "{error}"
    );
    fs::remove_dir_all(&image).unwrap();
    assert!(matches!(seen.check(), Err(ImageError::Unreadable { .. })));
}
