//! `start`.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use insta::assert_snapshot;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::fake::{Fake, LEASE, Reply, lease, problem};
use crate::sandbox::Sandbox;
use crate::terminal::Terminal;

#[test]
fn start_prints_lines_for_a_shell() {
    let server = Fake::start();
    let sandbox = Sandbox::new(&server);
    assert_snapshot!(sandbox.show(&mut sandbox.program("")));
    assert_eq!(server.calls(), ["POST /v1/leases"]);
}

#[test]
fn start_prints_json() {
    let server = Fake::start();
    let sandbox = Sandbox::new(&server);
    assert_snapshot!(sandbox.show(&mut sandbox.program("start --format json -q")));
}

#[test]
fn a_shell_can_evaluate_start_and_stop() {
    let server = Fake::start();
    let sandbox = Sandbox::new(&server);
    // A folder that must be quoted.
    let odd = sandbox.path("it's $HOME `here`");
    fs::create_dir(&odd).unwrap();
    let program = env!("CARGO_BIN_EXE_setup-remote-docker");
    let script = format!(
        r#"set -eu
        show() {{ env | grep -E '^(DOCKER_|REMOTE_DOCKER_LEASE)' | sort || true; }}
        eval "$({program} -q)"
        show
        ls "$DOCKER_CERT_PATH"
        eval "$({program} stop)"
        echo stopped
        show"#
    );
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]);
    sandbox.hermetic(&mut shell);
    assert_snapshot!(sandbox.show(shell.env("XDG_RUNTIME_DIR", &odd)));
    assert_eq!(
        server.calls(),
        [
            "POST /v1/leases".to_owned(),
            format!("DELETE /v1/leases/{LEASE}")
        ]
    );
}

#[test]
fn a_script_does_not_go_on_without_its_machine() {
    let server = Fake::on("POST", |_| Reply::Html(500));
    let sandbox = Sandbox::new(&server);
    let program = env!("CARGO_BIN_EXE_setup-remote-docker");
    for options in ["", "start", "--no-such-option", "--config none"] {
        let script = format!(r#"set -e; eval "$({program} {options})"; echo went on"#);
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]);
        sandbox.hermetic(&mut shell);
        let output = shell.output().unwrap();
        assert!(!output.status.success() && output.stdout.is_empty());
    }
    // Other readers get no such word.
    for options in ["--format json", "run true", "stop", "list --no-such-option"] {
        let output = sandbox.program(options).output().unwrap();
        assert!(output.stdout.is_empty(), "{options}: {output:?}");
    }
}

#[test]
fn a_terminal_gets_progress_and_a_hint() {
    let server = Fake::start();
    let sandbox = Sandbox::new(&server);
    let mut terminal = Terminal::run(sandbox.program(""));
    let seen = terminal.read_to_end();
    assert!(terminal.wait().success());
    assert_snapshot!(sandbox.tidy(&seen));
}

#[test]
fn the_files_are_what_docker_wants() {
    let server = Fake::start();
    let sandbox = Sandbox::new(&server);
    assert!(sandbox.program("").status().unwrap().success());
    let folder = sandbox.leases().join(LEASE);
    let openssl = |args: &str| {
        let output = Command::new("openssl")
            .args(args.split_whitespace())
            .current_dir(&folder)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(openssl("verify -CAfile ca.pem cert.pem"), "cert.pem: OK\n");
    assert_eq!(
        openssl("x509 -in cert.pem -noout -pubkey"),
        openssl("pkey -in key.pem -pubout")
    );
    // What lies beside the keys holds no secret, and says where the lease came from.
    let note = fs::read_to_string(folder.join("lease.json")).unwrap();
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&note).unwrap(),
        json!({
            "id": LEASE, "url": server.url, "docker_host": "tcp://127.0.0.1:23760",
            "expires_at": "2026-01-31T13:00:00Z",
        })
    );
}

