mod access;
mod site;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::facts::*;
use super::findings::judge;
use super::firewall::{Passage, legacy, obstacles};
use super::report::{Finding, Verdict, is_well, text};
use crate::hypervisor::trial::Versions;

/// A host on which a server would be well.
fn good() -> Facts {
    Facts {
        is_root: true,
        server_runs: false,
        accelerator: Look::Seen(None),
        nested: None,
        shared_user: Look::Seen(None),
        control_groups: Look::Seen(Some(Vec::new())),
        versions: Look::Seen(Versions {
            qemu: "10.0.2".to_owned(),
            libvirt: "11.3.0".to_owned(),
            libvirt_needed: None,
        }),
        state: State {
            path: "/var/lib/remote-dockerd".into(),
            path_fault: None,
            is_there: false,
            writable: Ok(()),
            closed: Look::Seen(None),
        },
        images: Images {
            folder: "/var/lib/remote-dockerd/images".into(),
            engines: Ok(vec!["26.1.5".to_owned()]),
            largest_bytes: 700 << 20,
            closed: Look::Seen(None),
            offers: Ok(()),
        },
        network: Look::Seen(Network {
            inside: Ok(()),
            wire: Ok(()),
            uplink: Ok(()),
        }),
        filters: Filters {
            nftables: Look::Seen(json!({ "nftables": [] })),
            legacy: Look::Seen(None),
            way_out: Some("eth0".to_owned()),
        },
        forwarding: Forwarding {
            is_on: true,
            is_changeable: true,
        },
        nameservers: 1,
        disk: Ok(Disk {
            free: 10 << 30,
            reserve: 2 << 30,
        }),
        memory: Ok(Memory {
            available: 8000,
            budget: 6400,
            is_configured: false,
            sizes: BTreeMap::from([("small".to_owned(), 1024), ("large".to_owned(), 4096)]),
            default_size: "small".to_owned(),
        }),
        clock: Ok(Some(3)),
        ports: Ports {
            api: ("127.0.0.1:7420".to_owned(), None),
            relay: "127.0.0.1:23760-24759".to_owned(),
            count: 1000,
            taken: None,
        },
        certificate: None,
        issuers: Vec::new(),
        site: Site {
            trusted: Vec::new(),
            named: Vec::new(),
            now: time::OffsetDateTime::UNIX_EPOCH,
        },
    }
}

/// What is not ok about a host that is good but for `change`.
fn after(change: impl FnOnce(&mut Facts)) -> Vec<Finding> {
    let mut facts = good();
    change(&mut facts);
    let mut findings = judge(&facts, true);
    findings.retain(|finding| finding.verdict != Verdict::Ok);
    findings
}

#[test]
fn a_good_host() {
    insta::assert_snapshot!(text(&judge(&good(), true)));
}

#[test]
fn a_bad_host_is_told_everything_at_once() {
    let mut facts = good();
    fn no<T>(what: &str) -> Result<T, String> {
        Err(what.to_owned())
    }
    facts.accelerator = Look::Seen(Some("there is no /dev/kvm".to_owned()));
    facts.shared_user = Look::Seen(Some("`hypervisor.qemu_uids` is `shared`".to_owned()));
    facts.control_groups = Look::Seen(Some(vec!["memory: there is none".to_owned()]));
    facts.versions = Look::Failed("QEMU 7.2.0 is too old".to_owned());
    facts.state.path_fault = Some("the path is too long".to_owned());
    facts.state.writable = no("/var: Read-only file system");
    facts.state.closed = Look::Seen(Some("/root\u{1b}[2J".into()));
    facts.images.engines = no("no image in /images");
    facts.network = Look::Seen(Network {
        inside: no("the program `nft` is not installed"),
        wire: no("/dev/net/tun: not there"),
        uplink: no("the kernel has no veth"),
    });
    facts.filters.nftables = Look::Seen(docker());
    facts.filters.legacy = Look::Seen(Some("-P FORWARD DROP\n".to_owned()));
    facts.forwarding = Forwarding {
        is_on: false,
        is_changeable: false,
    };
    facts.nameservers = 0;
    facts.disk = Ok(Disk {
        free: 1 << 30,
        reserve: 2 << 30,
    });
    facts.memory = no("/proc is not there");
    facts.clock = Ok(None);
    facts.ports.api.1 = Some("port 7420: Address already in use".to_owned());
    facts.ports.taken = Some((
        1000,
        "port 23760: Cannot assign requested address".to_owned(),
    ));
    facts.certificate = Some(no("the key /k is missing"));
    facts.issuers = vec![("https://ci.example".to_owned(), no("it answers 404"))];
    let findings = judge(&facts, true);
    assert!(!is_well(&findings));
    insta::assert_snapshot!(text(&findings));
}

