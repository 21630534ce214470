//! Chooses the few inputs that are worth keeping: together with the seeds they take every branch that all of
//! them take.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::Target;
use crate::coverage::Seen;

/// Those of `inputs` that are to be kept, the short ones first. Without counted branches none is.
#[must_use]
pub fn distil(target: &Target, mut inputs: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    inputs.sort_by_key(Vec::len);
    let taken: Vec<BTreeSet<usize>> = inputs.iter().map(|input| branches(target, input)).collect();
    let by_seeds = (target.seeds)()
        .iter()
        .flat_map(|seed| branches(target, seed))
        .collect();
    let chosen = cover(&taken, by_seeds);
    chosen
        .into_iter()
        .map(|place| inputs[place].clone())
        .collect()
}

fn branches(target: &Target, input: &[u8]) -> BTreeSet<usize> {
    // What was counted before is not this one's.
    Seen::new().take();
    // One that fails is told by the run, not here.
    let _ = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    let mut seen = Seen::new();
    seen.take();
    seen.places().collect()
}

/// Places of sets that together hold what all do and `known` does not: first each that adds something, then
/// without those that later ones have made needless.
fn cover(sets: &[BTreeSet<usize>], known: BTreeSet<usize>) -> Vec<usize> {
    let mut held = known.clone();
    let mut chosen = Vec::new();
    for (place, set) in sets.iter().enumerate() {
        if !set.is_subset(&held) {
            held.extend(set);
            chosen.push(place);
        }
    }
    for candidate in chosen.clone() {
        let mut others = known.clone();
        let rest = chosen.iter().filter(|place| **place != candidate);
        rest.for_each(|place| others.extend(&sets[*place]));
        if sets[candidate].is_subset(&others) {
            chosen.retain(|place| *place != candidate);
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_do_as_well_is_not_kept() {
        let sets =
            [&[1][..], &[1, 2], &[3], &[2, 3], &[9]].map(|set| set.iter().copied().collect());
        assert_eq!(cover(&sets, [9].into()), [1, 2]);
        assert_eq!(cover(&sets, BTreeSet::new()), [1, 2, 4]);
        assert!(cover(&sets, [1, 2, 3, 9].into()).is_empty());
    }
}
