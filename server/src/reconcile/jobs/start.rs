//! Planned → Starting → Activating: puts a VM on the host.

use super::{Context, JobError, Outcome, Started, timing};
use crate::clock::random_bytes;
use crate::failpoint;
use crate::hypervisor::template::{Checked, TemplateError};
use crate::hypervisor::{Source, VmSpec};
use crate::image::ImageError;
use crate::lease::{DestroyReason, VmPhase, VmRow};
use crate::reconcile::Offer;

/// Starts a planned VM: as a clone of `template`, or cold.
pub(in super::super) async fn start(
    context: Context,
    vm: VmRow,
    offer: Offer,
    template: Option<Checked>,
) -> Outcome {
    let (id, key, cloned) = (vm.id, vm.key.clone(), template.is_some());
    let result = match run(&context, vm, offer, template).await {
        Ok(started) => Ok(started),
        Err((error, given_up)) => {
            let failed = context.failed(id, error).await;
            if let Some(vm) = given_up {
                context.give_up(&vm, DestroyReason::StartFailed).await;
            }
            Err(failed)
        }
    };
    Outcome::Started {
        vm: id,
        key,
        cloned,
        result,
    }
}

/// Fails with the VM that is to be given up, if it may be on the host.
async fn run(
    context: &Context,
    vm: VmRow,
    offer: Offer,
    template: Option<Checked>,
) -> Result<Started, (JobError, Option<VmRow>)> {
    let began_at = context.clock.now();
    let cloned = template.is_some();
    let generation_id = random_bytes().map_err(|error| (error.into(), None))?;
    let spec = VmSpec {
        id: vm.id,
        source: template.as_ref().map_or(Source::Cold, |template| {
            Source::Clone(template.files.clone())
        }),
        image: offer.image,
        vcpus: offer.vcpus,
        memory_mib: offer.memory_mib,
        address: Some(vm.slot.address(context.settings.guest_network)),
        slot: Some(vm.slot),
        generation_id: u128::from_ne_bytes(generation_id),
    };
    let starting = context.advance(&vm, VmPhase::Starting).await;
    let vm = starting.map_err(|error| (error, None))?;
    failpoint::hit("vm-starting");
    let started = async {
        offer.image_seen.check().map_err(ImageError::from)?;
        if let Some(template) = &template {
            template.seen.check().map_err(TemplateError::from)?;
        }
        Ok::<_, JobError>(context.hypervisor.start(&spec).await?)
    };
    let report = match started.await {
        Ok(report) => report,
        Err(error) => return Err((error, Some(vm))),
    };
    failpoint::hit("vm-started");
    let activating = context.advance(&vm, VmPhase::Activating).await;
    activating.map_err(|error| (error, None))?;
    failpoint::hit("vm-activating");
    let steps = report
        .steps
        .iter()
        .map(|step| timing(step.name, step.duration))
        .collect();
    Ok(Started {
        cloned,
        began_at,
        steps,
    })
}