#[test]
fn flags_and_configuration_reach_the_server() {
    let server = Fake::start();
    let sandbox = Sandbox::new(&server);
    fs::write(
        sandbox.path("config/setup-remote-docker/config.toml"),
        "engine = 'from-file'\nsize = 'from-file'\nttl = '2m'\nwait = '3s'\n",
    )
    .unwrap();
    let flags = "--engine 28 --ttl 1h30m --label job=nightly --label empty= --idle 10m --egress none \
                 --keepalive 90s --idempotency-key job-7";
    assert!(sandbox.program(flags).status().unwrap().success());
    let request = server.requests().remove(0);
    assert_eq!(request.idempotency_key, "job-7");
    let mut body = request.body;
    let csr = body.as_object_mut().unwrap().remove("client_csr_pem");
    assert!(
        csr.unwrap()
            .as_str()
            .unwrap()
            .starts_with("-----BEGIN CERTIFICATE REQUEST-----\n")
    );
    assert_eq!(
        body,
        json!({
            "engine": "28", "size": "from-file", "ttl_s": 5400, "wait_s": 3,
            "idle_s": 600, "keepalive_s": 90, "egress": "none",
            "labels": { "job": "nightly", "empty": "" },
        })
    );
}

#[test]
fn a_lease_that_nobody_got_to_know_of_is_given_back() {
    let given_back = |mut command: Command, server: &Fake, sandbox: &Sandbox| {
        let shown = sandbox.show(&mut command);
        assert_eq!(server.calls()[1..], [format!("DELETE /v1/leases/{LEASE}")]);
        assert!(sandbox.is_clean());
        shown
    };

    let server = Fake::start();
    let sandbox = Sandbox::new(&server);
    let mut command = sandbox.program("-q");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    command.stdout(writer).stderr(Stdio::piped());
    // `output` would put a pipe of its own in the place of standard output.
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    assert_snapshot!("closed_stdout", sandbox.shown(&output));
    assert_eq!(server.calls()[1..], [format!("DELETE /v1/leases/{LEASE}")]);
    assert!(sandbox.is_clean());

    // A shell can make writing to files fail as on a full disk, and only to files.
    let server = Fake::start();
    let sandbox = Sandbox::new(&server);
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\" -q"]);
    shell.arg(env!("CARGO_BIN_EXE_setup-remote-docker"));
    sandbox.hermetic(&mut shell);
    assert_snapshot!("full_disk", given_back(shell, &server, &sandbox));
}

#[test]
fn no_machine_is_taken_when_there_is_no_output() {
    let through_shell = |sandbox: &Sandbox, output: &str| {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("exec \"$0\" -q {output}")]);
        shell.arg(env!("CARGO_BIN_EXE_setup-remote-docker"));
        sandbox.hermetic(&mut shell);
        sandbox.show(&mut shell)
    };
    let server = Fake::start();
    let sandbox = Sandbox::new(&server);
    assert_snapshot!("no_stdout", through_shell(&sandbox, ">&-"));
    assert!(server.calls().is_empty());
    assert!(!sandbox.leases().exists());

    // Who throws the output away on purpose is taken at their word.
    through_shell(&sandbox, ">/dev/null");
    assert_eq!(server.calls(), ["POST /v1/leases"]);
}

#[test]
fn no_machine_is_taken_when_the_keys_would_have_no_place() {
    let server = Fake::start();
    let sandbox = Sandbox::new(&server);
    symlink(sandbox.path("tmp"), sandbox.leases()).unwrap();
    assert_snapshot!("planted_link", sandbox.show(&mut sandbox.program("")));

    let sandbox = Sandbox::new(&server);
    let mut command = sandbox.program("");
    command.env("XDG_RUNTIME_DIR", "").env("TMPDIR", "/proc");
    let shown = sandbox.show(&mut command);
    let uid = format!("-{}", nix::unistd::geteuid());
    assert_snapshot!("no_place", shown.replace(&uid, "-[UID]"));
    assert!(server.calls().is_empty());
}

