//! How far a copy is, told at least once a second while it lasts.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::{CancellationToken, DropGuard};

use super::event::{EventKind, ModelEvent, Subject};
use super::sequencer::Sequencer;
use super::vm::Vm;
use crate::ids::VolumeName;
use crate::storage::Job;

/// Twice as often as it must be, so that a busy machine is in time.
const EVERY: Duration = Duration::from_millis(500);

/// Tells how far a copy is until it is dropped.
pub(super) struct Meter {
    shared: Arc<Shared>,
    _stop: DropGuard,
}

/// When the first and the last event come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tell {
    /// At the beginning, and at a good end.
    Always,
    /// Only of a copy that takes its time, once data is copied.
    IfLong,
}

struct Shared {
    sequencer: Arc<Sequencer>,
    subject: Subject,
    volume: VolumeName,
    state: Mutex<State>,
}

struct State {
    done: u64,
    total: u64,
    /// Whether it may be told by itself.
    begun: bool,
    told: bool,
    over: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock is held meanwhile, so that nothing is told after the last.
    fn tell(&self, state: &mut State) {
        state.told = true;
        let kind =
            EventKind::VolumeProgress { volume: self.volume.clone(), done: state.done, total: state.total };
        self.sequencer.announce(vec![ModelEvent { subject: self.subject.clone(), kind }]);
    }
}

impl Meter {
    pub(super) fn begin(
        sequencer: &Arc<Sequencer>,
        vm: &Vm,
        volume: &VolumeName,
        total: u64,
        tell: Tell,
    ) -> Self {
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            sequencer: Arc::clone(sequencer),
            subject: Subject::Vm { uuid: vm.uuid, name: vm.name.clone() },
            volume: volume.clone(),
            state: Mutex::new(State {
                done: 0,
                total,
                begun: tell == Tell::Always,
                told: false,
                over: false,
            }),
        });
        if tell == Tell::Always {
            shared.tell(&mut shared.state());
        }
        let (ticking, stopped) = (Arc::clone(&shared), stop.clone());
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = stopped.cancelled() => return,
                    () = tokio::time::sleep(EVERY) => {}
                }
                let mut state = ticking.state();
                if state.over {
                    return;
                }
                if state.begun {
                    ticking.tell(&mut state);
                }
            }
        });
        Self { shared, _stop: stop.drop_guard() }
    }

    /// So much is done.
    pub(super) fn note(&self, done: u64) {
        let mut state = self.shared.state();
        state.begun = true;
        state.done = done;
    }

    /// A job that tells this meter how far it is.
    pub(super) fn job(&self, cancel: CancellationToken) -> Job {
        let shared = Arc::clone(&self.shared);
        Job::new(cancel).with_progress(move |progress| {
            let mut state = shared.state();
            state.begun = true;
            state.done = progress.done;
            state.total = progress.total;
        })
    }

    /// The copy has come to a good end.
    pub(super) fn finish(self) {
        let mut state = self.shared.state();
        state.over = true;
        state.done = state.done.max(state.total);
        if state.told {
            self.shared.tell(&mut state);
        }
    }
}
