//! What is known of a watched domain, and what of it is news. Pure.
//!
//! libxl's events, a look when the watch begins and the list of every second all say the same things, late or
//! twice: they are sights of one state, and a change is told once, when it is first seen.

use uuid::Uuid;

use crate::hypervisor::{DomainChange, ShutdownReason};
use crate::ids::DomId;

/// How a domain was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sight {
    /// It lives.
    Up {
        /// Whether its processors are stopped.
        paused: bool,
    },
    /// It has shut down.
    Down(ShutdownReason),
    /// There is no such domain, or it is being torn down.
    Gone,
}

/// Whether our own destroying of a domain is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Begun,
    Failed,
}

/// The state of one domain, from the begin of its watch on.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) uuid: Uuid,
    pub(super) domid: DomId,
    /// `None` before the first sight.
    paused: Option<bool>,
    down: Option<ShutdownReason>,
    /// We are destroying it: libxl pauses it first, which is nobody's pause.
    ending: bool,
    gone: bool,
}

impl Watched {
    pub(super) fn new(uuid: Uuid, domid: DomId) -> Self {
        Self { uuid, domid, paused: None, down: None, ending: false, gone: false }
    }

    /// Whether it was seen gone: nothing follows.
    pub(super) fn is_gone(&self) -> bool {
        self.gone
    }

    /// We begin to destroy it, or have failed to.
    pub(super) fn set_ending(&mut self, ending: Ending) {
        self.ending = ending == Ending::Begun;
    }

    /// Takes a sight in; the changes that it shows, in their order.
    pub(super) fn see(&mut self, sight: Sight) -> Vec<DomainChange> {
        if self.gone {
            return Vec::new();
        }
        match sight {
            Sight::Up { .. } if self.ending => Vec::new(),
            Sight::Up { paused } => {
                self.down = None;
                match self.paused.replace(paused) {
                    Some(before) if before != paused => {
                        vec![if paused { DomainChange::Paused } else { DomainChange::Unpaused }]
                    }
                    Some(_) | None => Vec::new(),
                }
            }
            Sight::Down(reason) => match self.down.replace(reason) {
                None => vec![DomainChange::Shutdown(reason)],
                Some(_) => Vec::new(),
            },
            Sight::Gone => {
                self.gone = true;
                vec![DomainChange::Died]
            }
        }
    }

    /// Whether it runs again after it was seen down: libxl tells each end once for a watch, so that it must be
    /// watched anew.
    pub(super) fn resumed(&self, sight: Sight) -> bool {
        matches!(sight, Sight::Up { .. }) && self.down.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn watched() -> Watched {
        Watched::new(Uuid::from_u128(7), DomId::new(3).unwrap())
    }

    const UP: Sight = Sight::Up { paused: false };
    const PAUSED: Sight = Sight::Up { paused: true };

    #[test]
    fn what_is_found_at_the_begin_is_news_only_if_it_is_an_end() {
        assert!(watched().see(PAUSED).is_empty());
        assert!(watched().see(UP).is_empty());
        let crashed = Sight::Down(ShutdownReason::Crash);
        assert_eq!(watched().see(crashed), [DomainChange::Shutdown(ShutdownReason::Crash)]);
        assert_eq!(watched().see(Sight::Gone), [DomainChange::Died]);
    }

    #[test]
    fn a_suspended_domain_that_was_resumed_tells_its_next_shutdown() {
        let mut domain = watched();
        domain.see(UP);
        let suspended = Sight::Down(ShutdownReason::Suspend);
        assert_eq!(domain.see(suspended), [DomainChange::Shutdown(ShutdownReason::Suspend)]);
        assert!(domain.resumed(UP));
        assert!(domain.see(UP).is_empty());
        assert!(!domain.resumed(UP));
        let off = Sight::Down(ShutdownReason::Poweroff);
        assert_eq!(domain.see(off), [DomainChange::Shutdown(ShutdownReason::Poweroff)]);
    }

    #[test]
    fn the_pause_that_a_destroy_begins_with_is_no_news() {
        let mut domain = watched();
        domain.see(UP);
        domain.set_ending(Ending::Begun);
        assert!(domain.see(PAUSED).is_empty());
        domain.set_ending(Ending::Failed);
        assert_eq!(domain.see(PAUSED), [DomainChange::Paused]);
        domain.set_ending(Ending::Begun);
        assert_eq!(domain.see(Sight::Gone), [DomainChange::Died]);
    }

    fn any_sight() -> impl Strategy<Value = Sight> {
        prop_oneof![
            8 => any::<bool>().prop_map(|paused| Sight::Up { paused }),
            2 => Just(Sight::Down(ShutdownReason::Poweroff)),
            1 => Just(Sight::Gone),
        ]
    }

    proptest! {
        #[test]
        fn sights_that_repeat_tell_nothing_and_death_is_last_and_once(sights in prop::collection::vec(any_sight(), 0..40)) {
            let mut domain = watched();
            let mut told = Vec::new();
            for sight in &sights {
                told.extend(domain.see(*sight));
                prop_assert!(domain.see(*sight).is_empty());
            }
            let died = told.iter().position(|change| *change == DomainChange::Died);
            prop_assert_eq!(died.is_some(), sights.contains(&Sight::Gone));
            if let Some(at) = died { prop_assert_eq!(at + 1, told.len()); }
            // Pauses and unpauses take turns.
            let turns: Vec<_> = told.iter()
                .filter(|change| matches!(change, DomainChange::Paused | DomainChange::Unpaused)).collect();
            prop_assert!(turns.windows(2).all(|pair| pair[0] != pair[1]));
        }
    }
}