#[test]
fn without_root_most_is_left_open_and_that_is_the_failure() {
    let findings = after(|facts| {
        facts.is_root = false;
        facts.accelerator = Look::TakesRoot;
        facts.versions = Look::TakesRoot;
        facts.state.closed = Look::TakesRoot;
        facts.images.closed = Look::TakesRoot;
        facts.network = Look::TakesRoot;
        facts.filters.nftables = Look::TakesRoot;
        facts.filters.legacy = Look::TakesRoot;
    });
    let failed = |finding: &&Finding| finding.verdict == Verdict::Failed;
    let failed: Vec<_> = findings.iter().filter(failed).map(|it| it.name).collect();
    assert_eq!(failed, ["root"]);
    assert_eq!(findings.len(), 7, "{findings:?}");
}

#[test]
fn machines_in_machines_are_told_of_where_the_site_wants_them() {
    let about = |nested| {
        let mut facts = good();
        facts.nested = Some(nested);
        let found = judge(&facts, true);
        assert!(is_well(&found), "{found:?}");
        let mut found = found.into_iter().filter(|it| it.name == "nested");
        found.next().unwrap()
    };
    assert!(judge(&good(), true).iter().all(|it| it.name != "nested"));
    let can = about(Look::Seen(Nested::ByProcessor));
    assert_eq!(can.verdict, Verdict::Ok);
    let slow = about(Look::Seen(Nested::Emulated));
    assert_eq!(slow.verdict, Verdict::Ok);
    assert!(slow.detail.contains("emulated"), "{slow:?}");
    let off = about(Look::Seen(Nested::Off("it is off".to_owned())));
    assert_eq!(off.verdict, Verdict::Warning);
    assert!(off.detail == "it is off" && off.hint.is_some(), "{off:?}");
    assert_eq!(about(Look::TakesRoot).verdict, Verdict::Warning);
}

#[test]
fn a_server_that_runs_has_its_ports_and_its_memory_itself() {
    let used = |facts: &mut Facts| {
        facts.ports.api.1 = Some("in use".to_owned());
        facts.ports.taken = Some((1, "in use".to_owned()));
        let memory = facts.memory.as_mut().unwrap();
        (memory.available, memory.budget) = (100, 80);
    };
    let alone = after(used);
    let names: Vec<_> = alone.iter().map(|it| (it.name, it.verdict)).collect();
    let expected = [
        ("memory", Verdict::Failed),
        ("api port", Verdict::Failed),
        ("relay ports", Verdict::Warning),
    ];
    assert_eq!(names, expected);
    let beside = after(|facts| {
        used(facts);
        facts.server_runs = true;
    });
    assert_eq!(beside, []);
}

#[test]
fn memory_and_disk_that_do_for_some_things_are_a_warning() {
    let budget = |budget| {
        move |facts: &mut Facts| {
            let memory = facts.memory.as_mut().unwrap();
            (memory.budget, memory.is_configured) = (budget, true);
        }
    };
    assert_eq!(after(budget(4096)), []);
    assert_eq!(after(budget(4095))[0].verdict, Verdict::Warning);
    assert_eq!(after(budget(1023))[0].verdict, Verdict::Failed);
    assert!(after(budget(8001))[0].detail.contains("8000 are available"));
    let free = |free| move |facts: &mut Facts| facts.disk.as_mut().unwrap().free = free;
    let enough = (2 << 30) + (700 << 20);
    assert_eq!(after(free(enough)), []);
    assert_eq!(after(free(enough - 1))[0].verdict, Verdict::Warning);
    assert_eq!(after(free((2 << 30) - 1))[0].verdict, Verdict::Failed);
}

#[test]
fn guests_without_an_uplink_need_nothing_of_the_host_s_network() {
    let mut facts = good();
    facts.forwarding.is_on = false;
    facts.filters.nftables = Look::Seen(docker());
    facts.nameservers = 0;
    let findings = judge(&facts, false);
    assert!(is_well(&findings), "{findings:?}");
    let about = |name| findings.iter().any(|finding| finding.name == name);
    assert!(about("nftables") && !about("firewall") && !about("forwarding"));
}

fn base(table: &str, policy: &str) -> Value {
    json!({ "chain": { "family": "ip", "table": table, "name": "FORWARD", "type": "filter",
                       "hook": "forward", "prio": 0, "policy": policy } })
}

fn rule(chain: &str, expr: Value) -> Value {
    json!({ "rule": { "family": "ip", "table": "filter", "chain": chain, "expr": expr } })
}

fn device(key: &str, op: &str, name: &str) -> Value {
    json!({ "match": { "op": op, "left": { "meta": { "key": key } }, "right": name } })
}

