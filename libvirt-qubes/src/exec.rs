//! Runs plans: steps in order, and on failure the undo of those done, in reverse.
//!
//! A plan is data, a `Vec` of anything that implements [`Act`]; what the steps are is decided elsewhere
//! (`domain` for bare domains, `qubes::lifecycle` for VMs). This module knows no step. A plan runs as a task
//! of its own: a caller that goes away skips no step and no undo.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::error::{Error, Kind, Result};
use crate::hypervisor::BoxFuture;

/// What the failure of a step means for its plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effort {
    /// The plan fails, and what was done is undone.
    Required,
    /// The failure is logged and listed in [`Report::skipped`]; the plan goes on.
    Best,
}

/// One step of a plan. `Display` names it as a person would (`create domain work`).
pub trait Act: fmt::Display + Send + Sync + 'static {
    /// What the steps of one plan share.
    type Context: Send + Sync + 'static;

    /// Does the step. When it fails, nothing of the step is left. A long step ends soon after `cancel`, with
    /// `Kind::Cancelled`; a short one may ignore it.
    fn run<'a>(
        &'a self,
        context: &'a Self::Context,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<()>>;

    /// Takes the step back after a later one failed. It is never cancelled. It runs also after `run`
    /// panicked, so that "there is nothing to undo" is success.
    fn undo<'a>(&'a self, context: &'a Self::Context) -> BoxFuture<'a, Result<()>>;

    /// What the failure of this step means.
    fn effort(&self) -> Effort;

    /// An error of this step that names its operation and object; for a cancel before it, or a panic in it.
    fn error(&self, kind: Kind) -> Error;
}

/// A step that did not do what it should.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The step, as it prints.
    pub step: String,
    /// What went wrong.
    pub error: Error,
}

/// A plan that was carried out.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Steps of best effort that failed, in their order.
    pub skipped: Vec<Failure>,
}

/// A plan that failed. All that it had done is undone, but for `not_undone`.
#[derive(Debug, Clone, thiserror::Error)]
#[error("step '{step}' failed")]
pub struct StepFailed {
    /// The step that failed, or before which the plan was cancelled, as it prints.
    pub step: String,
    /// Why; `Kind::Cancelled` after a cancel.
    #[source]
    pub error: Error,
    /// Steps whose undo failed too, in the order in which that was tried.
    pub not_undone: Vec<Failure>,
}

/// A plan under way. Waiting for it gives its end; dropping it gives up the answer and nothing else.
#[derive(Debug)]
pub struct Execution {
    task: JoinHandle<Result<Report, StepFailed>>,
    /// The step to name if the task is lost: the runtime ends, or the executor itself panicked.
    lost: StepFailed,
}

impl Future for Execution {
    type Output = Result<Report, StepFailed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.task).poll(cx).map(|end| {
            end.unwrap_or_else(|join| {
                let mut lost = self.lost.clone();
                lost.error = lost.error.because(join);
                Err(lost)
            })
        })
    }
}

/// Runs `steps` in order, as a task of its own that begins at once. To be called inside a tokio runtime.
///
/// `cancel` is looked at before each step and handed to it; after the last step it has no effect. A panic in
/// a step is a failure of that step. The plan ends when every undo has ended.
pub fn execute<S: Act>(steps: Vec<S>, context: Arc<S::Context>, cancel: CancellationToken) -> Execution {
    let lost = steps.first().map_or_else(
        || StepFailed {
            step: "nothing".into(),
            error: Error::new(Kind::Cancelled, crate::error::Op::Recover, "an empty plan"),
            not_undone: Vec::new(),
        },
        |first| StepFailed {
            step: first.to_string(),
            error: first.error(Kind::Cancelled),
            not_undone: Vec::new(),
        },
    );
    let task = tokio::spawn(run(steps, context, cancel).in_current_span());
    Execution { task, lost }
}

async fn run<S: Act>(
    steps: Vec<S>,
    context: Arc<S::Context>,
    cancel: CancellationToken,
) -> Result<Report, StepFailed> {
    let mut report = Report::default();
    let mut done: Vec<&S> = Vec::with_capacity(steps.len());
    for step in &steps {
        let outcome = if cancel.is_cancelled() {
            Outcome::Failed(step.error(Kind::Cancelled))
        } else {
            tracing::debug!(%step, "step begins");
            outcome(|| step.run(&context, &cancel)).await
        };
        let error = match outcome {
            Outcome::Done => {
                done.push(step);
                continue;
            }
            Outcome::Failed(error) => error,
            Outcome::Panicked(words) => {
                // Its own clean-up was skipped with the rest of it.
                done.push(step);
                step.error(Kind::Backend).because(format!("the step panicked: {words}"))
            }
        };
        match step.effort() {
            Effort::Best => {
                tracing::warn!(%step, error = error.report(), "step failed, going on");
                report.skipped.push(Failure { step: step.to_string(), error });
            }
            Effort::Required => {
                tracing::debug!(%step, error = error.report(), "step failed, undoing");
                let not_undone = undo(&done, &context).await;
                return Err(StepFailed { step: step.to_string(), error, not_undone });
            }
        }
    }
    Ok(report)
}

