//! What a client needs to log in at a registry stays with it.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use e2e::process::{bounded, fail, run, said, succeed};
use e2e::site::{Authority, HOST, LAN, Registry, RegistryPlan, Resolver, World};

use super::{NAMES, PRIVATE, at, builder, trusted};

const USER: &str = "somebody";
const PASSWORD: &str = "a-word-that-nobody-else-has";
/// The password as a registry keeps it, by bcrypt.
const HASH: &str = "$2y$05$abcdefghijklmnopqrstuujhnHv8Gpf9/ySgC/sjerGPNQlFd1m16";
/// User and password as HTTP sends them, in Base64.
const SENT: &str = "c29tZWJvZHk6YS13b3JkLXRoYXQtbm9ib2R5LWVsc2UtaGFz";

#[test]
fn a_password_for_a_registry_is_kept_by_nobody_but_the_client() {
    let authority = Authority::new("the site");
    let registry = format!("{PRIVATE}:5000");
    let server = builder()
        .set("site.ca", vec![trusted(&authority, &[&registry])])
        .start();
    let world = World::make();
    let _resolver = Resolver::start(HOST, &NAMES);
    let folder = server.root().join("registry");
    std::fs::create_dir(&folder).unwrap();
    let users = folder.join("users");
    std::fs::write(&users, format!("{USER}:{HASH}\n")).unwrap();
    let plan = RegistryPlan {
        at: at(LAN, 5000),
        world: Some(&world),
        tls: Some(authority.certify(&[PRIVATE], &folder)),
        users: Some(users),
        mirrors: None,
    };
    let _registry = Registry::start(&plan, &folder);

    let machine = server.lease();
    let docker = machine.docker();
    docker.import_busybox();
    let image = format!("{registry}/busybox");
    docker.ok(["tag", "busybox", &image]);
    fail(&mut docker.command(["push", "--quiet", &image]));
    let password = server.root().join("password");
    std::fs::write(&password, PASSWORD).unwrap();
    let mut login = docker.command(["login", "--username", USER, "--password-stdin", &registry]);
    login.stdin(Stdio::from(File::open(&password).unwrap()));
    let done = run(&mut login);
    assert!(done.status.success(), "{}", said(&done));
    std::fs::remove_file(&password).unwrap();
    docker.ok(["push", "--quiet", &image]);
    docker.ok(["rmi", &image]);
    docker.ok(["pull", "--quiet", &image]);

    // The client has it, as the docker CLI keeps it: the search finds what is there. What is in a machine is
    // looked for below; its disk and memory go with it.
    let words = [PASSWORD, SENT];
    assert!(holds(&server.root().join("docker-config"), words));
    for kept in ["state", "server.log"] {
        assert!(!holds(&server.root().join(kept), words), "{kept}");
    }
    let own = ["image", "containers", "buildkit", "tmp", "network"];
    let own = own
        .map(|folder| format!("/host/var/lib/docker/{folder}"))
        .join(" ");
    let folders = format!("/host/etc /host/root /host/tmp /host/var/log {own}");
    let found = |words: [&str; 2]| {
        // By its input: the command line of the search would be found where Docker keeps those.
        let list = server.root().join("words");
        std::fs::write(&list, words.join("\n")).unwrap();
        let search = format!("grep -rqsF -f - {folders} && echo found || echo none");
        let options = [
            "run",
            "--rm",
            "--interactive",
            "--volume=/:/host:ro",
            "busybox",
        ];
        let mut command = docker.command(options);
        command.args(["sh", "-c", &search]);
        succeed(command.stdin(Stdio::from(File::open(&list).unwrap())))
    };
    assert_eq!(found(["localhost", "no such word"]), "found");
    assert_eq!(found(words), "none");
}

/// Whether a file, or one below a folder, has one of these words in it.
fn holds(path: &Path, [one, other]: [&str; 2]) -> bool {
    let mut grep = bounded(Duration::from_secs(60), "grep");
    grep.args(["-rqF", "--exclude-dir=vms", "-e", one, "-e", other]);
    let output = run(grep.arg(path));
    // 1 means that there is none, 2 that it could not be looked for.
    assert!(output.status.code() != Some(2), "{}", said(&output));
    output.status.success()
}
