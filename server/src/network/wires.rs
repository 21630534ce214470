//! The wires: a tap for each VM, which is all that the VM is connected to.
//!
//! Every wire looks the same from inside a guest: the gateway is [`GATEWAY`] with [`GATEWAY_MAC`].
//! So a clone's network is right once it has its own address, whatever its template knew.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use remote_docker_api::Egress;
use rtnetlink::Handle;
use rtnetlink::packet_route::address::AddressScope;

use super::worker::Worker;
use super::{
    GATEWAY, GATEWAY_MAC, GUEST_MAC, Namespace, NetworkError, links, namespace, rules, tap,
};
use crate::ids::VmId;

/// Makes, removes and lists wires in one namespace. Clones are handles to the same worker.
#[derive(Debug, Clone)]
pub struct Wires {
    worker: Worker,
}

impl Wires {
    /// Starts the thread that works in the namespace.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn new(namespace: &Namespace) -> Result<Self, NetworkError> {
        let object = namespace::handle(namespace.object())?;
        Worker::start("wires", object).map(|worker| Self { worker })
    }

    pub(super) fn worker(&self) -> &Worker {
        &self.worker
    }

    /// Makes the VM's wire and leads the guest's address to it. May be called again with the same
    /// arguments, also to finish what a crash left half made.
    ///
    /// # Errors
    /// When the kernel refuses, or when the address leads to another VM's wire.
    pub async fn attach(&self, vm: VmId, address: Ipv4Addr) -> Result<(), NetworkError> {
        self.worker
            .configure(async move |handle| {
                let name = vm.tap();
                let index = plug(&handle, &name).await?;
                links::add_address(&handle, index, GATEWAY, 32, AddressScope::Link).await?;
                links::neighbour(&handle, index, address, GUEST_MAC).await?;
                links::route_to(&handle, (index, &name), address, GATEWAY).await
            })
            .await
    }

    /// Puts the VM's wire under a policy; a new wire is under [`Egress::None`]. The kernel keeps it with the
    /// wire: it goes when the wire goes, and neither the end of this server nor another set of rules changes
    /// it.
    ///
    /// # Errors
    /// When there is no such wire.
    pub async fn admit(&self, vm: VmId, egress: Egress) -> Result<(), NetworkError> {
        self.worker
            .configure(async move |handle| {
                let index = links::existing(&handle, &vm.tap()).await?;
                links::set_group(&handle, index, rules::group(egress)).await
            })
            .await
    }

    /// Makes a wire that leads nowhere, for a VM that has no address. Nothing answers on it and
    /// nothing is routed to or from it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn attach_isolated(&self, vm: VmId) -> Result<(), NetworkError> {
        self.worker
            .configure(async move |handle| plug(&handle, &vm.tap()).await.map(|_| ()))
            .await
    }

    /// Removes the VM's wire with all that belongs to it. Also right when there is none.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn detach(&self, vm: VmId) -> Result<(), NetworkError> {
        self.worker
            .configure(async move |handle| links::delete(&handle, &vm.tap()).await)
            .await
    }

    /// Whether the VM has a wire.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub async fn has(&self, vm: VmId) -> Result<bool, NetworkError> {
        self.worker
            .configure(async move |handle| Ok(links::index(&handle, &vm.tap()).await?.is_some()))
            .await
    }

    /// The VMs that have a wire.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub async fn list(&self) -> Result<BTreeSet<VmId>, NetworkError> {
        let names = self
            .worker
            .configure(async |handle| links::names(&handle).await)
            .await?;
        Ok(names
            .iter()
            .filter_map(|name| VmId::from_tap(name))
            .collect())
    }
}

/// A tap that is switched on. Its addresses and filters come from the namespace's defaults, which
/// are in force before the first wire is made.
async fn plug(handle: &Handle, name: &str) -> Result<u32, NetworkError> {
    let index = match links::index(handle, name).await? {
        Some(index) => index,
        None => {
            tap::create(name).map_err(NetworkError::system(format!("make tap {name}")))?;
            links::existing(handle, name).await?
        }
    };
    links::up(handle, index, Some(GATEWAY_MAC)).await?;
    Ok(index)
}
