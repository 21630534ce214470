//! `start --context` and `--builder`: what becomes of docker's own configuration.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use insta::assert_snapshot;

use crate::fake::{Fake, LEASE};
use crate::sandbox::{Sandbox, script};

/// A docker CLI that keeps contexts and builders as files, as far as the program uses it. What it is
/// told stands in `log`; a file `refuse` holds the words that it refuses.
const DOCKER: &str = r#"#!/bin/sh
cd "$DOCKER_CONFIG" || exit 9
test -z "$DOCKER_HOST$DOCKER_CONTEXT" || exit 9
echo "docker $*" >>log
if [ -f refuse ] && [ "$1 $2" = "$(cat refuse)" ]; then echo "no, not that" >&2; exit 1; fi
missing() { echo "$1 is not there" >&2; exit 1; }
case "$1 $2" in
    "context inspect")
        if [ "$3" = --format ]; then cat current; exit; fi
        test -f "context-$3" || missing "$3"
        printf '[{"Name": "%s", "Metadata": {"Description": "%s"}}]\n' "$3" "$(cat "context-$3")" ;;
    "context create") echo "$5" >"context-$3" ;;
    "context use") test -f "context-$3" || missing "$3"; echo "$3" >current ;;
    "context rm") rm "context-$4" ;;
    "buildx version") echo v0.24 ;;
    "buildx inspect") test -f "builder-$3" || missing "$3" ;;
    "buildx create") echo "$7" >"builder-$4" ;;
    "buildx rm") rm "builder-$4" ;;
    *) exit 9 ;;
esac
"#;

struct Setup {
    sandbox: Sandbox,
    config: PathBuf,
}

impl Setup {
    fn new(server: &Fake) -> Self {
        let sandbox = Sandbox::new(server);
        let config = sandbox.path("docker-config");
        fs::create_dir_all(&config).unwrap();
        fs::create_dir_all(sandbox.path("bin")).unwrap();
        script(&sandbox.path("bin/docker"), DOCKER);
        for (name, text) in [("current", "desktop\n"), ("context-desktop", "mine\n")] {
            fs::write(config.join(name), text).unwrap();
        }
        fs::write(config.join("context-default"), "\n").unwrap();
        Self { sandbox, config }
    }

    fn program(&self, args: &str) -> Command {
        let mut command = self.sandbox.program(args);
        let path = format!("{}:/usr/bin:/bin", self.sandbox.path("bin").display());
        command
            .env("PATH", path)
            .env("DOCKER_CONFIG", &self.config)
            .env("REMOTE_DOCKER_LEASE", LEASE);
        command
    }

    fn file(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.config.join(name)).ok()
    }

    /// What is there now, without the log.
    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.config).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name != "log").collect();
        names.sort();
        names
    }

    /// All is as it was before the start.
    fn assert_put_back(&self) {
        assert_eq!(
            self.files(),
            ["context-default", "context-desktop", "current"]
        );
        assert_eq!(self.file("current").unwrap(), "desktop\n");
    }
}

#[test]
fn a_context_and_a_builder_are_made_and_put_back() {
    let server = Fake::start();
    let setup = Setup::new(&server);
    let mut all = setup
        .sandbox
        .show(&mut setup.program("start --context lease --builder built"));
    assert_eq!(setup.file("current").unwrap(), "lease\n");
    assert_eq!(setup.file("builder-built").unwrap(), "lease\n");
    all += &setup.sandbox.show(&mut setup.program("stop"));
    setup.assert_put_back();
    all += &setup.sandbox.tidy(&setup.file("log").unwrap());
    assert_snapshot!(all);
}

