//! Numbers of disposables that are free, but were somebody's not long ago.
//!
//! A number shows in the VM's address and name: whoever still knows the old ones should not find a new VM there.
//! This is remembered for as long as the daemon runs.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::ids::Dispid;

/// For so long a number rests.
const REST: Duration = Duration::from_secs(7 * 24 * 3600);

#[derive(Debug, Default)]
pub(super) struct Rested(Mutex<Numbers>);

#[derive(Debug, Default)]
struct Numbers {
    /// Oldest first.
    since: VecDeque<(Instant, Dispid)>,
    all: imbl::OrdSet<Dispid>,
}

impl Rested {
    /// A disposable with this number is gone.
    pub(super) fn add(&self, dispid: Dispid, now: Instant) {
        let mut numbers = self.numbers();
        if numbers.all.insert(dispid).is_none() {
            numbers.since.push_back((now, dispid));
        }
    }

    /// The numbers that rest.
    pub(super) fn all(&self, now: Instant) -> imbl::OrdSet<Dispid> {
        let mut numbers = self.numbers();
        while let Some((since, dispid)) = numbers.since.front().copied() {
            if now.saturating_duration_since(since) < REST {
                break;
            }
            numbers.since.pop_front();
            numbers.all.remove(&dispid);
        }
        numbers.all.clone()
    }

    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_rests_for_a_week() {
        let (rested, start) = (Rested::default(), Instant::now());
        let dispid = |number| Dispid::new(number).unwrap();
        rested.add(dispid(1), start);
        rested.add(dispid(1), start + REST / 2);
        rested.add(dispid(2), start + REST / 2);
        assert_eq!(rested.all(start + REST / 2), [dispid(1), dispid(2)].into_iter().collect());
        assert_eq!(rested.all(start + REST), [dispid(2)].into_iter().collect());
        assert!(rested.all(start + REST * 2).is_empty());
    }
}
