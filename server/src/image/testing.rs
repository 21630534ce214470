//! Images for tests.

use std::fs;
use std::path::Path;

use sha2::{Digest, Sha256};

/// An image whose files hold their own names.
pub(super) fn write_image(folder: &Path, engine: &str) {
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
        "agent_protocol": guest_protocol::VERSION, "recipe_digest": "d", "files": files,
    });
    write_manifest(folder, &manifest.to_string());
}

pub(super) fn write_manifest(folder: &Path, text: &str) {
    fs::write(folder.join("manifest.json"), text).unwrap();
    let line = format!("{:x}  manifest.json\n", Sha256::digest(text));
    fs::write(folder.join("manifest.sha256"), line).unwrap();
}