/// The docker CLI that comes with the guest image, or the one of this machine.
#[expect(
    clippy::disallowed_methods,
    reason = "where the docker CLI is, is no business of the program under test"
)]
fn real_docker() -> Option<PathBuf> {
    let images = std::env::var_os("E2E_IMAGES_DIR").map(PathBuf::from);
    let own = images.map(|images| images.join("trixie/client/docker"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path: Vec<_> = std::env::split_paths(&path)
        .map(|folder| folder.join("docker"))
        .collect();
    own.into_iter().chain(path).find(|path| path.is_file())
}

/// The stand-in may be wrong about what the real one does. `make test` brings one with the image; a
/// machine that has none cannot run this test, and says so.
#[test]
fn the_real_docker_cli_makes_and_removes_the_context() {
    let Some(docker) = real_docker() else {
        eprintln!("not tested: there is no docker CLI");
        return;
    };
    let server = Fake::start();
    let sandbox = Sandbox::new(&server);
    let odd = sandbox.path("a,b\"c d");
    fs::create_dir(&odd).unwrap();
    fs::create_dir(sandbox.path("bin")).unwrap();
    std::os::unix::fs::symlink(&docker, sandbox.path("bin/docker")).unwrap();
    let at = |command: &mut Command| {
        let path = format!("{}:/usr/bin:/bin", sandbox.path("bin").display());
        command
            .env("PATH", path)
            .env("XDG_RUNTIME_DIR", &odd)
            .env("DOCKER_CONFIG", sandbox.path("docker-config"))
            .env("REMOTE_DOCKER_LEASE", LEASE);
    };
    let inspected = |name: &str| {
        let mut command = Command::new(&docker);
        command
            .args(["context", "inspect"])
            .args(name.split_whitespace());
        sandbox.hermetic(&mut command);
        at(&mut command);
        let output = command.output().unwrap();
        output
            .status
            .success()
            .then(|| String::from_utf8(output.stdout).unwrap())
    };
    let run = |args: &str| {
        let mut command = sandbox.program(args);
        at(&mut command);
        let output = command.output().unwrap();
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{output:?}"
        );
    };
    run("start -q --context lease");
    // Without a name it is about the current one.
    let current = inspected("").unwrap();
    assert!(
        current.contains("tcp://127.0.0.1:23760") && current.contains("key.pem"),
        "{current}"
    );
    assert_eq!(inspected("lease"), Some(current));
    run("stop -q");
    assert_eq!(inspected("lease"), None);
    assert!(inspected("").unwrap().contains("\"default\""));
}

#[test]
fn a_builder_alone_changes_no_current_context() {
    let server = Fake::start();
    let setup = Setup::new(&server);
    assert!(
        setup
            .program("start -q --builder built")
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(setup.file("current").unwrap(), "desktop\n");
    assert_eq!(setup.file("builder-built").unwrap(), "built-context\n");
    assert!(setup.program("stop -q").status().unwrap().success());
    setup.assert_put_back();
}

#[test]
fn what_somebody_changed_since_is_left() {
    let server = Fake::start();
    let setup = Setup::new(&server);
    let started = setup
        .program("start -q --context lease --builder built")
        .status();
    assert!(started.unwrap().success());
    fs::write(setup.config.join("current"), "default\n").unwrap();
    fs::write(setup.config.join("context-lease"), "somebody's own\n").unwrap();
    fs::remove_file(setup.config.join("builder-built")).unwrap();
    let output = setup.program("stop -q").output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty());
    assert_eq!(setup.file("current").unwrap(), "default\n");
    assert_eq!(setup.file("context-lease").unwrap(), "somebody's own\n");
}

#[test]
fn a_name_that_is_taken_costs_no_machine() {
    let server = Fake::start();
    let setup = Setup::new(&server);
    fs::write(setup.config.join("builder-built"), "x").unwrap();
    let mut all = String::new();
    for args in [
        "--context desktop",
        "--builder built",
        "--context a",
        "--context default",
        "--context same --builder same",
    ] {
        all += &format!("$ start {args}\n");
        all += &setup
            .sandbox
            .show(&mut setup.program(&format!("start {args}")));
    }
    let mut none = setup.program("start --context lease");
    all += "$ start --context lease\n";
    all += &setup
        .sandbox
        .show(none.env("PATH", setup.sandbox.path("nowhere")));
    assert!(server.calls().is_empty());
    assert_snapshot!(all);
}

#[test]
fn what_docker_refuses_halfway_gives_all_back() {
    for refused in ["context create", "context use", "buildx create"] {
        let server = Fake::start();
        let setup = Setup::new(&server);
        fs::write(setup.config.join("refuse"), refused).unwrap();
        let mut command = setup.program("start --context lease --builder built");
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(73));
        assert_eq!(output.stdout, b"false;\n");
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(
            told.contains(refused) && told.contains("no, not that"),
            "{told}"
        );
        fs::remove_file(setup.config.join("refuse")).unwrap();
        setup.assert_put_back();
        server.assert_given_back(&setup.sandbox);
    }
}
