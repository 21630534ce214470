//! Where attacks are tried: a server, its host, what is behind the host, and two leases.
//!
//! ```text
//!   attacker ═ tap ═┐
//!                   ├─ inside ── uplink ── host (API, relay, services) ── wan ── outside
//!   victim ═══ tap ═┘
//! ```
//!
//! On the host, inside and outside somebody listens on every address that there is.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use attack_probe::{Attempt, Heard as Answer, Outcome};
use e2e::footprint::own_memory_kib;
use e2e::machine::ClientKey;
use e2e::process::{bounded, succeed};
use e2e::server::API_PORT;
use e2e::{Builder, Machine, TestServer, eventually};
use remote_docker_api::{Egress, LeaseState};
use remote_dockerd::ids::VmId;

use super::forge::says;
use super::place::{Listener, Place};
use super::witness::{Way, Witness};

/// The host's address on the way to the Internet, and one in its own private network.
pub(super) const HOST: Ipv4Addr = Ipv4Addr::new(8, 8, 8, 1);
pub(super) const HOST_LAN: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
/// A server on the Internet.
pub(super) const PUBLIC: Ipv4Addr = Ipv4Addr::new(8, 8, 8, 8);
/// Others in the networks that the host is in: of a site, a provider, a cloud.
pub(super) const PRIVATE: [Ipv4Addr; 4] = [
    Ipv4Addr::new(192, 168, 77, 7),
    Ipv4Addr::new(10, 99, 0, 1),
    Ipv4Addr::new(172, 16, 9, 9),
    Ipv4Addr::new(100, 64, 9, 9),
];
/// Where clouds tell a machine its secrets.
pub(super) const METADATA: [Ipv4Addr; 4] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(192, 0, 0, 192),
];

/// By how much the server's own memory may be larger afterwards, in KiB.
const MEMORY_SLACK_KIB: u64 = 24 * 1024;
/// For what is expected to come, however busy the machine is.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// How long an answer is waited for that is not to come. A connection is asked for twice in this time.
pub(super) const SILENCE: Duration = Duration::from_millis(1500);

/// As attempts have it.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap()
}

/// A lease, and where its machine is in the network.
pub(super) struct Party {
    pub(super) machine: Machine,
    pub(super) address: Ipv4Addr,
    pub(super) tap: String,
}