/// What Docker's rules look like to `nft`, in short.
fn docker() -> Value {
    let xt = json!({ "xt": { "type": "match", "name": "conntrack" } });
    json!({ "nftables": [
        { "metainfo": { "json_schema_version": 1 } },
        base("filter", "drop"),
        rule("FORWARD", json!([{ "counter": {} }, { "jump": { "target": "DOCKER-USER" } }])),
        rule("FORWARD", json!([{ "jump": { "target": "DOCKER-FORWARD" } }])),
        rule("DOCKER-FORWARD", json!([device("oifname", "==", "docker0"), xt, { "accept": null }])),
        rule("DOCKER-FORWARD", json!([device("iifname", "==", "docker0"),
                                      device("oifname", "!=", "docker0"), { "accept": null }])),
        rule("DOCKER-USER", json!([{ "return": null }])),
    ] })
}

/// How far packets come through Docker's rules with these at the head of DOCKER-USER.
fn with_rules(rules: Vec<Value>) -> Passage {
    let mut all = docker();
    let items = all["nftables"].as_array_mut().unwrap();
    items.splice(1..1, rules);
    let found = obstacles(&all, Some("eth0"));
    found.first().map_or(Passage::Open, |(chain, passage)| {
        assert_eq!(chain, "ip filter FORWARD");
        *passage
    })
}

#[test]
fn docker_s_policy_is_in_the_way_until_it_is_told_of_the_uplink() {
    let accept = json!({ "accept": null });
    let user = |expr: Value| rule("DOCKER-USER", expr);
    let out = |name| user(json!([device("iifname", "==", name), accept]));
    let back = user(json!([
        device("oifname", "==", "ru*"),
        { "match": { "op": "in", "left": { "ct": { "key": "state" } },
                     "right": ["established", "related"] } },
        accept
    ]));
    assert_eq!(with_rules(vec![]), Passage::Closed);
    assert_eq!(with_rules(vec![out("ru*")]), Passage::Closed, "answers");
    assert_eq!(with_rules(vec![out("ru*"), back.clone()]), Passage::Open);
    let exact = out("ru0000000000001");
    assert_eq!(with_rules(vec![exact, back.clone()]), Passage::Open);
    assert_eq!(with_rules(vec![out("eth0"), back.clone()]), Passage::Closed);
    let odd = user(json!([{ "xt": null }, accept]));
    assert_eq!(with_rules(vec![odd, back.clone()]), Passage::Unsure);
    let new_only = user(json!([
        device("oifname", "==", "ru*"),
        { "match": { "op": "==", "left": { "ct": { "key": "state" } }, "right": "new" } },
        accept
    ]));
    assert_eq!(with_rules(vec![out("ru*"), new_only]), Passage::Closed);
    let before = user(json!([{ "drop": null }]));
    assert_eq!(with_rules(vec![before, out("ru*"), back]), Passage::Closed);
}

#[test]
fn chains_that_accept_and_those_of_servers_are_no_obstacle() {
    let ours = json!({ "chain": { "family": "inet", "table": "remote_dockerd_ru1", "name": "forward",
                                  "hook": "forward", "policy": "drop" } });
    let input = json!({ "chain": { "family": "ip", "table": "filter", "name": "INPUT",
                                   "hook": "input", "policy": "drop" } });
    let found = |items: Value| obstacles(&json!({ "nftables": items }), None);
    assert_eq!(found(json!([ours, input, base("filter", "accept")])), []);
    // The last word of a chain can be a rule.
    let reject = rule("FORWARD", json!([{ "reject": { "type": "icmp" } }]));
    let closed = found(json!([base("filter", "accept"), reject]));
    assert_eq!(closed[0].1, Passage::Closed);
    // A rule about other packets only is none.
    let smtp = json!([{ "match": { "op": "==", "left": { "payload": { "protocol": "tcp",
        "field": "dport" } }, "right": 25 } }, { "drop": null }]);
    assert_eq!(
        found(json!([base("filter", "accept"), rule("FORWARD", smtp)])),
        []
    );
    for nonsense in [
        json!(null),
        json!({ "nftables": [{ "chain": 1 }, { "rule": {} }, 7] }),
    ] {
        assert_eq!(obstacles(&nonsense, None), []);
    }
}

#[test]
fn a_chain_that_jumps_to_itself_is_left() {
    let again = rule("FORWARD", json!([{ "jump": { "target": "FORWARD" } }]));
    let rules = json!({ "nftables": [base("filter", "drop"), again] });
    assert_eq!(obstacles(&rules, None)[0].1, Passage::Unsure);
}

#[test]
fn the_old_interface_of_iptables_is_read_as_well() {
    for (rules, passage) in [
        (
            "-P FORWARD ACCEPT\n-A FORWARD -j DOCKER-USER\n",
            Passage::Open,
        ),
        ("-P FORWARD DROP\n", Passage::Closed),
        (
            "-P FORWARD DROP\n-A FORWARD -i docker0 -j ACCEPT\n",
            Passage::Unsure,
        ),
        (
            "-P FORWARD DROP\n-A FORWARD -i ru+ -j ACCEPT\n",
            Passage::Open,
        ),
    ] {
        assert_eq!(legacy(rules), passage, "{rules}");
    }
}