async fn undo<S: Act>(done: &[&S], context: &S::Context) -> Vec<Failure> {
    let mut failed = Vec::new();
    for step in done.iter().rev() {
        let error = match outcome(|| step.undo(context)).await {
            Outcome::Done => continue,
            Outcome::Failed(error) => error,
            Outcome::Panicked(words) => {
                step.error(Kind::Backend).because(format!("the undo panicked: {words}"))
            }
        };
        tracing::error!(%step, error = error.report(), "undo failed, something may be left");
        failed.push(Failure { step: step.to_string(), error });
    }
    failed
}

enum Outcome {
    Done,
    Failed(Error),
    Panicked(String),
}

/// Polls what `begin` makes to its end; a panic, also one in `begin`, ends it.
async fn outcome<'a>(begin: impl FnOnce() -> BoxFuture<'a, Result<()>>) -> Outcome {
    let mut future = match catch_unwind(AssertUnwindSafe(begin)) {
        Ok(future) => future,
        Err(panic) => return Outcome::Panicked(words(panic.as_ref())),
    };
    // Unwind safety: a future that panicked is not polled again, and steps share nothing but their context,
    // whose locks poison.
    std::future::poll_fn(move |cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(Ok(()))) => Poll::Ready(Outcome::Done),
        Ok(Poll::Ready(Err(error))) => Poll::Ready(Outcome::Failed(error)),
        Err(panic) => Poll::Ready(Outcome::Panicked(words(panic.as_ref()))),
    })
    .await
}

