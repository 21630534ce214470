//! The formats of `start` and `stop`, read by those for whom they are made.

use std::fs;
use std::process::Command;

use insta::assert_snapshot;

use crate::fake::{Fake, LEASE};
use crate::sandbox::Sandbox;

const PROGRAM: &str = env!("CARGO_BIN_EXE_setup-remote-docker");

/// Variables that lead elsewhere, and a folder for keys whose name must be quoted.
fn astray(sandbox: &Sandbox, command: &mut Command) {
    let odd = sandbox.path("it's $HOME `here` \\ \"so\" * ~");
    fs::create_dir_all(&odd).unwrap();
    command
        .env("XDG_RUNTIME_DIR", odd)
        .env("HTTPS_PROXY", "http://proxy.example:3128")
        .env("NO_PROXY", ".example, 'x'")
        .env("TESTCONTAINERS_HOST_OVERRIDE", "host.docker.internal")
        .env("TESTCONTAINERS_CONNECTION_MODE", "bridge_ip")
        .env(
            "TESTCONTAINERS_DOCKER_SOCKET_OVERRIDE",
            "/var/run/docker.sock",
        );
}

/// The program with these arguments, in such surroundings.
fn program(sandbox: &Sandbox, args: &str) -> Command {
    let mut command = sandbox.program(args);
    astray(sandbox, &mut command);
    command
}

const SHOW: &str =
    "env | grep -E '^(DOCKER_|REMOTE_DOCKER_LEASE|NO_PROXY|no_proxy|TESTCON)' | sort";

/// What a script in this shell shows of its variables.
fn shown_by(shell: &str, script: &str) -> String {
    let server = Fake::start();
    let sandbox = Sandbox::new(&server);
    let mut command = Command::new(shell);
    command.args(["-c", script]);
    sandbox.hermetic(&mut command);
    astray(&sandbox, &mut command);
    let shown = sandbox.show(&mut command);
    assert_eq!(
        server.calls(),
        ["POST /v1/leases", &format!("DELETE /v1/leases/{LEASE}")]
    );
    shown
}

#[test]
fn every_shell_evaluates_start_and_stop() {
    let posix = format!(
        r#"set -eu
        eval "$({PROGRAM} -q)"
        {SHOW}
        ls "$DOCKER_CERT_PATH"
        eval "$({PROGRAM} stop -q)"
        echo stopped
        {SHOW}"#
    );
    let fish = format!(
        r#"{PROGRAM} start -q --format fish | source; or exit 1
        {SHOW}
        ls "$DOCKER_CERT_PATH"
        {PROGRAM} stop -q --format fish | source; or exit 1
        echo stopped
        {SHOW}"#
    );
    let expected = shown_by("sh", &posix);
    for (shell, script) in [
        ("dash", &posix),
        ("bash", &posix),
        ("zsh", &posix),
        ("fish", &fish),
    ] {
        assert_eq!(shown_by(shell, script), expected, "{shell}");
    }
    assert_snapshot!(expected);
}

#[test]
fn a_fish_script_does_not_go_on_without_its_machine() {
    let sandbox = Sandbox::at("http://127.0.0.1:9");
    let script =
        format!("{PROGRAM} start -q --format fish | source; and echo went on; or echo stopped");
    let mut shell = Command::new("fish");
    shell.args(["-c", &script]);
    sandbox.hermetic(&mut shell);
    assert_eq!(shell.output().unwrap().stdout, b"stopped\n");
}

#[test]
fn start_and_stop_in_the_words_of_each_reader() {
    let mut all = String::new();
    for format in ["sh", "fish", "powershell", "json", "dotenv"] {
        let server = Fake::start();
        let sandbox = Sandbox::new(&server);
        let start = sandbox.show(&mut program(
            &sandbox,
            &format!("start -q --format {format}"),
        ));
        let mut stop = program(&sandbox, &format!("stop -q --format {format}"));
        // As they are after the start.
        stop.env("REMOTE_DOCKER_LEASE", LEASE)
            .env("NO_PROXY", ".example, 'x',127.0.0.1")
            .env("no_proxy", ".example, 'x',127.0.0.1")
            .env("TESTCONTAINERS_HOST_OVERRIDE", "127.0.0.1")
            .env("TESTCONTAINERS_CONNECTION_MODE", "docker_host");
        let stop = sandbox.show(&mut stop);
        all += &format!("$ start --format {format}\n{start}$ stop --format {format}\n{stop}\n");
    }
    assert_snapshot!(all);
}

#[test]
fn a_job_of_github_gets_the_variables_for_its_next_steps() {
    let server = Fake::start();
    let sandbox = Sandbox::new(&server);
    let file = sandbox.path("github-env");
    fs::write(&file, "BEFORE=1\n").unwrap();
    let mut start = program(&sandbox, "start --format github");
    let mut all = sandbox.show(start.env("GITHUB_ENV", &file));
    let mut stop = program(&sandbox, "stop --format github");
    stop.env("GITHUB_ENV", &file)
        .env("REMOTE_DOCKER_LEASE", LEASE)
        .env("TESTCONTAINERS_HOST_OVERRIDE", "127.0.0.1")
        .env("TESTCONTAINERS_CONNECTION_MODE", "docker_host");
    all += &sandbox.show(&mut stop);
    all += "--- file\n";
    all += &sandbox.tidy(&fs::read_to_string(&file).unwrap());
    assert_snapshot!(all);
}

#[test]
fn a_job_of_gitlab_gets_a_dotenv_report() {
    let server = Fake::start();
    let sandbox = Sandbox::new(&server);
    fs::write(sandbox.path("setup-remote-docker.env"), "OLD=1\n").unwrap();
    let mut all = sandbox.show(&mut program(&sandbox, "start --format gitlab"));
    let report = |name: &str| sandbox.tidy(&fs::read_to_string(sandbox.path(name)).unwrap());
    all += &format!("--- file\n{}", report("setup-remote-docker.env"));
    let mut stop = program(&sandbox, "stop --format gitlab --env-file after.env");
    all += &sandbox.show(stop.env("REMOTE_DOCKER_LEASE", LEASE));
    all += &format!("--- file\n{}", report("after.env"));
    assert_snapshot!(all);
}

#[test]
fn variables_that_cannot_be_written_cost_no_machine() {
    let server = Fake::start();
    let sandbox = Sandbox::new(&server);
    let mut all = sandbox.show(&mut sandbox.program("start --format github"));
    all += &sandbox.show(&mut sandbox.program("start --format sh --env-file x"));
    assert!(server.calls().is_empty());

    let mut command = sandbox.program("start -q --format gitlab --env-file none/report");
    all += &sandbox.show(&mut command);
    server.assert_given_back(&sandbox);

    let server = Fake::start();
    let sandbox = Sandbox::new(&server);
    let broken = sandbox.path("run\nning");
    fs::create_dir(&broken).unwrap();
    let mut command = sandbox.program("start -q --format gitlab");
    all += &sandbox.show(command.env("XDG_RUNTIME_DIR", &broken));
    assert_eq!(server.calls()[1..], [format!("DELETE /v1/leases/{LEASE}")]);
    assert!(!broken.join("setup-remote-docker").join(LEASE).exists());
    assert_snapshot!(all);
}
