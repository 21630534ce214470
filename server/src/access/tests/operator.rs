//! The file of the operator's token.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::super::operator::{TokenError, load_or_create};

const TOKEN: &str = "rdt_0123456789abcdef0123456789abcdef";

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    (folder, path)
}

fn write(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_token_is_drawn_once_for_its_owner_only() {
    let (folder, path) = folder();
    let drawn = load_or_create(&path).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.len(), "rdt_".len() + 64 + 1);
    assert!(drawn.matches(text.trim().as_bytes()));
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
        0o600
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    assert_eq!(load_or_create(&path).unwrap(), drawn);

    fs::remove_file(&path).unwrap();
    // A crash left a draft behind.
    write(&path.with_extension("new"), "half", 0o600);
    assert_ne!(load_or_create(&path).unwrap(), drawn);
}

#[test]
fn a_token_that_others_can_get_at_is_refused_with_what_to_do() {
    let (_folder, path) = folder();
    for mode in [0o604, 0o644, 0o602, 0o660, 0o601, 0o777] {
        write(&path, TOKEN, mode);
        let error = load_or_create(&path).unwrap_err();
        assert!(
            matches!(error, TokenError::TooOpen { .. }),
            "{mode:o}: {error}"
        );
        let text = error.to_string();
        assert!(text.contains(&format!("mode {mode:04o}")), "{text}");
        assert!(
            text.contains(&format!("chmod 600 {}", path.display())),
            "{text}"
        );
    }
    // A group that may read it is the operator's choice.
    for mode in [0o600, 0o400, 0o640] {
        write(&path, TOKEN, mode);
        let hash = load_or_create(&path).unwrap();
        assert!(hash.matches(TOKEN.as_bytes()), "{mode:o}");
    }
}

#[test]
fn what_is_no_token_is_refused() {
    let (_folder, path) = folder();
    for text in [
        "",
        "short",
        &"x ".repeat(20),
        &"é".repeat(40),
        &"x".repeat(1025),
    ] {
        write(&path, text, 0o600);
        let error = load_or_create(&path).unwrap_err();
        assert!(matches!(error, TokenError::Malformed { .. }), "{error}");
        assert!(
            text.is_empty() || !error.to_string().contains(text),
            "{error}"
        );
    }
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let error = load_or_create(&path).unwrap_err();
    assert!(matches!(error, TokenError::Malformed { .. }), "{error}");

    fs::remove_dir(&path).unwrap();
    let elsewhere = path.with_extension("elsewhere");
    write(&elsewhere, TOKEN, 0o600);
    symlink(&elsewhere, &path).unwrap();
    let error = load_or_create(&path).unwrap_err();
    assert!(matches!(error, TokenError::Unreadable { .. }), "{error}");
}
