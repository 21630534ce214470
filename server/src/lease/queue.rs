//! In which order waiting leases are served.

use std::collections::BTreeMap;

use super::quiet::Quiet;
use super::{LeasePhase, LeaseRow};

/// Those of `lasting` that wait, the next to be served first; `lasting` are the leases that wait or
/// are active and do not end now, together with the quiet ones.
///
/// The first lease of each project goes before the second of any, and so on, counting those that have
/// their machine: no project with a thousand jobs keeps the others waiting. Leases that are equal in
/// that are served in the order in which they were asked for, and so are those of one project. Being
/// served changes nobody's place.
pub(super) fn in_turn<'a>(
    lasting: impl Iterator<Item = &'a LeaseRow>,
    quiet: &Quiet,
) -> Vec<&'a LeaseRow> {
    let mut lasting: Vec<_> = lasting.collect();
    lasting.sort_by_key(|lease| (lease.created_at, lease.id));
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut waiting: Vec<(usize, &LeaseRow)> = Vec::new();
    for lease in lasting {
        let count = counts.entry(lease.project.as_str()).or_default();
        *count += 1;
        if lease.phase == LeasePhase::Waiting {
            waiting.push((*count + quiet.before(lease), lease));
        }
    }
    // Stable: equals stay in the order in which they were asked for.
    waiting.sort_by_key(|(count, _)| *count);
    waiting.into_iter().map(|(_, lease)| lease).collect()
}
