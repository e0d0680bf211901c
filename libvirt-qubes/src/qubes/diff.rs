//! What a change amounts to: rows to write, events to announce, and the caller's answer.

use super::event::ModelEvent;
use super::refusal::Refusal;
use super::write::Write;

/// The outcome of a change that is not refused: what to write, all or nothing, and what to say then.
#[derive(Debug, Clone)]
pub struct Diff<T> {
    /// Events that announce the change; sent also when the commit fails.
    pub pre_events: Vec<ModelEvent>,
    /// The rows, in an order in which no reference dangles in between.
    pub writes: Vec<Write>,
    /// Events sent when the change is durable, in order, after `pre_events`.
    pub events: Vec<ModelEvent>,
    /// What the caller gets.
    pub answer: T,
    /// Whether the commit must succeed on a full file system.
    pub space: Space,
}

/// What a commit does when the file system of the store is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Space {
    /// It fails.
    Takes,
    /// The ballast is given up for it: it frees space, or undoes.
    Frees,
}

impl<T> Diff<T> {
    /// A change that writes nothing yet.
    pub fn new(answer: T) -> Self {
        Self { pre_events: Vec::new(), writes: Vec::new(), events: Vec::new(), answer, space: Space::Takes }
    }

    /// Adds a row.
    #[must_use]
    pub fn write(mut self, write: Write) -> Self {
        self.writes.push(write);
        self
    }

    /// Adds an event to those sent when the change is durable.
    #[must_use]
    pub fn event(mut self, event: ModelEvent) -> Self {
        self.events.push(event);
        self
    }

    /// Adds an event that announces the change.
    #[must_use]
    pub fn pre_event(mut self, event: ModelEvent) -> Self {
        self.pre_events.push(event);
        self
    }

    /// Lets the commit use the ballast.
    #[must_use]
    pub fn frees_space(mut self) -> Self {
        self.space = Space::Frees;
        self
    }
}

/// A refused change, and the events that had announced it before something vetoed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Sent although nothing changes.
    pub pre_events: Vec<ModelEvent>,
    /// Why.
    pub refusal: Refusal,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self { pre_events: Vec::new(), refusal }
    }
}