fn words(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".into())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::error::Op;

    /// What a test's step does when it runs.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Way {
        Works,
        Fails,
        Panics,
        /// Panics before there is a future.
        PanicsAtOnce,
        WaitsForCancel,
        /// Works, having cancelled its own plan meanwhile.
        Cancels,
        /// Works after this many milliseconds.
        Takes(u64),
    }

    #[derive(Debug, Clone, Copy)]
    struct Step {
        number: usize,
        way: Way,
        undo: Way,
        effort: Effort,
    }

    impl Step {
        fn new(number: usize, way: Way) -> Self {
            Self { number, way, undo: Way::Works, effort: Effort::Required }
        }
    }

    impl fmt::Display for Step {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "step {}", self.number)
        }
    }

    #[derive(Default)]
    struct Log {
        lines: Mutex<Vec<String>>,
        cancel: CancellationToken,
    }

    impl Log {
        fn say(&self, line: String) {
            self.lines.lock().unwrap().push(line);
        }

        fn lines(&self) -> Vec<String> {
            self.lines.lock().unwrap().clone()
        }
    }

    impl Step {
        async fn go(&self, log: &Log, way: Way, cancel: &CancellationToken) -> Result<()> {
            match way {
                Way::Works => Ok(()),
                Way::Fails => Err(self.error(Kind::Io)),
                Way::Panics | Way::PanicsAtOnce => panic!("number {} has had enough", self.number),
                Way::WaitsForCancel => {
                    cancel.cancelled().await;
                    Err(self.error(Kind::Cancelled))
                }
                Way::Cancels => {
                    log.cancel.cancel();
                    Ok(())
                }
                Way::Takes(ms) => {
                    tokio::time::sleep(Duration::from_millis(ms)).await;
                    Ok(())
                }
            }
        }
    }

    impl Act for Step {
        type Context = Log;

        fn run<'a>(&'a self, log: &'a Log, cancel: &'a CancellationToken) -> BoxFuture<'a, Result<()>> {
            assert!(self.way != Way::PanicsAtOnce, "number {} has had enough", self.number);
            Box::pin(async move {
                self.go(log, self.way, cancel).await?;
                log.say(format!("did {}", self.number));
                Ok(())
            })
        }

        fn undo<'a>(&'a self, log: &'a Log) -> BoxFuture<'a, Result<()>> {
            Box::pin(async move {
                log.say(format!("undid {}", self.number));
                self.go(log, self.undo, &CancellationToken::new()).await
            })
        }

        fn effort(&self) -> Effort {
            self.effort
        }

        fn error(&self, kind: Kind) -> Error {
            Error::new(kind, Op::StartVolume, self.number)
        }
    }

    async fn play(steps: Vec<Step>) -> (Vec<String>, Result<Report, StepFailed>) {
        let log = Arc::new(Log::default());
        let end = execute(steps, log.clone(), log.cancel.clone()).await;
        (log.lines(), end)
    }

    #[tokio::test]
    async fn a_failed_step_undoes_those_before_it_in_reverse_and_is_named() {
        let steps = vec![Step::new(1, Way::Works), Step::new(2, Way::Works), Step::new(3, Way::Fails)];
        let (log, end) = play(steps).await;
        assert_eq!(log, ["did 1", "did 2", "undid 2", "undid 1"]);
        let failed = end.unwrap_err();
        assert_eq!((failed.step.as_str(), failed.error.kind()), ("step 3", Kind::Io));
        assert!(failed.not_undone.is_empty());
    }

    #[tokio::test]
    async fn a_panic_is_a_failure_and_the_step_itself_is_undone_too() {
        for way in [Way::Panics, Way::PanicsAtOnce] {
            let (log, end) = play(vec![Step::new(1, Way::Works), Step::new(2, way)]).await;
            assert_eq!(log, ["did 1", "undid 2", "undid 1"]);
            let failed = end.unwrap_err();
            assert_eq!(failed.step, "step 2");
            assert_eq!(
                failed.error.report(),
                "start volume 2: failed: the step panicked: number 2 has had enough"
            );
        }
    }

    #[tokio::test]
    async fn a_failed_undo_is_reported_and_the_others_still_run() {
        let mut steps = vec![Step::new(1, Way::Works), Step::new(2, Way::Works), Step::new(3, Way::Works)];
        steps[1].undo = Way::Fails;
        steps[2].undo = Way::Panics;
        steps.push(Step::new(4, Way::Fails));
        let (log, end) = play(steps).await;
        assert_eq!(log, ["did 1", "did 2", "did 3", "undid 3", "undid 2", "undid 1"]);
        let left: Vec<String> = end.unwrap_err().not_undone.into_iter().map(|left| left.step).collect();
        assert_eq!(left, ["step 3", "step 2"]);
    }

    #[tokio::test]
    async fn a_step_of_best_effort_that_fails_is_listed_and_the_plan_goes_on() {
        let mut steps = vec![Step::new(1, Way::Fails), Step::new(2, Way::Works)];
        steps[0].effort = Effort::Best;
        let (log, end) = play(steps).await;
        assert_eq!(log, ["did 2"]);
        let skipped = end.unwrap().skipped;
        assert_eq!(skipped.iter().map(|skipped| skipped.step.as_str()).collect::<Vec<_>>(), ["step 1"]);
    }

    #[tokio::test]
    async fn a_cancel_between_two_steps_undoes_and_names_the_step_that_did_not_begin() {
        let (log, end) = play(vec![Step::new(1, Way::Cancels), Step::new(2, Way::Works)]).await;
        assert_eq!(log, ["did 1", "undid 1"]);
        let failed = end.unwrap_err();
        assert_eq!((failed.step.as_str(), failed.error.kind()), ("step 2", Kind::Cancelled));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancel_reaches_the_step_that_runs_and_no_undo() {
        let log = Arc::new(Log::default());
        let mut first = Step::new(1, Way::Works);
        first.undo = Way::Takes(50);
        let steps = vec![first, Step::new(2, Way::WaitsForCancel)];
        let plan = execute(steps, log.clone(), log.cancel.clone());
        tokio::time::sleep(Duration::from_millis(10)).await;
        log.cancel.cancel();
        assert_eq!(plan.await.unwrap_err().error.kind(), Kind::Cancelled);
        assert_eq!(log.lines(), ["did 1", "undid 1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_goes_away_skips_no_undo() {
        let log = Arc::new(Log::default());
        let steps = vec![Step::new(1, Way::Works), Step::new(2, Way::Takes(20)), Step::new(3, Way::Fails)];
        drop(execute(steps, log.clone(), log.cancel.clone()));
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(log.lines(), ["did 1", "did 2", "undid 2", "undid 1"]);
    }

    proptest! {
        #[test]
        fn what_was_done_is_undone_exactly_once_or_the_plan_succeeded(
            ways in proptest::collection::vec((0..5u8, proptest::bool::ANY), 0..8)
        ) {
            let steps: Vec<Step> = ways
                .iter()
                .enumerate()
                .map(|(number, (way, best))| {
                    let way = match way {
                        0 => Way::Fails,
                        1 => Way::Cancels,
                        _ => Way::Works,
                    };
                    let effort = if *best { Effort::Best } else { Effort::Required };
                    Step { number, way, undo: Way::Works, effort }
                })
                .collect();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let (log, end) = runtime.block_on(play(steps));
            let did: Vec<&str> = log.iter().filter_map(|line| line.strip_prefix("did ")).collect();
            let mut undid: Vec<&str> = log.iter().filter_map(|line| line.strip_prefix("undid ")).collect();
            undid.reverse();
            if end.is_ok() {
                prop_assert!(undid.is_empty());
            } else {
                prop_assert_eq!(did, undid);
            }
        }
    }
}
