//! A bare machine in somebody's hands: with an identity and keys of its own and asked over TLS, and still without a
//! server, libvirt or a network that leads anywhere. What it does is what every lease has its guest do.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use guest_protocol::{Activated, Activation, Call, DOCKER_PORT, Live, Reply};
use remote_dockerd::clock::{Clock, SystemClock};
use remote_dockerd::ids::VmId;
use remote_dockerd::network::{GATEWAY, GATEWAY_MAC, GUEST_MAC};
use remote_dockerd::pki::{SanName, VmCa};

use super::{Bare, LIMIT, Machine, Start};
use crate::https::{self, Credentials};
use crate::machine::ClientKey;
use crate::process::{bounded, succeed};

/// The guest's address, of those that RFC 2544 sets aside for measurements.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// How long the certificates are good.
const GOOD_FOR: Duration = Duration::from_secs(3600);

/// How long a machine took, from the moment at which QEMU was started.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    /// Until the guest was a machine of its own.
    pub activated: Duration,
    /// Until it listened for its holder.
    pub serving: Duration,
    /// Until its Docker daemon had answered its holder.
    pub whole: Duration,
    /// Blocks of instructions that QEMU had translated by each of the three; `None` where nobody counted.
    pub translated: Option<[u64; 3]>,
}

impl Bare {
    /// Runs a clone until its Docker daemon has answered over TLS. To count takes time, so who counts measures nothing.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn hold(&self, is_counted: bool) -> Held {
        // Whoever asks for a lease has made the key before, and the server an authority beside other work.
        let key = ClientKey::generate();
        let now = SystemClock.wall();
        let ca = VmCa::generate(VmId::from_bits(1), now, now + GOOD_FOR).expect("an authority");
        let mut machine = self.start(Start::Clone);
        let mut translated = Vec::new();
        let mut count = |machine: &mut Machine| {
            if is_counted {
                translated.extend(machine.monitor.translated());
            }
        };

        let activated = activate(&mut machine);
        let activated_after = machine.begun.elapsed();
        count(&mut machine);

        let names = [
            SanName::Ip(ADDRESS.into()),
            SanName::Dns(activated.hostname),
        ];
        let certificate = ca.sign_server(&activated.csr_pem, &names, now, now + GOOD_FOR);
        let served = machine.agent.ask(Call::Serve {
            cert_pem: certificate.expect("a certificate"),
            client_ca_pem: ca.ca_pem(),
        });
        assert!(matches!(served, Reply::Serving), "{served:?}");
        let serving = machine.begun.elapsed();
        count(&mut machine);

        let certificate = ca.sign_client(&key.csr_pem, "bare", now, now + GOOD_FOR);
        let credentials = Credentials {
            ca: &ca.ca_pem(),
            certificate: &certificate.expect("a certificate"),
            key: &key.pem(),
        };
        let place = SocketAddr::from((ADDRESS, DOCKER_PORT));
        let status = https::get(place, credentials, "/_ping");
        assert!(status.starts_with("HTTP/1.1 200 "), "{status}");
        let whole = machine.begun.elapsed();
        count(&mut machine);
        Held {
            activated: activated_after,
            serving,
            whole,
            translated: translated.try_into().ok(),
        }
    }
}

/// The host's end of the guest's card, as the server makes it.
pub(super) fn lay_wire(tap: &str) {
    let ip = |line: &str| succeed(bounded(LIMIT, "ip").args(line.split(' ')));
    let mac = |bytes: [u8; 6]| bytes.map(|byte| format!("{byte:02x}")).join(":");
    ip(&format!("link set {tap} address {} up", mac(GATEWAY_MAC)));
    ip(&format!("address add {GATEWAY}/32 dev {tap}"));
    ip(&format!("route add {ADDRESS}/32 dev {tap}"));
    let guest = mac(GUEST_MAC);
    ip(&format!("neighbour add {ADDRESS} lladdr {guest} dev {tap}"));
}

fn activate(machine: &mut Machine) -> Activated {
    let now = SystemClock.wall().unix_timestamp_nanos();
    let order = Activation {
        hostname: "bare".into(),
        machine_id: "b".repeat(32),
        address: ADDRESS,
        gateway: GATEWAY,
        gateway_mac: GATEWAY_MAC,
        nameservers: vec![],
        unix_time_ns: u64::try_from(now).expect("a time in this era"),
        entropy_hex: "be".repeat(64),
        expect_reseed: true,
        site: Live::default(),
    };
    match machine.agent.ask(Call::Activate(Box::new(order))) {
        Reply::Activated(activated) => *activated,
        other => panic!("the agent: {other:?}"),
    }
}
