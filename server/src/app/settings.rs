//! What the configuration means to the parts of the server.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use super::AppError;
use super::host::{disk_reserve_bytes, memory_budget_mib};
use crate::access::Projects;
use crate::calendar::Calendar;
use crate::config::{self, Config, Uplink as UplinkChoice};
use crate::http::{Catalogue, CatalogueError, EngineOffer};
use crate::hypervisor::{AcceleratorChoice, GroupLimits, UidChoice};
use crate::image::Image;
use crate::lease::{Budget, Policy, PoolKey};
use crate::network::host_resolvers;
use crate::pki::SanName;
use crate::reconcile::{Offer, Settings, Watching};

/// How long the hypervisor may take to start a VM, in seconds. Seconds are normal where clones work;
/// a host that swaps takes longer.
const START_DEADLINE_S: i64 = 120;

/// How long a started VM may take to become ready, in seconds: a cold boot without hardware
/// virtualization, with room.
const ACTIVATE_DEADLINE_S: i64 = 240;

/// How long a ready VM may wait for its lease, in seconds: its certificate is good for much longer.
const READY_MAX_AGE_S: i64 = 6 * 3600;

/// After how many starts in a row that failed a waiting lease is given up.
const START_ATTEMPTS: usize = 3;

/// How long before its end the holder of a lease is warned, in seconds.
const WARN_BEFORE_S: i64 = 60;

/// How guests' instructions are to be carried out.
pub(crate) fn accelerator_choice(config: &Config) -> AcceleratorChoice {
    match config.hypervisor.accelerator {
        config::AcceleratorChoice::Auto => AcceleratorChoice::Auto,
        config::AcceleratorChoice::Kvm => AcceleratorChoice::Kvm,
        config::AcceleratorChoice::Tcg => AcceleratorChoice::Tcg,
    }
}

/// What the kernel is to hold each QEMU to.
pub(super) fn group_limits(config: &Config) -> Option<GroupLimits> {
    let groups = &config.hypervisor.control_groups;
    groups.enabled.then_some(GroupLimits {
        memory_overhead_mib: groups.memory_overhead_mib,
        max_tasks: groups.max_tasks,
        extra_cpu_percent: groups.extra_cpu_percent,
    })
}

/// Which users QEMU is to run as.
pub(crate) fn uid_choice(config: &Config) -> UidChoice {
    match config.hypervisor.qemu_uids {
        config::QemuUids::Auto => UidChoice::Auto,
        config::QemuUids::Shared => UidChoice::Shared,
        config::QemuUids::Range { first, last } => UidChoice::Range { first, last },
    }
}

/// Checks that all engines, sizes and pools of the configuration can be had.
///
/// # Errors
/// With the first that cannot.
pub(crate) fn check_offers(
    config: &Config,
    images: &[Image],
    budget_mib: u64,
) -> Result<(), AppError> {
    let catalogue = catalogue(config, images)?;
    calendar(config, &catalogue, budget_mib).map(|_| ())
}

pub(super) fn catalogue(config: &Config, images: &[Image]) -> Result<Catalogue, CatalogueError> {
    let engines = images
        .iter()
        .map(|image| EngineOffer {
            name: image.engine.clone(),
            version: image.engine_version.clone(),
        })
        .collect();
    let default_engine = config.default_engine.as_deref();
    Catalogue::new(
        engines,
        default_engine,
        config.sizes.clone(),
        &config.default_size,
    )?
    .with_aliases(&config.engine_aliases)
}

/// The name servers that guests are told: the configured ones, else those of the host.
pub(crate) fn nameservers(config: &Config) -> Vec<Ipv4Addr> {
    if config.network.uplink == UplinkChoice::None {
        return Vec::new();
    }
    if config.network.nameservers.is_empty() {
        host_resolvers()
    } else {
        config.network.nameservers.clone()
    }
}

/// What the reconciler goes by.
///
/// # Errors
/// When images, pools or the host do not allow what is configured.
pub(super) fn settings(
    config: &Config,
    images: &[Image],
    catalogue: &Catalogue,
    nameservers: Vec<Ipv4Addr>,
) -> Result<Settings, AppError> {
    let offers: BTreeMap<PoolKey, Offer> = images
        .iter()
        .flat_map(|image| {
            config
                .sizes
                .iter()
                .map(move |(name, size)| (image, name, size))
        })
        .map(|(image, name, size)| {
            let key = PoolKey {
                engine: image.engine.clone(),
                size: name.clone(),
            };
            let offer = Offer {
                image_digest: image.digest.clone(),
                image: image.files.clone(),
                image_seen: image.seen.clone(),
                vcpus: size.vcpus,
                memory_mib: size.memory_mib,
            };
            (key, offer)
        })
        .collect();
    let budget_mib = memory_budget_mib(config)?;
    let disk_reserve_bytes = disk_reserve_bytes(config, &config.state_dir)?;
    let mut server_names = vec![SanName::from_host(&config.relay.advertised_host())];
    // People on this host type either.
    if config.relay.listen_ip.is_loopback() {
        server_names.push(SanName::from_host("localhost"));
    }
    Ok(Settings {
        policy: Policy {
            budget: Budget {
                memory_mib: budget_mib,
                slots: config.limits.max_vms,
            },
            sizes: offers
                .iter()
                .map(|(key, offer)| (key.clone(), offer.memory_mib))
                .collect(),
            quotas: Projects::new(config).quotas(),
            // The calendar says.
            targets: BTreeMap::new(),
            prebuild: BTreeSet::from([catalogue.default_key()]),
            start_deadline: time::Duration::seconds(START_DEADLINE_S),
            activate_deadline: time::Duration::seconds(ACTIVATE_DEADLINE_S),
            surplus_after: time::Duration::seconds(config.machines.spare_s.into()),
            ready_max_age: time::Duration::seconds(READY_MAX_AGE_S),
            start_attempts: START_ATTEMPTS,
            warn_before: time::Duration::seconds(WARN_BEFORE_S),
            disk_reserve_bytes,
        },
        calendar: calendar(config, catalogue, budget_mib)?,
        offers,
        guest_network: config.network.guest_network.base(),
        nameservers,
        site: Arc::new(config.site.for_guests()?),
        ports: config.relay.ports.as_range(),
        server_names,
        longest_lease: Duration::from_secs(config.lease.max_ttl_s.into()),
        templates: config.hypervisor.templates,
        watching: Watching {
            period: Duration::from_secs(config.machines.watch_every_s.into()),
            ..Watching::default()
        },
        drain: config.shutdown.drain(),
    })
}

/// When how many machines are to be ready.
pub(super) fn calendar(
    config: &Config,
    catalogue: &Catalogue,
    budget_mib: u64,
) -> Result<Calendar, AppError> {
    let pools = (1..).zip(&config.pool).map(|(place, pool)| {
        let key = catalogue.resolve(pool.engine.as_deref(), pool.size.as_deref());
        let key = key.map_err(|source| AppError::Pool { place, source })?;
        Ok((key, pool.clone()))
    });
    let calendar = Calendar::new(pools.collect::<Result<Vec<_>, AppError>>()?)?;
    let memory_mib = |(key, count): (&PoolKey, &u32)| {
        let size = config.sizes.get(&key.size);
        size.map_or(0, |size| u64::from(size.memory_mib) * u64::from(*count))
    };
    let needed_mib = calendar.peaks().iter().map(memory_mib).sum();
    if needed_mib > budget_mib {
        return Err(AppError::PoolsTooLarge {
            needed_mib,
            budget_mib,
        });
    }
    Ok(calendar)
}

#[cfg(test)]
mod tests;
