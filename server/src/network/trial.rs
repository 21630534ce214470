//! Makes once, in namespaces that vanish with their handles, what the VMs' network is made of. Nothing of it
//! ever shows in the host's own namespace, and no file and no mount is made.

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use super::open::settle;
use super::worker::Worker;
use super::{Namespace, NetworkConfig, NetworkError, Uplink, Wires, namespace, nft, rules, uplink};
use crate::config::MachineLimits;
use crate::ids::{InstallId, VmId};

/// The installation that is tried with. Its names are seen by nobody.
const INSTALL: InstallId = InstallId::from_bits(0);

/// What came of it.
#[derive(Debug)]
pub struct Trial {
    /// A namespace set up as that of VMs is, as far as that went; gone with this handle.
    pub namespace: Namespace,
    /// Its wires.
    pub wires: Wires,
    /// Kernel settings, packet filter and routes of the VMs' namespace.
    pub inside: Result<(), NetworkError>,
    /// A wire for a VM, which is a tap.
    pub wire: Result<(), NetworkError>,
    /// The pair of devices of an uplink, with the rules of the host for it.
    pub uplink: Result<(), NetworkError>,
}

/// Tries everything out; what fails keeps nothing else from being tried.
///
/// # Errors
/// When not even a namespace can be made, which takes root.
pub async fn try_out(guests: Ipv4Addr) -> Result<Trial, NetworkError> {
    let namespace = Namespace::unnamed()?;
    let in_the_place_of_the_host = Namespace::unnamed()?;
    let wires = Wires::new(&namespace)?;
    let host = Worker::start(
        "uplink",
        namespace::handle(in_the_place_of_the_host.object())?,
    )?;
    let config = NetworkConfig {
        install: INSTALL,
        guests,
        uplink: Uplink::default(),
        // Some address, so that the rules about name servers are tried as well.
        resolvers: vec![super::GATEWAY],
        allow: Vec::new(),
        reach_on_host: Vec::new(),
        limits: MachineLimits::default(),
    };
    Ok(Trial {
        inside: settle(wires.worker(), &config).await,
        wire: wires.attach_isolated(VmId::from_bits(0)).await,
        uplink: join(&host, &namespace).await,
        namespace,
        wires,
    })
}

async fn join(host: &Worker, inside: &Namespace) -> Result<(), NetworkError> {
    let object = namespace::handle(inside.object())?;
    let device = INSTALL.uplink();
    let rules = rules::host(rules::Host {
        table: rules::TABLE,
        device: &device,
        inner: super::GATEWAY,
        open: super::GATEWAY,
        resolvers: &[super::GATEWAY],
        allow: &[],
        on_host: &[],
    });
    host.configure(async move |handle| uplink::make(&handle, &device, object.as_raw_fd()).await)
        .await?;
    host.run(move || nft::load(&rules)).await?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::links;

    #[tokio::test]
    async fn a_trial_makes_all_parts_and_none_shows_in_the_namespace_of_the_caller() {
        let before = devices().await;
        let trial = try_out(Ipv4Addr::new(10, 213, 0, 0)).await.unwrap();
        trial.inside.unwrap();
        trial.wire.unwrap();
        trial.uplink.unwrap();
        let made = trial.wires.worker();
        let made = made.configure(async |handle| links::names(&handle).await);
        let made = made.await.unwrap();
        let wire = VmId::from_bits(0).tap();
        assert!(
            made.contains(&wire) && made.contains(rules::UPLINK),
            "{made:?}"
        );
        assert_eq!(devices().await, before);
    }

    async fn devices() -> std::collections::BTreeSet<String> {
        let here = Worker::start("here", namespace::current().unwrap()).unwrap();
        let names = here.configure(async |handle| links::names(&handle).await);
        let mut names = names.await.unwrap();
        // Those of servers of other tests come and go.
        names.retain(|name| !name.starts_with("ru") || *name == INSTALL.uplink());
        names
    }
}
