//! One operation at a time for a domain, and a Kill that goes before all of them.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::Poll;

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The turns of all domains.
#[derive(Debug, Default)]
pub(super) struct Turns {
    queues: Mutex<HashMap<Uuid, Weak<Queue>>>,
}

/// The operations of one domain: who has the turn, and who waits.
#[derive(Debug, Default)]
struct Queue {
    turn: Arc<AsyncMutex<()>>,
    /// Cancelled by the next Kill, and replaced then.
    cancel: Mutex<CancellationToken>,
}

/// The turn of an operation, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    /// Cancelled by a Kill.
    pub(super) cancel: CancellationToken,
    // The guard goes first: while it is held the queue must be found by others.
    _guard: OwnedMutexGuard<()>,
    _queue: Arc<Queue>,
}

/// Whom a Kill found before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interrupted {
    Nobody,
    Somebody,
}

impl Turns {
    /// Waits for a turn; `None` when a Kill came first.
    pub(super) async fn wait(&self, uuid: Uuid) -> Option<Turn> {
        let queue = self.queue(uuid);
        let mut turn = Box::pin(queue.turn.clone().lock_owned());
        let (cancel, first) = queue.enter(&mut turn, |cancel| cancel.clone()).await;
        let guard = match first {
            Poll::Ready(guard) => guard,
            Poll::Pending => tokio::select! {
                biased;
                () = cancel.cancelled() => return None,
                guard = turn => guard,
            },
        };
        Some(Turn { cancel, _guard: guard, _queue: queue })
    }

    /// Cancels who has the turn and who waits for it, and takes it when their undo has ended; also whether there
    /// was anybody.
    pub(super) async fn take(&self, uuid: Uuid) -> (Turn, Interrupted) {
        let queue = self.queue(uuid);
        let mut turn = Box::pin(queue.turn.clone().lock_owned());
        let next = |cancel: &mut CancellationToken| {
            std::mem::take(cancel).cancel();
            cancel.clone()
        };
        let (cancel, first) = queue.enter(&mut turn, next).await;
        let (guard, interrupted) = match first {
            Poll::Ready(guard) => (guard, Interrupted::Nobody),
            Poll::Pending => (turn.await, Interrupted::Somebody),
        };
        (Turn { cancel, _guard: guard, _queue: queue }, interrupted)
    }

    fn queue(&self, uuid: Uuid) -> Arc<Queue> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queues.get(&uuid).and_then(Weak::upgrade) {
            return queue;
        }
        queues.retain(|_, queue| queue.strong_count() > 0);
        let queue = Arc::new(Queue::default());
        queues.insert(uuid, Arc::downgrade(&queue));
        queue
    }
}

impl Queue {
    /// Looks at the token and joins the queue in one step: who joins after a Kill stands behind it, and who stands
    /// before it has the token that it cancels.
    async fn enter<F: Future<Output = OwnedMutexGuard<()>>>(
        &self,
        turn: &mut Pin<Box<F>>,
        mut look: impl FnMut(&mut CancellationToken) -> CancellationToken,
    ) -> (CancellationToken, Poll<OwnedMutexGuard<()>>) {
        poll_fn(|cx| {
            let mut cancel = self.cancel.lock().unwrap_or_else(PoisonError::into_inner);
            let own = look(&mut cancel);
            Poll::Ready((own, turn.as_mut().poll(cx)))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Uuid = Uuid::from_u128(1);
    const B: Uuid = Uuid::from_u128(2);

    #[tokio::test]
    async fn one_at_a_time_for_a_domain_and_none_waits_for_another_domain() {
        let turns = Turns::default();
        let first = turns.wait(A).await.unwrap();
        turns.wait(B).await.unwrap();
        let mut second = Box::pin(turns.wait(A));
        tokio::select! {
            biased;
            _ = &mut second => panic!("two turns at once"),
            () = tokio::task::yield_now() => {}
        }
        drop(first);
        assert!(second.await.is_some());
    }

    #[tokio::test]
    async fn a_kill_cancels_who_holds_and_who_waits_and_those_after_it_wait_for_it() {
        let turns = Turns::default();
        let holder = turns.wait(A).await.unwrap();
        let undo = async {
            holder.cancel.cancelled().await;
            drop(holder);
        };
        let (waiter, (kill, interrupted), ()) = tokio::join!(turns.wait(A), turns.take(A), undo);
        assert!(waiter.is_none());
        assert_eq!(interrupted, Interrupted::Somebody);
        assert_eq!(turns.take(B).await.1, Interrupted::Nobody);
        assert!(!kill.cancel.is_cancelled());
        let (after, ()) = tokio::join!(turns.wait(A), async { drop(kill) });
        assert!(!after.unwrap().cancel.is_cancelled());
    }

    #[tokio::test]
    async fn what_nobody_uses_is_forgotten() {
        let turns = Turns::default();
        for n in 0..100 {
            drop(turns.wait(Uuid::from_u128(n)).await);
        }
        assert!(turns.queues.lock().unwrap().len() <= 2);
    }
}
