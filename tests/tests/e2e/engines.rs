//! Other engines than the usual one: the same clients, and one server that offers both.

use std::fs;
use std::os::unix::fs::symlink;

use e2e::machine::ClientKey;
use e2e::setting::Setting;
use e2e::{Builder, TestServer};

use crate::site::{self, mirrors};
use crate::{build, compose, docker, python};

fn unstable() -> TestServer {
    Builder::new(Setting::unstable()).start()
}

#[test]
fn the_docker_cli_with_the_newer_engine() {
    docker::version(&unstable());
}

#[test]
fn a_container_with_the_newer_engine() {
    docker::run(&unstable());
}

#[test]
fn buildkit_with_the_newer_engine() {
    build::by_buildkit(&unstable());
}

#[test]
fn compose_with_the_newer_engine() {
    compose::up_and_down(&unstable());
}

#[test]
fn docker_py_with_the_newer_engine() {
    python::docker_py(&unstable());
}

#[test]
fn the_sites_mirror_and_authority_with_the_newer_engine() {
    mirrors::by_the_mirror(site::at_the_site(Builder::new(Setting::unstable())));
}

#[test]
fn a_server_with_two_images_gives_each_lease_the_engine_that_it_asks_for() {
    let (usual, unstable) = (Setting::find(), Setting::unstable());
    let folder = tempfile::tempdir().unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
    fs::set_permissions(folder.path(), open).unwrap();
    symlink(usual.image(), folder.path().join("trixie")).unwrap();
    symlink(unstable.image(), folder.path().join("sid")).unwrap();
    let images = folder.path().to_str().unwrap();
    let server = Builder::new(unstable)
        .set("images_dir", images)
        .set("engine_aliases", serde_json::json!({ "previous": "26" }))
        .start();
    let engine_of = |asked: Option<&str>| {
        let key = ClientKey::generate();
        let mut request = key.request();
        request.engine = asked.map(str::to_owned);
        let lease = server.api().create(&request).unwrap();
        let machine = server.hold(lease, &key);
        let version = ["version", "--format", "{{.Server.Version}}"];
        let version = machine.docker().ok(version);
        version.split('.').next().unwrap().to_owned()
    };
    assert_eq!(engine_of(Some("28")), "28");
    assert_eq!(engine_of(Some("26")), "26");
    assert_eq!(engine_of(Some("previous")), "26");
    // The newest, because the configuration names none.
    assert_eq!(engine_of(None), "28");
    let mut unknown = ClientKey::generate().request();
    unknown.engine = Some("27".to_owned());
    let refusal = server.api().create(&unknown).unwrap_err();
    let said = format!("{refusal:?}");
    assert!(said.contains("26") && said.contains("28"), "{said}");
}