pub(super) struct Stage {
    pub(super) victim: Party,
    pub(super) host: Place,
    pub(super) inside: Place,
    pub(super) outside: Place,
    /// The host's end of the way out, and the addresses of both ends.
    pub(super) uplink: String,
    pub(super) uplink_ends: [Ipv4Addr; 2],
    listeners: [(&'static str, Listener); 3],
    memory_before_kib: u64,
    server: TestServer,
}

impl Stage {
    /// With one lease, the victim's.
    pub(super) fn new() -> Self {
        Self::of(TestServer::builder())
    }

    /// The same with a server that is configured further.
    pub(super) fn of(builder: Builder) -> Self {
        let server = builder
            .set("http.listen", format!("0.0.0.0:{API_PORT}"))
            .set("http.tls.enabled", false)
            .set("http.allow_plaintext_on_network", true)
            .set("relay.listen_ip", "0.0.0.0")
            .set("relay.advertise", "127.0.0.1")
            .set("network.uplink", "veth")
            .set("network.nameservers", vec!["9.9.9.9"])
            .set("network.egress", vec!["internet", "none", "open"])
            .start();
        let namespace = server.host().namespace().unwrap();
        let (host, inside, outside) = (Place::here(), Place::named(&namespace), Place::new());
        join(&host, &outside);
        let uplink = namespace.replacen("rd-", "ru", 1);
        let uplink_ends = [
            address(&host.sh(&format!("ip -4 -o address show dev {uplink}"))),
            address(&inside.sh("ip -4 -o address show dev uplink")),
        ];
        let listeners = [
            ("on the host", host.listen()),
            ("inside", inside.listen()),
            ("outside", outside.listen()),
        ];
        let victim = lease(&server, &inside, Egress::Internet);
        Self {
            memory_before_kib: own_memory_kib(server.pid()),
            victim,
            host,
            inside,
            outside,
            uplink,
            uplink_ends,
            listeners,
            server,
        }
    }

    /// A lease whose holder means no good, with what they brought along.
    pub(super) fn attacker(&self, egress: Egress) -> Party {
        let attacker = lease(&self.server, &self.inside, egress);
        self.bring_probe(&attacker);
        attacker
    }

    pub(super) fn bring_probe(&self, party: &Party) {
        let docker = party.machine.docker();
        docker.ok(["import", self.probe().to_str().unwrap(), "probe"]);
    }

    /// The probe as an image that has nothing else.
    fn probe(&self) -> PathBuf {
        let archive = self.server.root().join("probe.tar");
        if !archive.exists() {
            let program = self.server.setting().probe();
            let mut tar = bounded(PATIENCE, "tar");
            tar.arg("-C").arg(program.parent().unwrap());
            succeed(
                tar.arg("-cf")
                    .arg(&archive)
                    .arg(program.file_name().unwrap()),
            );
        }
        archive
    }

    /// Ends the attacker's lease, so that there are never more than two machines.
    pub(super) fn dismiss(&self, attacker: &Party) {
        self.server.api().release(attacker.machine.id());
        self.server
            .wait_state(attacker.machine.id(), LeaseState::Ended);
    }

    /// Calls the witnesses for what this attacker does from now on.
    pub(super) fn watch(&self, attacker: &Party) -> Eyes {
        Eyes {
            attacker: Witness::of(&self.inside, &attacker.tap),
            victim: Witness::of(&self.inside, &self.victim.tap),
            uplink: Witness::of(&self.host, &self.uplink),
            outside: Witness::of(&self.outside, "eth0"),
        }
    }

    /// Makes the attempts, as root in the attacker's machine, all at once. When this returns, all that could
    /// arrive somewhere has arrived.
    pub(super) fn attack(
        &self,
        attacker: &Party,
        eyes: &Eyes,
        plan: &[Attempt],
    ) -> BTreeMap<String, Answer> {
        let plan_text = serde_json::to_string(plan).unwrap();
        let said = attacker.machine.docker().ok([
            "run",
            "--rm",
            "--privileged",
            "--network=host",
            "probe",
            "/attack-probe",
            &plan_text,
        ]);
        let outcomes: Vec<Outcome> = said
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
            .collect();
        assert_eq!(outcomes.len(), plan.len(), "{said}");
        // What the probe said came over the attacker's wire after all that it did. Of what went on by the uplink
        // this is the last.
        let last = "that was all";
        let socket = self.inside.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        eventually("the last word arrives outside", PATIENCE, || {
            socket.send_to(last.as_bytes(), (PUBLIC, 9)).unwrap();
            let arrived = eyes.outside.saw(|frame| says(&frame.bytes, last));
            arrived.then_some(()).ok_or("not yet")
        });
        outcomes
            .into_iter()
            .map(|outcome| (outcome.name, outcome.heard))
            .collect()
    }

    /// Where somebody heard these words.
    pub(super) fn heard(&self, word: &str) -> Option<&'static str> {
        let mut listeners = self.listeners.iter();
        let by = listeners.find(|(_, listener)| listener.heard(word));
        by.map(|(place, _)| *place)
    }

    /// Takes the packet filters out of the way, or puts them back as they were.
    pub(super) fn filters(&self, stand: bool) {
        let flags = if stand { "" } else { "{ flags dormant; }" };
        let uplink = &self.uplink;
        self.inside
            .sh(&format!("nft 'add table inet remote_dockerd {flags}'"));
        self.host.sh(&format!(
            "nft 'add table inet remote_dockerd_{uplink} {flags}'"
        ));
    }

    /// The other lease is served, and the server has not grown.
    pub(super) fn nobody_is_harmed(&self) {
        self.victim.machine.docker().ok(["version"]);
        let api = self.server.api();
        let lease = api.show(self.victim.machine.id(), 0).unwrap();
        assert_eq!(lease.state, LeaseState::Active, "{lease:?}");
        let (before, now) = (self.memory_before_kib, own_memory_kib(self.server.pid()));
        assert!(
            now < before + MEMORY_SLACK_KIB,
            "{before} KiB before, {now} now"
        );
    }
}

/// The host's way to the world, and the world.
fn join(host: &Place, outside: &Place) {
    host.sh(&format!(
        "ip link add wan type veth peer name eth0 netns {}
         ip address add {HOST}/24 dev wan
         ip address add {HOST_LAN}/32 dev lo
         ip link set wan up
         ip route add default via {PUBLIC}",
        outside.path()
    ));
    let far: String = PRIVATE
        .iter()
        .chain(&METADATA)
        .map(|address| format!("ip address add {address}/32 dev lo\n"))
        .collect();
    // Answers find their way also when the host hides nobody: then the guards are gone.
    outside.sh(&format!(
        "ip link set lo up
         ip address add {PUBLIC}/24 dev eth0
         ip link set eth0 up
         {far}ip route add 169.254.240.0/20 via {HOST}"
    ));
}

/// The address in a line of `ip -o address`.
fn address(line: &str) -> Ipv4Addr {
    let word = line.split_whitespace().nth(3);
    let address = word.and_then(|word| word.split('/').next()?.parse().ok());
    address.unwrap_or_else(|| panic!("no address in `{line}`"))
}

fn lease(server: &TestServer, inside: &Place, egress: Egress) -> Party {
    let key = ClientKey::generate();
    let mut request = key.request();
    request.egress = Some(egress);
    let lease = server.api().create(&request);
    let lease = lease.unwrap_or_else(|problem| panic!("no lease: {problem:?}"));
    let machine = server.hold(lease, &key);
    let name = machine.docker().ok(["info", "--format", "{{.Name}}"]);
    let tap = name.parse::<VmId>().unwrap().tap();
    let route = inside.sh(&format!("ip route show dev {tap}"));
    let address = route.split_whitespace().next().unwrap().parse().unwrap();
    Party {
        machine,
        address,
        tap,
    }
}

/// Where frames are seen.
pub(super) struct Eyes {
    /// What comes out of the attacker's machine, and what goes in.
    pub(super) attacker: Witness,
    /// The same of the victim's.
    pub(super) victim: Witness,
    /// What comes to the host.
    pub(super) uplink: Witness,
    /// What comes to the world behind it.
    pub(super) outside: Witness,
}

impl Eyes {
    /// Whether these words went out of the attacker's machine.
    pub(super) fn was_sent(&self, word: &str) -> bool {
        let like = |way, bytes: &[u8]| way == Way::In && says(bytes, word);
        self.attacker.saw(|frame| like(frame.way, &frame.bytes))
    }

    /// Where these words came to be seen, of all places where they have no business.
    pub(super) fn saw(&self, word: &str) -> Option<&'static str> {
        let places = [
            ("on the victim's wire", &self.victim, Way::Out),
            ("on the host", &self.uplink, Way::In),
            ("outside", &self.outside, Way::In),
        ];
        let by = places.iter().find(|(_, witness, way)| {
            witness.saw(|frame| frame.way == *way && says(&frame.bytes, word))
        });
        by.map(|(place, ..)| *place)
    }
}
