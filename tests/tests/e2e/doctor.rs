//! `remote-dockerd doctor`: it finds what is wrong with a host, and leaves the host as it was.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};
use std::time::Duration;

use e2e::process::{bounded, said, succeed, text};
use e2e::server::API_PORT;
use e2e::{Builder, TestServer, until};
use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;

/// Libvirt's questions to QEMU take a while on a slow host, and so does reading an image.
const LIMIT: Duration = Duration::from_secs(100);

/// A server whose settings do not depend on what else goes on on this host.
fn builder() -> Builder {
    TestServer::builder()
        .set("network.uplink", "veth")
        .set("network.nameservers", vec!["192.0.2.53"])
        .set("hypervisor.nested", true)
        .set("limits.memory_budget_mib", 1024)
        .set("limits.disk_reserve_mib", 0)
}

fn doctor(server: &TestServer, mut program: Command, flags: &[&str]) -> Output {
    program
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .args(["doctor", "--config"])
        .arg(server.root().join("config.toml"))
        .args(flags);
    program.output().unwrap()
}

/// Runs it as root; answers its exit code and what it found.
fn findings(server: &TestServer) -> (i32, Vec<Value>) {
    let program = bounded(LIMIT, server.setting().server());
    parse(&doctor(server, program, &["--format", "json"]))
}

fn parse(output: &Output) -> (i32, Vec<Value>) {
    assert!(output.stderr.is_empty(), "{}", said(output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let code = output.status.code().unwrap();
    assert_eq!(report["well"], Value::Bool(code == 0), "{}", said(output));
    (code, report["findings"].as_array().unwrap().clone())
}

fn failed(findings: &[Value]) -> Vec<&str> {
    let failed = findings.iter().filter(|it| it["verdict"] == "failed");
    failed.map(|it| it["name"].as_str().unwrap()).collect()
}

fn detail<'a>(findings: &'a [Value], name: &str) -> &'a str {
    let found = findings.iter().find(|it| it["name"] == name);
    found.and_then(|it| it["detail"].as_str()).unwrap()
}

fn nft(rules: &str) {
    succeed(bounded(LIMIT, "nft").arg(rules));
}

/// What a host has that could have been changed.
struct Inventory {
    /// All of this thread's network namespace, and of the state folder.
    own: String,
    /// Folders and names as the doctor uses, or would use.
    shared: BTreeSet<String>,
}

impl Inventory {
    fn take(server: &TestServer) -> Self {
        let links = succeed(bounded(LIMIT, "ip").args(["-o", "address", "show"]));
        let rules = succeed(bounded(LIMIT, "nft").args(["list", "ruleset"]));
        let forwarding = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
        let in_state = server.state().read_dir().unwrap().count();
        Self {
            own: format!("{links}\n{rules}\n{forwarding}\n{in_state}"),
            shared: shared(),
        }
    }

    fn assert_unchanged(&self, server: &TestServer) {
        assert_eq!(Self::take(server).own, self.own);
        // Somebody else may look at this host as well, and is done at some time.
        until("nothing is left", LIMIT, shared, |now| {
            now.is_subset(&self.shared)
        });
    }
}

fn shared() -> BTreeSet<String> {
    let entries = ["/run", "/run/netns"].map(std::fs::read_dir);
    let entries = entries.into_iter().flatten().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    let of_doctor = |name: &String| name == "rd-0000000000000" || name.starts_with("rd-doctor-");
    names.filter(of_doctor).collect()
}

#[test]
fn what_is_in_the_way_on_a_host_is_found_and_the_host_is_left_as_it_was() {
    let (server, _) = builder().prepare();
    nft(
        "table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; \
         iifname \"docker0\" accept; }; }",
    );
    let taken = TcpListener::bind(("127.0.0.1", API_PORT)).unwrap();
    let before = Inventory::take(&server);

    let (code, found) = findings(&server);
    assert_eq!(failed(&found), ["firewall", "api port"], "{found:#?}");
    assert_eq!(code, 1);
    assert!(detail(&found, "firewall").contains("ip filter FORWARD"));
    assert!(detail(&found, "api port").contains("in use"));
    assert!(detail(&found, "qemu").starts_with("version "), "{found:#?}");
    assert!(detail(&found, "images").contains("Docker"), "{found:#?}");
    // Whatever this host can do, it is about that.
    assert!(
        detail(&found, "nested").contains("machines of their own"),
        "{found:#?}"
    );
    before.assert_unchanged(&server);

    // What is accepted is not in the way, nor is what a server does itself.
    nft("add rule ip filter FORWARD iifname \"ru*\" accept");
    nft("add rule ip filter FORWARD ct state established,related accept");
    let lock = File::create(server.state().join("lock")).unwrap();
    let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).unwrap();
    let before = Inventory::take(&server);
    let (code, found) = findings(&server);
    assert_eq!((code, failed(&found)), (0, vec![]), "{found:#?}");
    assert!(detail(&found, "state").contains("a server runs"));
    before.assert_unchanged(&server);
    drop((lock, taken));
}

#[test]
fn without_root_and_with_a_bad_configuration_all_else_is_told_all_the_same() {
    let (server, _) = builder().set("default_size", "none").prepare();
    // The folder of the build may be closed to others.
    let program = server.root().join("remote-dockerd");
    std::fs::copy(server.setting().server(), &program).unwrap();
    let as_nobody = |format: &str| {
        let mut command = bounded(LIMIT, &program);
        command.uid(65534).gid(65534).current_dir("/");
        let state = server.state();
        let places = [
            "--images-dir",
            "/no-images",
            "--state-dir",
            state.to_str().unwrap(),
        ];
        doctor(
            &server,
            command,
            &[&places[..], &["--format", format]].concat(),
        )
    };

    let (code, found) = parse(&as_nobody("json"));
    assert_eq!(code, 1);
    assert_eq!(failed(&found), ["settings", "root", "state", "images"]);
    assert!(detail(&found, "settings").contains("`default_size`"));
    let open = "not looked at, which takes root";
    for name in ["accelerator", "qemu", "passage", "namespace", "firewall"] {
        assert_eq!(detail(&found, name), open, "{name}");
    }
    assert_eq!(detail(&found, "api port"), "127.0.0.1:7420 is free");

    let printed = as_nobody("text");
    assert_eq!(printed.status.code(), Some(1));
    let lines = text(&printed.stdout);
    assert!(
        lines.contains("\nfailed   root        this process does not run as root\n"),
        "{lines}"
    );
}
