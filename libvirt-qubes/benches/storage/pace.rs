//! Times of two things that are done in turns: whatever else the machine does, it does to both.
//!
//! What is bare is handed to a thread and waited for, as the library does with its work and a shell with a command: on a
//! busy machine that takes its time.

use std::time::{Duration, Instant};

/// What was measured, and the times of both.
#[derive(Debug)]
pub(crate) struct Row {
    name: String,
    ours: Vec<Duration>,
    bare: Vec<Duration>,
}

impl Row {
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ours: Vec::new(), bare: Vec::new() }
    }

    /// Times both once. Whichever is first may find the disk in another state, so that they take turns at that; before each
    /// the disk `settle`s.
    pub(crate) fn turn<T>(
        &mut self,
        settle: impl Fn(),
        ours: impl FnOnce() -> T,
        bare: impl FnOnce() + Send,
    ) -> T {
        self.first(settle, ours, || on_a_thread(bare))
    }

    /// The same with something else that the library does.
    pub(crate) fn other_turn(&mut self, settle: impl Fn(), ours: impl FnOnce(), other: impl FnOnce()) {
        self.first(settle, ours, other);
    }

    fn first<T>(&mut self, settle: impl Fn(), ours: impl FnOnce() -> T, other: impl FnOnce()) -> T {
        let is_ours_first = self.ours.len().is_multiple_of(2);
        settle();
        if is_ours_first {
            let made = timed(&mut self.ours, ours);
            settle();
            timed(&mut self.bare, other);
            made
        } else {
            timed(&mut self.bare, other);
            settle();
            timed(&mut self.ours, ours)
        }
    }

    /// Times what the library does.
    pub(crate) fn ours<T>(&mut self, work: impl FnOnce() -> T) -> T {
        timed(&mut self.ours, work)
    }

    /// Times what it is measured against. As often as [`ours`](Self::ours), each time soon before or after it.
    pub(crate) fn bare(&mut self, work: impl FnOnce() + Send) {
        timed(&mut self.bare, || on_a_thread(work));
    }

    /// The same for something else that the library does.
    pub(crate) fn other<T>(&mut self, work: impl FnOnce() -> T) -> T {
        timed(&mut self.bare, work)
    }

    /// `NAME`, the middle time of ours, that of the other, both in nanoseconds, and the middle of the ratios of each
    /// turn; with tabs between them.
    pub(crate) fn print(&self) {
        let nanoseconds = |times: &[Duration]| middle(times.iter().map(Duration::as_nanos).collect());
        let thousandths =
            |(ours, bare): (&Duration, &Duration)| ours.as_nanos() * 1000 / bare.as_nanos().max(1);
        let ratio = middle(self.ours.iter().zip(&self.bare).map(thousandths).collect());
        let (ours, bare) = (nanoseconds(&self.ours), nanoseconds(&self.bare));
        println!("{}\t{ours}\t{bare}\t{}.{:03}", self.name, ratio / 1000, ratio % 1000);
    }
}

fn on_a_thread(work: impl FnOnce() + Send) {
    std::thread::scope(|scope| scope.spawn(work).join().unwrap());
}

fn timed<T>(times: &mut Vec<Duration>, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let made = work();
    times.push(begun.elapsed());
    made
}

fn middle(mut numbers: Vec<u128>) -> u128 {
    numbers.sort_unstable();
    numbers.get(numbers.len() / 2).copied().unwrap_or_default()
}
