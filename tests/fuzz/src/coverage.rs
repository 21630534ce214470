//! Which branches an input took. The compiler's sanitizer pass puts a counter of one byte on each branch and
//! tells where they are; see `make fuzz`. Without that pass there are none, and nothing here is called.

use std::sync::Mutex;

/// A run of counters; there is one for each part that was compiled by itself.
#[derive(Debug, Clone, Copy)]
struct Counters {
    start: usize,
    length: usize,
}

static ALL: Mutex<Vec<Counters>> = Mutex::new(Vec::new());

/// Called by compiled code before `main`, with the first counter of a part and the end of it.
///
/// # Safety
/// Only that code may call it: both ends must be those of a run of bytes that is there for ever.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut u8, stop: *mut u8) {
    let (start, stop) = (start as usize, stop as usize);
    if let Ok(mut all) = ALL.lock()
        && stop > start
        && !all.iter().any(|known| known.start == start)
    {
        all.push(Counters {
            start,
            length: stop - start,
        });
    }
}

/// Called like the above; of no use here.
#[unsafe(no_mangle)]
pub extern "C" fn __sanitizer_cov_pcs_init(_start: *const usize, _stop: *const usize) {}

/// What has been seen of all branches so far.
#[derive(Debug, Default)]
pub struct Seen(Vec<u8>);

impl Seen {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many counters there are; 0 without the pass.
    #[must_use]
    pub fn counters() -> usize {
        ALL.lock()
            .map_or(0, |all| all.iter().map(|part| part.length).sum())
    }

    /// How many branches have been taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.0.iter().filter(|seen| **seen != 0).count()
    }

    /// Numbers of the branches that have been taken.
    pub fn places(&self) -> impl Iterator<Item = usize> {
        let taken = self.0.iter().enumerate().filter(|(_, seen)| **seen != 0);
        taken.map(|(place, _)| place)
    }

    /// Takes over what was counted since the last call and begins anew. Tells whether a branch was taken
    /// for the first time, or about twice as often as ever before.
    pub fn take(&mut self) -> bool {
        let Ok(all) = ALL.lock() else { return false };
        self.0.resize(all.iter().map(|part| part.length).sum(), 0);
        let mut seen = self.0.as_mut_slice();
        let mut is_new = false;
        for part in all.iter() {
            // SAFETY: the compiled code told so at its start; other threads may write into it meanwhile, so
            // that a count may be off by some, which decides nothing but whether an input is kept.
            let counters =
                unsafe { std::slice::from_raw_parts_mut(part.start as *mut u8, part.length) };
            let (own, rest) = seen.split_at_mut(part.length);
            seen = rest;
            for (counters, seen) in counters.chunks_mut(64).zip(own.chunks_mut(64)) {
                if counters.iter().all(|count| *count == 0) {
                    continue;
                }
                for (count, seen) in counters.iter_mut().zip(seen) {
                    if *count != 0 {
                        // One bit for each power of two.
                        let bit = 1_u8 << (7 - count.leading_zeros().min(7));
                        is_new |= *seen & bit == 0;
                        *seen |= bit;
                        *count = 0;
                    }
                }
            }
        }
        is_new
    }
}
