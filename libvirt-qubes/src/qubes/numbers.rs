//! What is taken, counted: numbers with the lowest free one at hand, and names and identities. Each question and
//! each change costs the same however much is taken.

use std::borrow::Borrow;
use std::hash::Hash;

use imbl::{HashMap, OrdMap};

/// Numbers of `FIRST` to `LAST` that are handed out. Others can be held, too; they are never handed out.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Numbers<const FIRST: u16, const LAST: u16> {
    /// The stretches that nobody holds, as long as they are: the first number of each, and its last.
    free: OrdMap<u16, u16>,
    held: Held<u16>,
}

impl<const FIRST: u16, const LAST: u16> Default for Numbers<FIRST, LAST> {
    fn default() -> Self {
        Self { free: OrdMap::unit(FIRST, LAST), held: Held::default() }
    }
}

impl<const FIRST: u16, const LAST: u16> Numbers<FIRST, LAST> {
    /// Whether nobody holds it.
    pub(super) fn is_free(&self, number: u16) -> bool {
        !self.held.has(&number)
    }

    /// The lowest that nobody holds.
    pub(super) fn lowest_free(&self) -> Option<u16> {
        self.free.get_min().map(|(first, _)| *first)
    }

    /// The lowest that nobody holds, of this one on, and then of the others.
    pub(super) fn free_from(&self, number: u16) -> Option<u16> {
        if self.is_free(number) && (FIRST..=LAST).contains(&number) {
            return Some(number);
        }
        self.free.get_next(&number).map(|(first, _)| *first).or_else(|| self.lowest_free())
    }

    /// One more holds it.
    pub(super) fn hold(&mut self, number: u16) {
        if !self.held.add(number) {
            return;
        }
        let stretch = self.free.get_prev(&number).map(|(first, last)| (*first, *last));
        let Some((first, last)) = stretch.filter(|(_, last)| *last >= number) else { return };
        self.free.remove(&first);
        if first < number {
            self.free.insert(first, number - 1);
        }
        if number < last {
            self.free.insert(number + 1, last);
        }
    }

    /// One of its holders lets it go.
    pub(super) fn release(&mut self, number: u16) {
        if !self.held.drop(&number) || !(FIRST..=LAST).contains(&number) {
            return;
        }
        let before = self.free.get_prev(&number).map(|(first, last)| (*first, *last));
        let first = before.filter(|(_, last)| last.checked_add(1) == Some(number)).map_or(number, |(f, _)| f);
        let next = number.checked_add(1).and_then(|next| self.free.remove(&next));
        self.free.insert(first, next.unwrap_or(number));
    }
}

/// What is held, and by how many.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Held<K: Clone + Eq + Hash>(HashMap<K, u32>);

impl<K: Clone + Eq + Hash> Default for Held<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Clone + Eq + Hash> Held<K> {
    /// Whether anybody holds it.
    pub(super) fn has<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.0.contains_key(key)
    }

    /// One more holds it: `true` for the first.
    pub(super) fn add(&mut self, key: K) -> bool {
        let holders = self.0.entry(key).or_insert(0);
        *holders = holders.saturating_add(1);
        *holders == 1
    }

    /// One of its holders lets it go: `true` for the last.
    pub(super) fn drop<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        let Some(holders) = self.0.get_mut(key) else { return false };
        *holders = holders.saturating_sub(1);
        let last = *holders == 0;
        if last {
            self.0.remove(key);
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Ten = Numbers<1, 10>;

    #[test]
    fn a_number_that_two_hold_is_free_when_both_have_let_it_go() {
        let mut numbers = Ten::default();
        numbers.hold(1);
        numbers.hold(1);
        numbers.release(1);
        assert_eq!(numbers.lowest_free(), Some(2));
        numbers.release(1);
        assert_eq!(numbers, Ten::default());
    }

    proptest! {
        #[test]
        fn the_stretches_are_what_nobody_holds(changes in proptest::collection::vec((0u16..13, any::<bool>()), 0..80)) {
            let mut numbers = Ten::default();
            let mut holders = [0u32; 13];
            for (number, hold) in changes {
                let count = &mut holders[usize::from(number)];
                if hold {
                    numbers.hold(number);
                    *count += 1;
                } else {
                    numbers.release(number);
                    *count = count.saturating_sub(1);
                }
                let free = |n: &u16| holders[usize::from(*n)] == 0;
                prop_assert_eq!(numbers.lowest_free(), (1..=10).find(free));
                for from in 1..=10 {
                    let expected = (from..=10).find(free).or_else(|| (1..from).find(free));
                    prop_assert_eq!(numbers.free_from(from), expected);
                    prop_assert_eq!(numbers.is_free(from), free(&from));
                }
            }
            for (number, count) in (0u16..).zip(holders) {
                (0..count).for_each(|_| numbers.release(number));
            }
            prop_assert_eq!(numbers, Ten::default());
        }
    }
}
