//! A mirror of Docker Hub on the host.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use e2e::process::{bounded, succeed};
use e2e::setting::python;
use e2e::site::{Authority, HOST, PUBLIC, Registry, RegistryPlan, Resolver, World};
use e2e::{Builder, Machine};

use super::{HUB, NAMES, at, build, builder, context, trusted};

const MIRROR: u16 = 5000;

/// For Testcontainers, which starts Python and a container: less than the whole test may take.
const PATIENCE: Duration = Duration::from_secs(240);

/// Whether a connection from the machine itself, not from a container's network, is answered.
fn reaches(machine: &Machine, port: u16) -> bool {
    let connect =
        format!("nc -w 5 {HOST} {port} </dev/null >/dev/null 2>&1 && echo yes || echo no");
    let answer = machine
        .docker()
        .busybox_on_the_host_network(["sh", "-c", &connect]);
    answer == "yes"
}

/// The mirror's configuration as the documents have it, with the test's own places.
fn documented(folder: &Path) -> String {
    let document = include_str!("../../../../docs/site.md");
    let begin = document.find("# /etc/docker/registry/mirror.yml").unwrap();
    let length = document[begin..].find("```").unwrap();
    let mut config = document[begin..begin + length].to_owned();
    for (said, here) in [
        ("192.168.1.10:5000", format!("{HOST}:{MIRROR}")),
        (
            "/var/lib/docker-registry",
            folder.join("data").display().to_string(),
        ),
        ("https://registry-1.docker.io", format!("https://{PUBLIC}")),
        ("level: warn", "level: info".to_owned()),
    ] {
        assert_eq!(config.matches(said).count(), 1, "{said}");
        config = config.replace(said, &here);
    }
    config
}

#[test]
fn images_come_by_the_mirror_and_without_it_from_where_they_are() {
    by_the_mirror(builder());
}

/// The daemon, BuildKit and Testcontainers of a machine of this server.
pub(crate) fn by_the_mirror(builder: Builder) {
    let authority = Authority::new("the site");
    let server = builder
        .set(
            "site.registry_mirrors",
            vec![format!("http://{HOST}:{MIRROR}")],
        )
        .set("site.reach_on_host", vec![format!("{HOST}:{MIRROR}")])
        .set("site.ca", vec![trusted(&authority, &[])])
        .start();
    let world = World::make();
    let _resolver = Resolver::start(HOST, &NAMES);
    let folder = server.root().join("hub");
    std::fs::create_dir(&folder).unwrap();
    let tls = authority.certify(&[HUB, &PUBLIC.to_string()], &folder);
    let plan = RegistryPlan {
        at: at(PUBLIC, 443),
        world: Some(&world),
        tls: Some(tls),
        users: None,
        mirrors: None,
    };
    let hub = Registry::start(&plan, &folder);
    let plan = RegistryPlan {
        at: at(HOST, MIRROR),
        world: None,
        tls: None,
        users: None,
        mirrors: Some((format!("https://{PUBLIC}"), authority.file())),
    };
    let folder = server.root().join("mirror");
    let mirror = Registry::start_with(&plan, &documented(&folder), &folder);

    let machine = server.lease();
    let docker = machine.docker();
    docker.import_busybox();
    // That port of the host and no other, though somebody listens there.
    let _other = TcpListener::bind((HOST, MIRROR + 1)).unwrap();
    assert!(reaches(&machine, MIRROR));
    assert!(!reaches(&machine, MIRROR + 1));

    let names = ["one", "two", "three", "four"].map(|name| format!("{HUB}/library/{name}"));
    for name in &names {
        docker.ok(["tag", "busybox", name]);
        docker.ok(["push", "--quiet", name]);
        docker.ok(["rmi", name]);
    }
    assert!(hub.log().contains("library/four"), "{}", hub.log());

    docker.ok(["pull", "--quiet", "one"]);
    assert!(
        mirror.log().contains("library/one/manifests"),
        "{}",
        mirror.log()
    );

    let folder = context(&server, "by-mirror", "FROM two\nRUN true\n");
    build(&machine, &folder, &[]);
    assert!(
        mirror.log().contains("library/two/manifests"),
        "{}",
        mirror.log()
    );

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/testcontainers_pull.py");
    let mut command = bounded(PATIENCE, python());
    docker.environment(&mut command);
    // Its reaper is an image that cannot be had here.
    command.env("TESTCONTAINERS_RYUK_DISABLED", "true");
    let inside = succeed(command.arg("-B").arg(script).arg("four"));
    assert_eq!(inside, "inside");
    assert!(
        mirror.log().contains("library/four/manifests"),
        "{}",
        mirror.log()
    );

    drop(mirror);
    docker.ok(["pull", "--quiet", "three"]);
    docker.ok(["run", "--rm", "three", "true"]);
    docker.ok(["rmi", "one", "three"]);
    let folder = context(&server, "without-mirror", "FROM three\nRUN echo\n");
    build(&machine, &folder, &[]);
}
