use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

fn lease() -> Lease {
    serde_json::from_value(serde_json::json!({
        "id": "l-0000000000001", "state": "active", "engine": "28", "size": "small",
        "ttl_s": 60, "created_at": "2026-01-31T12:00:00Z",
        "expires_at": "2026-01-31T13:00:00Z",
    }))
    .unwrap()
}

fn certificates() -> Certificates {
    Certificates {
        ca_pem: "ca".to_owned(),
        cert_pem: "cert".to_owned(),
    }
}

fn server() -> ServerUrl {
    "http://127.0.0.1:7420".parse().unwrap()
}

fn write(base: &Base) -> Result<LeaseDir, LeaseDirError> {
    base.write(&lease(), &server(), &certificates(), "key", &[], None)
}

/// A runtime folder and a temporary one, both empty.
fn sandbox() -> (tempfile::TempDir, Environment) {
    let root = tempfile::tempdir().unwrap();
    let environment = Environment {
        runtime_dir: Some(root.path().join("run")),
        temp_dir: Some(root.path().join("tmp")),
        ..Environment::default()
    };
    for name in ["run", "tmp"] {
        fs::create_dir(root.path().join(name)).unwrap();
    }
    (root, environment)
}

#[test]
fn files_are_closed_to_others_and_go_away_again() {
    let (root, environment) = sandbox();
    let dir = write(&Base::prepare(&environment).unwrap()).unwrap();
    let path = root.path().join("run/setup-remote-docker/l-0000000000001");
    assert_eq!(Path::new(dir.path()), path);
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    assert_eq!(mode(&path), 0o700);
    for (name, content) in [("ca.pem", "ca"), ("cert.pem", "cert"), ("key.pem", "key")] {
        assert_eq!(mode(&path.join(name)), 0o600);
        assert_eq!(fs::read_to_string(path.join(name)).unwrap(), content);
    }
    assert_eq!(mode(&path.join(NOTE)), 0o600);

    let found = LeaseDir::find(&environment, lease().id).unwrap();
    let note = found.note().unwrap();
    assert_eq!((note.id, note.url), (lease().id, server().to_string()));
    found.remove().unwrap();
    assert!(!path.exists());
    found.remove().unwrap();
    assert!(LeaseDir::find(&environment, lease().id).is_none());
}

#[test]
fn without_a_runtime_folder_the_temporary_one_serves() {
    let (root, mut environment) = sandbox();
    for runtime_dir in [
        None,
        Some(PathBuf::from("/nonexistent")),
        Some(PathBuf::from("relative")),
        // Belongs to this user, and nothing can be made in it.
        Some(PathBuf::from("/proc/self")),
    ] {
        environment.runtime_dir = runtime_dir;
        let dir = write(&Base::prepare(&environment).unwrap()).unwrap();
        assert!(Path::new(dir.path()).starts_with(root.path().join("tmp")));
        assert!(LeaseDir::find(&environment, lease().id).is_some());
        dir.remove().unwrap();
    }
}

#[test]
fn the_folder_is_found_by_the_exported_path_when_the_variables_changed() {
    let (root, environment) = sandbox();
    let dir = write(&Base::prepare(&environment).unwrap()).unwrap();
    let mut later = Environment {
        temp_dir: Some(root.path().join("elsewhere")),
        docker_cert_path: Some(PathBuf::from(dir.path())),
        ..Environment::default()
    };
    assert!(LeaseDir::find(&later, lease().id).is_some());
    // The same variable set for another lease says nothing about this one.
    assert!(LeaseDir::find(&later, LeaseId::from_bits(7)).is_none());
    later.docker_cert_path = None;
    assert!(LeaseDir::find(&later, lease().id).is_none());
}

#[test]
fn what_somebody_planted_is_not_used() {
    let (root, environment) = sandbox();
    let base = root.path().join("run/setup-remote-docker");
    let target = root.path().join("target");
    fs::create_dir(&target).unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o700)).unwrap();
    let refused = |expected: &str| {
        let error = Base::prepare(&environment).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    };

    symlink(&target, &base).unwrap();
    refused("symbolic link");
    fs::remove_file(&base).unwrap();

    fs::write(&base, "").unwrap();
    refused("not a folder");
    fs::remove_file(&base).unwrap();

    fs::create_dir(&base).unwrap();
    for mode in [0o755, 0o710, 0o701] {
        fs::set_permissions(&base, fs::Permissions::from_mode(mode)).unwrap();
        refused("other users");
    }
    fs::set_permissions(&base, fs::Permissions::from_mode(0o700)).unwrap();
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(&base, Some(12345), None).unwrap();
        refused("another user");
        std::os::unix::fs::chown(&base, Some(0), None).unwrap();
    }

    let base = Base::prepare(&environment).unwrap();
    symlink(&target, base.0.join(lease().id.to_string())).unwrap();
    assert!(matches!(write(&base), Err(LeaseDirError::Make { .. })));
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
}

#[test]
fn a_files_place_taken_by_a_link_is_not_written_through() {
    let (root, environment) = sandbox();
    let base = Base::prepare(&environment).unwrap();
    let victim = root.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    let dir = write(&base).unwrap();
    let path = Path::new(dir.path()).join("extra");
    symlink(&victim, &path).unwrap();
    assert!(dir.write_file("extra", "overwritten").is_err());
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
}

#[test]
fn what_the_user_put_beside_the_keys_stays() {
    let (_root, environment) = sandbox();
    let dir = write(&Base::prepare(&environment).unwrap()).unwrap();
    let own = Path::new(dir.path()).join("notes.txt");
    fs::write(&own, "mine").unwrap();
    assert!(matches!(dir.remove(), Err(LeaseDirError::Remove { .. })));
    assert!(own.exists());
    assert!(!Path::new(dir.path()).join("key.pem").exists());
}
