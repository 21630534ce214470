//! Builds a template.

use super::{Context, Outcome};
use crate::clock::random_bytes;
use crate::hypervisor::template::{BuildOrder, TemplateKey, Templates};
use crate::ids::VmId;
use crate::image::ImageError;
use crate::lease::PoolKey;
use crate::reconcile::Offer;

/// Boots the image of `offer` as `vm` and makes it the template of `key`.
pub(in super::super) async fn build_template(
    context: Context,
    templates: Templates,
    vm: VmId,
    key: PoolKey,
    offer: Offer,
) -> Outcome {
    let result = async {
        offer.image_seen.check().map_err(ImageError::from)?;
        let generation_id = u128::from_ne_bytes(random_bytes()?);
        let template_key = template_key(&context, &offer);
        let image = offer.image;
        let order = BuildOrder {
            vm,
            generation_id,
            site: &context.settings.site,
        };
        Ok(templates
            .build(&context.hypervisor, &template_key, image, order)
            .await?)
    }
    .await;
    Outcome::TemplateBuilt { key, result }
}

/// What the template of `offer` depends on, on this host.
pub(in super::super) fn template_key(context: &Context, offer: &Offer) -> TemplateKey {
    let host = context.hypervisor.host().clone();
    TemplateKey::new(
        offer.image_digest.clone(),
        offer.image.disk.clone(),
        offer.vcpus,
        offer.memory_mib,
        host,
        &context.settings.site.fixed,
    )
}
