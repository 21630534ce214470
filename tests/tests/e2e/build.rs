//! `docker build`, by both builders, from nothing: no registry can be reached.

use std::path::PathBuf;

use e2e::process::succeed;
use e2e::tree::write_busybox;
use e2e::{Machine, TestServer};

const DOCKERFILE: &str = r#"FROM scratch
COPY tree /
RUN ["/bin/sh", "-c", "echo \"built on $(uname -r)\" > /built"]
RUN test -s /built && mkdir /made
CMD ["/bin/cat", "/built"]
"#;

fn context(server: &TestServer) -> PathBuf {
    let context = server.root().join("context");
    if !context.exists() {
        write_busybox(&context.join("tree"));
    }
    std::fs::write(context.join("Dockerfile"), DOCKERFILE).unwrap();
    context
}

fn build(server: &TestServer, machine: &Machine, buildkit: &str) -> String {
    let context = context(server);
    let mut command = machine.docker().command(["build", "--tag", "built"]);
    command.env("DOCKER_BUILDKIT", buildkit).arg(context);
    // The builders talk on different channels; what counts is that it succeeds.
    let output = e2e::process::run(&mut command);
    assert!(output.status.success(), "{}", e2e::process::said(&output));
    format!(
        "{}{}",
        e2e::process::text(&output.stdout),
        e2e::process::text(&output.stderr)
    )
}

fn check(machine: &Machine) {
    let docker = machine.docker();
    let kernel = docker.ok(["version", "--format", "{{.Server.KernelVersion}}"]);
    assert_eq!(
        docker.ok(["run", "--rm", "built"]),
        format!("built on {kernel}")
    );
    docker.ok(["run", "--rm", "built", "test", "-d", "/made"]);
}

#[test]
fn classic() {
    let server = TestServer::start();
    let machine = server.lease();
    let said = build(&server, &machine, "0");
    assert!(said.contains("Successfully tagged"), "{said}");
    check(&machine);
}

#[test]
fn buildkit() {
    by_buildkit(&TestServer::start());
}

/// A build by BuildKit, and the same again, on a machine of this server.
pub(crate) fn by_buildkit(server: &TestServer) {
    let machine = server.lease();
    let said = build(server, &machine, "1");
    assert!(said.contains("exporting to image"), "{said}");
    check(&machine);
    // A second build takes its layers from the cache.
    let said = build(server, &machine, "1");
    assert!(said.contains("CACHED"), "{said}");
}

#[test]
fn buildkit_with_a_cache_mount_and_a_secret() {
    let server = TestServer::start();
    let machine = server.lease();
    let context = context(&server);
    let dockerfile = "FROM scratch\nCOPY tree /\n\
        RUN --mount=type=cache,target=/cache --mount=type=secret,id=word \
        cat /run/secrets/word > /cache/word && wc -c < /cache/word > /length\n\
        CMD [\"/bin/cat\", \"/length\"]\n";
    std::fs::write(context.join("Dockerfile"), dockerfile).unwrap();
    let secret = server.root().join("secret");
    std::fs::write(&secret, "12345").unwrap();
    let mut command = machine.docker().command(["build", "--tag", "built"]);
    command
        .env("DOCKER_BUILDKIT", "1")
        .arg(format!("--secret=id=word,src={}", secret.display()))
        .arg(context);
    succeed(&mut command);
    assert_eq!(machine.docker().ok(["run", "--rm", "built"]), "5");
}
