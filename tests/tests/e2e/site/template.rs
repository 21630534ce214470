//! What Docker reads only when it starts: proxies, and what containers get. And what a change of the rest
//! does to machines of a template that is there.

use e2e::process::{fail, succeed};
use e2e::site::{Authority, LAN, Proxy, Registry, RegistryPlan, World};
use e2e::{Machine, TestServer};
use serde_json::json;

use super::{PRIVATE, at, build, builder, context, trusted};

/// A server of HTTP without TLS that only the proxy knows.
const WEB: &str = "web.lan";
const PROXY: u16 = 3128;
const MIRROR: &str = "https://mirror.example.org";

#[test]
fn proxies_and_what_containers_get_come_with_the_template_and_the_rest_without() {
    let authority = Authority::new("the site");
    let proxy = format!("http://{LAN}:{PROXY}");
    let server = builder()
        // By the proxy, or not at all.
        .set(
            "network.allow",
            json!([{ "cidr": format!("{LAN}/32"), "ports": [PROXY] }]),
        )
        .set("site.ca", vec![trusted(&authority, &[])])
        .set("site.registry_mirrors", vec![MIRROR])
        .set("site.proxy.http", proxy.as_str())
        .set("site.proxy.https", proxy.as_str())
        .set("site.proxy.except", vec![".nowhere.example"])
        .set("site.mtu", 1400)
        .set(
            "site.address_pools",
            json!([{ "base": "10.200.0.0/16", "size": 24 }]),
        )
        .set(
            "site.container_logs",
            json!({ "max_size": "1m", "max_files": 3 }),
        )
        .set("site.ulimits.nofile", json!({ "soft": 1234, "hard": 4321 }))
        .start();
    let world = World::make();
    let names = [(PRIVATE, LAN), (WEB, LAN)];
    let proxy = Proxy::start(&world, at(LAN, PROXY), &names);
    let folder = server.root().join("registry");
    std::fs::create_dir(&folder).unwrap();
    let plan = RegistryPlan {
        at: at(LAN, 5000),
        world: Some(&world),
        tls: Some(authority.certify(&[PRIVATE], &folder)),
        users: None,
        mirrors: None,
    };
    let _registry = Registry::start(&plan, &folder);
    let plan = RegistryPlan {
        at: at(LAN, 80),
        world: Some(&world),
        tls: None,
        users: None,
        mirrors: None,
    };
    let _web = Registry::start(&plan, &server.root().join("web"));

    let machine = server.lease();
    machine.docker().import_busybox();
    by_the_proxy(&server, &machine, &proxy);
    what_containers_get(&machine);
    assert_eq!(mirrors(&machine), format!("[{MIRROR}/]"));
    without_the_settings_that_a_daemon_takes_while_it_runs(server, &machine);
}

/// The daemon, BuildKit, and what both start.
fn by_the_proxy(server: &TestServer, machine: &Machine, proxy: &Proxy) {
    let docker = machine.docker();
    let image = format!("{PRIVATE}:5000/busybox");
    let connects = || {
        let wanted = format!("CONNECT {PRIVATE}:5000");
        proxy
            .asked()
            .iter()
            .filter(|asked| **asked == wanted)
            .count()
    };
    docker.ok(["tag", "busybox", &image]);
    docker.ok(["push", "--quiet", &image]);
    docker.ok(["rmi", &image]);
    let pushed = connects();
    assert!(pushed > 0, "{:?}", proxy.asked());
    docker.ok(["pull", "--quiet", &image]);
    docker.ok(["rmi", &image]);
    let pulled = connects();
    assert!(pulled > pushed, "{:?}", proxy.asked());

    let fetch = format!("wget -q -O - http://{WEB}/v2/");
    let folder = context(
        server,
        "by-proxy",
        &format!("FROM {image}\nRUN {fetch} | grep -q '{{}}'\n"),
    );
    let built = format!("{PRIVATE}:5000/built");
    build(machine, &folder, &["--push", "--tag", &built]);
    assert!(connects() > pulled, "{:?}", proxy.asked());
    docker.ok(["pull", "--quiet", &built]);
    let environment = ["image", "inspect", "--format", "{{.Config.Env}}", &built];
    let left = docker.ok(environment).to_lowercase();
    assert!(!left.contains("proxy"), "{left}");

    assert_eq!(
        docker.ok(["run", "--rm", "busybox", "sh", "-c", &fetch]),
        "{}"
    );
    docker.ok([
        "run", "--detach", "--name", "waits", "busybox", "sleep", "600",
    ]);
    assert_eq!(docker.ok(["exec", "waits", "sh", "-c", &fetch]), "{}");
    let seen = docker.ok(["exec", "waits", "sh", "-c", "echo $NO_PROXY"]);
    assert_eq!(
        seen,
        "localhost,127.0.0.0/8,mirror.example.org,.nowhere.example"
    );
    // What a container says itself stays.
    let own = docker.busybox(
        &["--env=http_proxy="],
        ["sh", "-c", "echo [$http_proxy$HTTP_PROXY]"],
    );
    assert_eq!(own, "[]");
    docker.ok(["rm", "--force", "waits"]);
}

