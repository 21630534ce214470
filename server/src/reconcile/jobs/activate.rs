//! Activating → Ready: makes a running VM a machine of its own, or gives it up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use guest_protocol::Activation;
use time::OffsetDateTime;

use super::{Context, JobError, Keyed, Outcome, Started, timing};
use crate::clock::random_bytes;
use crate::failpoint;
use crate::guest::{Identity, Link, check_identity, ssh_host_key};
use crate::hypervisor::template::BOOT_LIMIT;
use crate::lease::{DestroyReason, VmPhase, VmRow};
use crate::network::{GATEWAY, GATEWAY_MAC};
use crate::pki::{SanName, VmCa};

const ACTIVATE_LIMIT: Duration = Duration::from_secs(20);
const SERVE_LIMIT: Duration = Duration::from_secs(10);

/// How much longer than the longest lease the certificates of a machine are good: a ready machine
/// may wait for its lease.
const CERTIFICATE_MARGIN: Duration = Duration::from_secs(7 * 24 * 3600);

/// Gives a started VM its identity and lets it listen for its holder.
pub(in super::super) async fn activate(context: Context, vm: VmRow, started: Started) -> Outcome {
    let (id, key, cloned) = (vm.id, vm.key.clone(), started.cloned);
    let result = match run(&context, &vm, started).await {
        Ok(ready) => Ok(Box::new(ready)),
        Err(error) => {
            let failed = context.failed(id, error).await;
            context.give_up(&vm, DestroyReason::ActivationFailed).await;
            Err(failed)
        }
    };
    Outcome::Activated {
        vm: id,
        key,
        cloned,
        result,
    }
}

async fn run(context: &Context, vm: &VmRow, started: Started) -> Result<(Keyed, Link), JobError> {
    let settings = &context.settings;
    let mut steps = started.steps;
    let mut lap = Instant::now();
    let mut lap_done = |name: &str, lap: &mut Instant| {
        steps.push(timing(name, lap.elapsed()));
        *lap = Instant::now();
    };

    let channel = context.hypervisor.channel(vm.id).await?;
    let mut link = Link::new(channel, u32::from_ne_bytes(random_bytes()?));
    if !started.cloned {
        link.wait_ready(BOOT_LIMIT, &settings.site).await?;
        lap_done("boot", &mut lap);
    }

    // What others read goes by the clocks that they have.
    let now = context.clock.wall();
    let until = now + settings.longest_lease + CERTIFICATE_MARGIN;
    let ca = VmCa::generate(vm.id, now, until)?;
    let wanted = Identity {
        hostname: vm.id.to_string(),
        machine_id: vm.id.machine_id(),
        address: vm.slot.address(settings.guest_network),
        must_reseed: started.cloned,
        has_site: !settings.site.live.is_default(),
    };
    let asked_at = context.clock.now();
    let asked_ns = unix_ns(context.clock.wall());
    let activation = Activation {
        hostname: wanted.hostname.clone(),
        machine_id: wanted.machine_id.clone(),
        address: wanted.address,
        gateway: GATEWAY,
        gateway_mac: GATEWAY_MAC,
        nameservers: settings.nameservers.clone(),
        unix_time_ns: asked_ns,
        entropy_hex: hex(&random_bytes::<64>()?),
        expect_reseed: started.cloned,
        site: settings.site.live.clone(),
    };
    let found = link.activate(activation, ACTIVATE_LIMIT).await?;
    // Counted in server time: the guest knows nothing of a host's clock that is set meanwhile.
    let took = (context.clock.now() - asked_at).whole_nanoseconds();
    let answered_ns = asked_ns.saturating_add(u64::try_from(took).unwrap_or_default());
    check_identity(&wanted, &found, asked_ns, answered_ns)?;
    lap_done("activate", &mut lap);
    failpoint::hit("vm-activated");

    let mut names = settings.server_names.clone();
    names.push(SanName::Ip(wanted.address.into()));
    names.push(SanName::Dns(wanted.hostname));
    let certificate = ca.sign_server(&found.csr_pem, &names, now, until)?;
    link.serve(certificate, ca.ca_pem(), SERVE_LIMIT).await?;
    lap_done("serve", &mut lap);

    context.advance(vm, VmPhase::Ready).await?;
    failpoint::hit("vm-ready");
    Ok((
        Keyed {
            ca: Arc::new(ca),
            ssh_host_key: ssh_host_key(&found),
            began_at: started.began_at,
            steps,
        },
        link,
    ))
}

/// Nanoseconds since 1970; a clock before that reads as 1970 and fails the check of the skew.
fn unix_ns(time: OffsetDateTime) -> u64 {
    u64::try_from(time.unix_timestamp_nanos()).unwrap_or_default()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
