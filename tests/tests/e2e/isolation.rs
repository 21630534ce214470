//! Two leases are two machines.

use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use e2e::process::succeed;
use e2e::{Machine, TestServer};

/// Two machines at once, cloned from one template.
fn two() -> (TestServer, [Machine; 2]) {
    let server = TestServer::start();
    let machines = [server.lease(), server.lease()];
    for machine in &machines {
        machine.docker().import_busybox();
    }
    (server, machines)
}

/// A file of the machine itself, not of a container. Links in it are to be followed as the machine does.
fn file(machine: &Machine, path: &str) -> String {
    machine
        .docker()
        .busybox(&["--volume=/:/host:ro"], ["chroot", "/host", "cat", path])
}

#[test]
fn images_and_containers_of_one_do_not_show_in_the_other() {
    let (_server, [one, other]) = two();
    one.docker().ok(["tag", "busybox", "only-here"]);
    one.docker()
        .ok(["create", "--name", "only-here", "busybox", "true"]);
    let list = |machine: &Machine| {
        let images = machine
            .docker()
            .ok(["images", "--format", "{{.Repository}}"]);
        let containers = machine.docker().ok(["ps", "-a", "--format", "{{.Names}}"]);
        format!("{images}\n{containers}")
    };
    assert_eq!(list(&one).matches("only-here").count(), 2);
    assert_eq!(list(&other).matches("only-here").count(), 0);
}

#[test]
fn machine_id_and_host_name_differ() {
    let (_server, machines) = two();
    let [one, other] = machines.each_ref().map(|machine| {
        let id = file(machine, "/etc/machine-id");
        assert_eq!(id.len(), 32, "{id}");
        let name = machine.docker().busybox(&["--uts=host"], ["hostname"]);
        assert!(name.starts_with("vm-"), "{name}");
        assert_eq!(machine.docker().ok(["info", "--format", "{{.Name}}"]), name);
        (id, name)
    });
    assert_ne!(one.0, other.0);
    assert_ne!(one.1, other.1);
}

#[test]
fn tls_keys_and_ssh_host_keys_differ() {
    let (_server, machines) = two();
    let [one, other] = machines.each_ref().map(|machine| {
        let ssh = file(machine, "/etc/ssh/ssh_host_ed25519_key.pub");
        assert!(ssh.starts_with("ssh-ed25519 "), "{ssh}");
        (tls_public_key(machine), ssh)
    });
    assert_ne!(one.0, other.0);
    assert_ne!(one.1, other.1);
}

fn tls_public_key(machine: &Machine) -> String {
    let endpoint = machine.endpoint();
    let folder = machine.certificates().display();
    let script = format!(
        "openssl s_client -connect {endpoint} -CAfile {folder}/ca.pem -cert {folder}/cert.pem \
         -key {folder}/key.pem </dev/null 2>/dev/null | openssl x509 -noout -pubkey"
    );
    let key = succeed(Command::new("timeout").args(["20", "sh", "-c", &script]));
    assert!(key.contains("BEGIN PUBLIC KEY"), "{key}");
    key
}

#[test]
fn random_numbers_differ_and_the_kernel_was_told_of_the_clone() {
    let (_server, machines) = two();
    let [one, other] = machines.each_ref().map(|machine| {
        let log = machine.docker().busybox(&["--privileged"], ["dmesg"]);
        let reseeded = "crng reseeded due to virtual machine fork";
        assert!(log.contains(reseeded), "no `{reseeded}` in:\n{log}");
        machine
            .docker()
            .busybox(&[], ["sh", "-c", "head -c 32 /dev/urandom | sha256sum"])
    });
    assert_ne!(one, other);
}

#[test]
fn clocks_are_right() {
    let (_server, machines) = two();
    for machine in &machines {
        let before = now();
        let there: f64 = machine
            .docker()
            .busybox(&[], ["date", "+%s"])
            .parse()
            .unwrap();
        let after = now();
        // `date` cuts off the fraction.
        assert!(
            there > before - 3.0 && there < after + 2.0,
            "{there} is not between {before} and {after}"
        );
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the test compares with the host's clock"
)]
fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or(Duration::ZERO).as_secs_f64()
}

#[test]
fn one_machine_cannot_reach_the_other() {
    let (server, [one, other]) = two();
    let address = |machine: &Machine| {
        let said = machine.docker().busybox_on_the_host_network([
            "sh",
            "-c",
            "ip -4 -o addr show scope global | grep -v docker0",
        ]);
        let words: Vec<_> = said.split_whitespace().collect();
        let at = words.iter().position(|word| *word == "inet").unwrap();
        words[at + 1].split('/').next().unwrap().to_owned()
    };
    let (target, own) = (address(&other), address(&one));
    assert_ne!(target, own);
    let connect = |from: &Machine, to: &str| {
        from.docker().busybox_on_the_host_network([
            "sh",
            "-c",
            &format!("nc -w 5 {to} 2376 </dev/null >/dev/null 2>&1 && echo open || echo closed"),
        ])
    };
    // The same probe, on the same port, succeeds where it should.
    assert_eq!(connect(&other, &target), "open");
    assert_eq!(connect(&one, &target), "closed");
    drop(server);
}