fn what_containers_get(machine: &Machine) {
    let docker = machine.docker();
    let mtu = |network: &str, card: &str| {
        let network = format!("--network={network}");
        let mut command = docker.command(["run", "--rm", &network, "busybox"]);
        succeed(command.arg("cat").arg(format!("/sys/class/net/{card}/mtu")))
    };
    docker.ok(["network", "create", "own"]);
    assert_eq!(mtu("host", "eth0"), "1400");
    assert_eq!(mtu("bridge", "eth0"), "1400");
    assert_eq!(mtu("own", "eth0"), "1400");
    assert_eq!(mtu("host", "docker0"), "1400");
    let subnet = "{{range .IPAM.Config}}{{.Subnet}}{{end}}";
    let subnet = docker.ok(["network", "inspect", "--format", subnet, "own"]);
    assert!(
        subnet.starts_with("10.200.") && subnet.ends_with("/24"),
        "{subnet}"
    );
    let limits = docker.busybox(&[], ["sh", "-c", "ulimit -Sn; ulimit -Hn"]);
    assert_eq!(limits, "1234\n4321");
    docker.ok(["create", "--name", "logs", "busybox", "true"]);
    let options = "{{json .HostConfig.LogConfig.Config}}";
    let options = docker.ok(["inspect", "--format", options, "logs"]);
    let options: serde_json::Value = serde_json::from_str(&options).unwrap();
    assert_eq!(options, json!({ "max-size": "1m", "max-file": "3" }));
}

fn mirrors(machine: &Machine) -> String {
    machine
        .docker()
        .ok(["info", "--format", "{{.RegistryConfig.Mirrors}}"])
}

/// The server starts again with less, on the template that it has.
fn without_the_settings_that_a_daemon_takes_while_it_runs(
    mut server: TestServer,
    before: &Machine,
) {
    let built = |server: &TestServer| server.log().matches("building the template").count();
    let count = built(&server);
    server.api().release(before.id());
    server.wait_clean();
    server.stop();
    let file = server.root().join("config.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let mut config: toml::Table = toml::from_str(&text).unwrap();
    let site = config["site"].as_table_mut().unwrap();
    site.remove("ca").unwrap();
    site.remove("registry_mirrors").unwrap();
    // It stood among the exceptions of the proxy, which are part of the template.
    site["proxy"]["except"] = vec!["mirror.example.org", ".nowhere.example"].into();
    std::fs::write(&file, toml::to_string(&config).unwrap()).unwrap();
    server.start_again();

    let machine = server.lease();
    assert_eq!(built(&server), count, "the template was built again");
    assert_eq!(mirrors(&machine), "[]");
    let image = format!("{PRIVATE}:5000/busybox");
    let refused = fail(&mut machine.docker().command(["pull", &image]));
    assert!(refused.contains("certificate"), "{refused}");
}
