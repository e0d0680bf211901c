//! The watermark of a pool: from there on it counts as nearly full, until use has fallen well below it again.

use std::sync::atomic::{AtomicBool, Ordering};

/// Use falls so much below the watermark, in percent of the pool, before the pool counts as having room again.
const RELIEF: f64 = 5.0;

/// Whether a pool is nearly full that is `percent` full, and `was` nearly full before or not; `mark` is its watermark in
/// percent.
pub fn is_near_full(was: bool, mark: u8, percent: f64) -> bool {
    let mark = f64::from(mark);
    percent >= if was { mark - RELIEF } else { mark }
}

/// What was last seen.
#[derive(Debug, Default)]
pub(super) struct Watermark {
    over: AtomicBool,
}

impl Watermark {
    /// See [`is_near_full`].
    pub(super) fn is_reached(&self, mark: u8, percent: f64) -> bool {
        let over = is_near_full(self.over.load(Ordering::Relaxed), mark, percent);
        self.over.store(over, Ordering::Relaxed);
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_that_was_nearly_full_has_room_again_only_well_below_its_watermark() {
        let mark = Watermark::default();
        let steps = [(89.99, false), (90.0, true), (86.0, true), (85.0, true), (84.99, false), (86.0, false)];
        for (percent, near_full) in steps {
            assert_eq!(mark.is_reached(90, percent), near_full, "{percent}");
        }
    }
}
