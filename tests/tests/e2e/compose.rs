//! `docker compose`, with the plugin that comes with the image.

use std::fs;

use e2e::TestServer;
use e2e::docker::BUSYBOX;
use e2e::process::succeed;

const PROJECT: &str = "services:
  web:
    image: busybox
    command: sh -c 'echo served > /tmp/index.html; exec httpd -f -p 80 -h /tmp'
    volumes: [kept:/kept]
  client:
    image: busybox
    depends_on: [web]
    command: sh -c 'until wget -q -O - http://web/; do sleep 0.2; done'
volumes:
  kept:
";

#[test]
fn compose_brings_a_project_up_and_takes_it_away() {
    up_and_down(&TestServer::start());
}

/// What `docker compose` is for, on a machine of this server.
pub(crate) fn up_and_down(server: &TestServer) {
    let machine = server.lease();
    let docker = machine.docker();
    docker.import_busybox();
    let file = server.root().join("compose.yaml");
    fs::write(&file, PROJECT).unwrap();
    let compose = |args: &[&str]| {
        let mut command = docker.command(["compose", "--project-name", "shop", "--file"]);
        succeed(command.arg(&file).args(args))
    };

    compose(&["up", "--detach", "--pull", "never"]);
    assert_eq!(
        compose(&["ps", "--services", "--status", "running", "web"]),
        "web"
    );
    // One service finds the other by its name.
    assert_eq!(docker.ok(["wait", "shop-client-1"]), "0");
    let said = compose(&["logs", "--no-color", "--no-log-prefix", "client"]);
    assert!(said.contains("served"), "{said}");

    compose(&["down", "--volumes", "--timeout", "1"]);
    assert_eq!(docker.ok(["ps", "--all", "--quiet"]), "");
    let label = "label=com.docker.compose.project=shop";
    assert_eq!(
        docker.ok(["network", "ls", "--quiet", "--filter", label]),
        ""
    );
    assert_eq!(
        docker.ok(["volume", "ls", "--quiet", "--filter", label]),
        ""
    );
    assert!(!docker.ok(["image", "ls", "--quiet", BUSYBOX]).is_empty());
}
