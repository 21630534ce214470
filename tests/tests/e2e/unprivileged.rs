//! What people can do who may do nothing on their own host.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use e2e::process::{bounded, fail, said, succeed, text};
use e2e::{Cli, TestServer, tree, until};

/// Of no user of the host.
const ACCOUNT: u32 = 64_321;

const DOCKERFILE: &str = "FROM scratch
COPY tree /
COPY repository /repository
RUN httpd -p 127.0.0.1:80 -h /repository && apt-get update && apt-get install -y greeting
CMD [\"greeting\"]
";

/// A shell line of an account without groups, capabilities, or a way to get any.
fn account(cli: &Cli, docker: &Path, line: &str) -> Command {
    let mut command = bounded(Duration::from_secs(150), "setpriv");
    cli.environment(&mut command);
    command
        .arg(format!("--reuid={ACCOUNT}"))
        .arg(format!("--regid={ACCOUNT}"))
        .args(["--clear-groups", "--no-new-privs"])
        .args(["--inh-caps=-all", "--bounding-set=-all"])
        .args(["sh", "-c", &format!("cd; {line}")])
        .env("DOCKER", docker);
    command
}

/// A home folder with nothing but the client, docker's configuration and something to build.
fn write_home(server: &TestServer, home: &Path) {
    fs::create_dir(home.join("bin")).unwrap();
    fs::copy(server.setting().cli(), home.join("bin/client")).unwrap();
    let config = serde_json::json!({ "cliPluginsExtraDirs": [server.setting().docker_plugins()] });
    fs::create_dir(home.join(".docker")).unwrap();
    fs::write(home.join(".docker/config.json"), config.to_string()).unwrap();
    let context = home.join("context");
    tree::write_busybox(&context.join("tree"));
    tree::add_apt(&context.join("tree"));
    tree::write_repository(
        &context.join("repository"),
        "greeting",
        "hello from a package",
    );
    fs::write(context.join("Dockerfile"), DOCKERFILE).unwrap();
    for path in [home, &home.join(".docker"), &context] {
        chown(path, Some(ACCOUNT), Some(ACCOUNT)).unwrap();
    }
}

#[test]
fn an_account_that_may_do_nothing_builds_an_image_that_installs_a_package() {
    let server = TestServer::start();
    let cli = server.cli();
    write_home(&server, cli.home());
    let docker = server.setting().docker();

    let who = succeed(&mut account(
        &cli,
        &docker,
        "id -u; id -G; grep CapBnd /proc/self/status",
    ));
    assert_eq!(
        who,
        format!("{ACCOUNT}\n{ACCOUNT}\nCapBnd:\t0000000000000000")
    );
    let own = fail(&mut account(&cli, &docker, "$DOCKER version"));
    assert!(own.contains("Cannot connect to the Docker daemon"), "{own}");

    let line = "bin/client run -- sh -c \
        '$DOCKER build -t app context >&2 && $DOCKER run --rm --network=none app'";
    let built = account(&cli, &docker, line).output().unwrap();
    assert!(built.status.success(), "{}", said(&built));
    assert_eq!(
        text(&built.stdout),
        "hello from a package",
        "{}",
        said(&built)
    );

    assert!(cli.files().is_empty(), "{:?}", cli.files());
    until(
        "no lease is left",
        Duration::from_secs(60),
        || server.api().list(),
        Vec::is_empty,
    );
    server.wait_clean();
}
