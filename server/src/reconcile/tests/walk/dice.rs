//! Numbers that look random and are the same for the same seed (SplitMix64, Steele et al. 2014).

pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// One of 0 to `count` - 1.
    pub(super) fn below(&mut self, count: u64) -> u64 {
        self.bits() % count
    }

    pub(super) fn between(&mut self, first: u32, last: u32) -> u32 {
        let count = u64::from(last - first) + 1;
        first + u32::try_from(self.below(count)).unwrap()
    }

    pub(super) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(super) fn choose<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }

    /// Up to `most`; a number of half the size is as likely as one of half that.
    pub(super) fn of_any_size(&mut self, most: u32) -> u32 {
        let most = most >> self.below(u64::from(most.ilog2()) + 1);
        self.between(0, most)
    }

    /// One of those that are there.
    pub(super) fn pick<T>(&mut self, from: impl IntoIterator<Item = T>) -> Option<T> {
        let mut from: Vec<T> = from.into_iter().collect();
        if from.is_empty() {
            return None;
        }
        let index = self.below(from.len() as u64);
        Some(from.swap_remove(usize::try_from(index).unwrap()))
    }
}
