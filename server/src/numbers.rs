//! Sets of ports and of slots: numbers of which the lowest that is free is wanted again and again.

use std::ops::RangeInclusive;

const BITS: u16 = 64;

/// A set of numbers of 16 bits. It always takes 8 KiB, and finds a gap in a microsecond.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Numbers(Vec<u64>);

impl Default for Numbers {
    fn default() -> Self {
        Self(vec![0; usize::from(u16::MAX / BITS) + 1])
    }
}

impl Numbers {
    /// Whether it was not in the set before.
    pub(crate) fn insert(&mut self, number: u16) -> bool {
        let (word, bit) = self.place(number);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    pub(crate) fn remove(&mut self, number: u16) {
        let (word, bit) = self.place(number);
        *word &= !bit;
    }

    /// The lowest of `range` that is not in the set.
    pub(crate) fn lowest_free(&self, range: RangeInclusive<u16>) -> Option<u16> {
        if range.is_empty() {
            return None;
        }
        let (first, last) = range.into_inner();
        (first / BITS..=last / BITS).find_map(|index| {
            let below = if index == first / BITS {
                (1 << (first % BITS)) - 1
            } else {
                0
            };
            let free = (!(self.0[usize::from(index)] | below)).trailing_zeros();
            // Less than 64, as some bit is set.
            let found = u16::try_from(free).ok().filter(|free| *free < BITS)? + index * BITS;
            (found <= last).then_some(found)
        })
    }

    fn place(&mut self, number: u16) -> (&mut u64, u64) {
        (
            &mut self.0[usize::from(number / BITS)],
            1 << (number % BITS),
        )
    }
}

impl FromIterator<u16> for Numbers {
    fn from_iter<I: IntoIterator<Item = u16>>(numbers: I) -> Self {
        let mut set = Self::default();
        for number in numbers {
            set.insert(number);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_finds_what_a_look_at_each_number_finds(
            taken in prop::collection::btree_set(0_u16..400, 0..400),
            given_back in prop::collection::vec(0_u16..400, 0..20),
            first in 0_u16..400,
            length in 0_u16..400,
        ) {
            let mut numbers: Numbers = taken.iter().copied().collect();
            let mut expected: BTreeSet<u16> = taken;
            for number in given_back {
                numbers.remove(number);
                expected.remove(&number);
            }
            let range = first..=first + length;
            let free = range.clone().find(|number| !expected.contains(number));
            prop_assert_eq!(numbers.lowest_free(range), free);
            if let Some(free) = free {
                prop_assert!(numbers.insert(free));
                prop_assert!(!numbers.insert(free));
            }
        }
    }

    #[test]
    fn the_ends_are_numbers_like_all_others() {
        let mut numbers: Numbers = (0..=u16::MAX).collect();
        assert_eq!(numbers.lowest_free(0..=u16::MAX), None);
        numbers.remove(u16::MAX);
        assert_eq!(numbers.lowest_free(0..=u16::MAX), Some(u16::MAX));
        assert_eq!(numbers.lowest_free(0..=u16::MAX - 1), None);
        numbers.remove(0);
        assert_eq!(numbers.lowest_free(0..=u16::MAX), Some(0));
        let (first, last) = (9, 8);
        assert_eq!(Numbers::default().lowest_free(first..=last), None);
    }
}
