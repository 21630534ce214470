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
    let by_seeds = (target.seeds)()
        .iter()
        .flat_map(|seed| branches(target, seed))
        .collect();
    let taken = inputs.into_iter().map(|input| {
        let taken = branches(target, &input);
        (input, taken)
    });
    cover(taken, by_seeds)
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

/// Those whose sets together hold what all do and `known` does not: first each that adds something, then without
/// those that later ones have made needless.
fn cover<T>(
    sets: impl IntoIterator<Item = (T, BTreeSet<usize>)>,
    known: BTreeSet<usize>,
) -> Vec<T> {
    let mut held = known.clone();
    let mut chosen: Vec<(T, BTreeSet<usize>)> = Vec::new();
    for (one, set) in sets {
        if !set.is_subset(&held) {
            held.extend(&set);
            chosen.push((one, set));
        }
    }
    let mut place = 0;
    while place < chosen.len() {
        let (one, set) = chosen.remove(place);
        let mut others = known.clone();
        for (_, other) in &chosen {
            others.extend(other);
        }
        if !set.is_subset(&others) {
            chosen.insert(place, (one, set));
            place += 1;
        }
    }
    chosen.into_iter().map(|(one, _)| one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_do_as_well_is_not_kept() {
        let sets = [&[1][..], &[1, 2], &[3], &[2, 3], &[9]];
        let numbered = || {
            let sets = sets.iter().map(|set| set.iter().copied().collect());
            (0..).zip(sets)
        };
        assert_eq!(cover(numbered(), [9].into()), [1, 2]);
        assert_eq!(cover(numbered(), BTreeSet::new()), [1, 2, 4]);
        let all = cover(numbered(), [1, 2, 3, 9].into());
        assert!(all.is_empty(), "{all:?}");
    }
}
