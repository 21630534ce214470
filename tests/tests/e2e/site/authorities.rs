//! A registry whose certificate an authority of the site has signed.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use e2e::process::{run, said};
use e2e::site::{Authority, HOST, LAN, Registry, RegistryPlan, Resolver, World};
use e2e::tree::{add_program, write_busybox};

use super::{NAMES, PRIVATE, at, build, builder, context, trusted};

/// Asks the registry whether it is one, over TLS that is checked with the authorities in a file.
const ASK: &str = r#"#!/bin/sh
printf 'GET /v2/ HTTP/1.0\r\nHost: registry.lan\r\n\r\n' |
    openssl s_client -quiet -verify_return_error -verify_hostname registry.lan \
        -CAfile "$1" -connect registry.lan:5000 2>&1
"#;

#[test]
fn a_registry_of_the_site_is_trusted_by_docker_buildkit_and_builds() {
    let authority = Authority::new("the site");
    let ended = Authority::ended("the site as it was");
    let registry = format!("{PRIVATE}:5000");
    let server = builder()
        .set(
            "site.ca",
            [&ended, &authority].map(|it| trusted(it, &[])).to_vec(),
        )
        .start();
    // It does no harm, and is told of; the other is not.
    let told = format!("has ended: {}, until 1970-01-02", ended.file().display());
    let log = server.log();
    assert!(log.contains(&told), "{log}");
    assert!(!log.contains(authority.file().to_str().unwrap()), "{log}");
    let world = World::make();
    let _resolver = Resolver::start(HOST, &NAMES);
    let folder = server.root().join("registry");
    std::fs::create_dir(&folder).unwrap();
    let tls = authority.certify(&[PRIVATE], &folder);
    let plan = RegistryPlan {
        at: at(LAN, 5000),
        world: Some(&world),
        tls: Some(tls),
        users: None,
        mirrors: None,
    };
    let _registry = Registry::start(&plan, &folder);

    let machine = server.lease();
    let docker = machine.docker();
    // An image with a client of TLS in it, and with no authority at all.
    let tree = server.root().join("tree");
    write_busybox(&tree);
    add_program(&tree, "openssl".as_ref(), "/bin/openssl");
    let ask = tree.join("bin/ask");
    std::fs::write(&ask, ASK).unwrap();
    std::fs::set_permissions(&ask, Permissions::from_mode(0o755)).unwrap();
    let base = context(&server, "base", "FROM scratch\nCOPY tree /\n");
    std::fs::rename(&tree, base.join("tree")).unwrap();
    let (pushed, built) = (format!("{registry}/base"), format!("{registry}/built"));
    build(&machine, &base, &["--tag", &pushed]);

    // The daemon, both ways.
    docker.ok(["push", "--quiet", &pushed]);
    docker.ok(["rmi", &pushed]);
    docker.ok(["pull", "--quiet", &pushed]);
    docker.ok(["rmi", &pushed]);

    // BuildKit, both ways; and a step of the build, which is told whom to trust as builds are told.
    let step = format!(
        "FROM {pushed}\nRUN --mount=type=secret,id=ca ask /run/secrets/ca | grep -q '200 OK'\n"
    );
    let step = context(&server, "step", &step);
    let secret = format!("--secret=id=ca,src={}", authority.file().display());
    build(&machine, &step, &["--push", "--tag", &built, &secret]);
    docker.ok(["pull", "--quiet", &built]);

    // A container, with the machine's own store.
    let bundle = "--volume=/etc/ssl/certs/ca-certificates.crt:/ca.crt:ro";
    let answer = docker.ok(["run", "--rm", bundle, &built, "ask", "/ca.crt"]);
    assert!(answer.contains("200 OK"), "{answer}");
    // The same without it is refused, so it was checked.
    let mut command = docker.command(["run", "--rm", &built, "ask", "/none.crt"]);
    let refused = run(&mut command);
    assert!(!said(&refused).contains("200 OK"), "{}", said(&refused));
}