#[test]
fn a_signal_ends_the_wait_and_frees_the_place() {
    for (signal, code) in [
        (Signal::SIGINT, 130),
        (Signal::SIGTERM, 143),
        (Signal::SIGHUP, 129),
        (Signal::SIGQUIT, 131),
    ] {
        let server = Fake::on("POST", |_| Reply::Hang);
        let sandbox = Sandbox::new(&server);
        let running = sandbox.start(&mut sandbox.program(""));
        server.wait_for_call("POST");
        running.signal(signal);
        server.wait_for_abandoned("POST");
        let output = running.finish();
        assert_eq!(output.status.code(), Some(code));
        assert_eq!(
            sandbox.shown(&output),
            format!(
                "exit status: {code}\n--- stdout\nfalse;\n--- stderr\nerror: interrupted by {signal}\n"
            )
        );
        assert_eq!(server.calls().len(), 1);
        assert!(sandbox.is_clean());
    }
}

#[test]
fn an_ignored_signal_stays_ignored() {
    let server = Fake::on("POST", |_| Reply::Hang);
    let sandbox = Sandbox::new(&server);
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' HUP; exec \"$0\" -q"]);
    shell.arg(env!("CARGO_BIN_EXE_setup-remote-docker"));
    sandbox.hermetic(&mut shell);
    let running = sandbox.start(&mut shell);
    server.wait_for_call("POST");
    // By now the signals are taken over.
    let status = fs::read_to_string(format!("/proc/{}/status", running.id())).unwrap();
    let has = |set: &str, signal: Signal| {
        let line = status.lines().find(|line| line.starts_with(set)).unwrap();
        let bits = u64::from_str_radix(line[set.len()..].trim(), 16).unwrap();
        bits & (1 << (signal as u32 - 1)) != 0
    };
    assert!(has("SigIgn:", Signal::SIGHUP), "{status}");
    assert!(has("SigCgt:", Signal::SIGTERM), "{status}");
    running.signal(Signal::SIGTERM);
    assert_eq!(running.finish().status.code(), Some(143));
}

#[test]
fn a_lease_made_just_as_the_signal_came_is_given_back() {
    let server = Fake::on("POST", |request| {
        Reply::JsonAfterGoodbye(201, lease(request))
    });
    let sandbox = Sandbox::new(&server);
    let running = sandbox.start(&mut sandbox.program(""));
    server.wait_for_call("POST");
    running.signal(Signal::SIGINT);
    assert_eq!(running.finish().status.code(), Some(130));
    assert_eq!(server.calls()[1..], [format!("DELETE /v1/leases/{LEASE}")]);
    assert!(sandbox.is_clean());
}

#[test]
fn a_request_with_a_name_is_sent_again_when_the_server_goes_away() {
    let tries = AtomicUsize::new(0);
    let server = Fake::on("POST", move |request| {
        match tries.fetch_add(1, Ordering::SeqCst) {
            0 => Reply::Problem(problem(503, "not_ready", "the server is stopping")),
            1 => Reply::Raw(Vec::new()),
            _ => Reply::Json(200, lease(request)),
        }
    });
    let sandbox = Sandbox::new(&server);
    let output = sandbox
        .program("-q --idempotency-key job-7")
        .output()
        .unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
    let requests = server.requests();
    assert_eq!(requests.len(), 3);
    for request in &requests[1..] {
        assert_eq!(request.body, requests[0].body);
        assert_eq!(request.idempotency_key, "job-7");
    }

    // The server could not know one without a name.
    let server = Fake::on("POST", |_| Reply::Raw(Vec::new()));
    let sandbox = Sandbox::new(&server);
    assert!(!sandbox.program("-q").status().unwrap().success());
    assert_eq!(server.calls().len(), 1);
}

#[test]
fn a_lease_of_an_old_request_that_is_over_is_told() {
    let server = Fake::on("POST", |_| {
        Reply::Json(
            200,
            json!({
                "id": LEASE, "state": "ended", "engine": "28", "size": "small", "ttl_s": 3600,
                "created_at": "2026-01-31T11:59:59Z", "end_reason": "idle",
            }),
        )
    });
    let sandbox = Sandbox::new(&server);
    assert_snapshot!(sandbox.show(&mut sandbox.program("-q --idempotency-key job-7")));
    assert!(sandbox.is_clean());
}
