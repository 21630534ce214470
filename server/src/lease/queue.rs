//! In which order waiting leases are served.

use std::collections::BTreeMap;

use super::{LeasePhase, LeaseRow};

/// Sorts leases that wait, the next to be served first: the oldest of each project in turn, and a
/// project that has fewer machines goes before one that has more, so that no project with a thousand
/// jobs keeps the others waiting. Within a project, and with one project only, it is the order in
/// which they were asked for.
pub(super) fn sort(waiting: &mut Vec<&LeaseRow>, all: &[LeaseRow]) {
    let mut shares: BTreeMap<&str, usize> = BTreeMap::new();
    for lease in all {
        if matches!(lease.phase, LeasePhase::Active(_)) {
            *shares.entry(lease.project.as_str()).or_default() += 1;
        }
    }
    waiting.sort_by_key(|lease| (lease.created_at, lease.id));
    let mut ranked: Vec<(usize, &LeaseRow)> = waiting
        .drain(..)
        .map(|lease| {
            let share = shares.entry(lease.project.as_str()).or_default();
            *share += 1;
            (*share, lease)
        })
        .collect();
    // Stable: equals stay in the order in which they were asked for.
    ranked.sort_by_key(|(share, _)| *share);
    waiting.extend(ranked.into_iter().map(|(_, lease)| lease));
}
