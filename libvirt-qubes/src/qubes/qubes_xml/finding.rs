//! What there is to say about a file.

use std::fmt;

use serde::Serialize;

/// Something about a file that its owner should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub weight: Weight,
    /// The line that it is about, where it is about one.
    pub line: Option<u32>,
    /// What it is about: `domain 'work'`, `pool 'fast'`.
    pub about: String,
    /// What is wrong, or what was done.
    pub text: String,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weight {
    /// It was left out or put right, as the deployed system does.
    Note,
    /// It is wrong, and nobody can say what was meant.
    Problem,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        write!(f, "{}: {}", self.about, self.text)
    }
}

/// Findings as they come together.
#[derive(Debug, Default)]
pub(in super::super) struct Findings(pub(in super::super) Vec<Finding>);

impl Findings {
    pub(in super::super) fn note(&mut self, line: u32, about: &str, text: impl Into<String>) {
        self.add(Weight::Note, line, about, text.into());
    }

    pub(in super::super) fn problem(&mut self, line: u32, about: &str, text: impl Into<String>) {
        self.add(Weight::Problem, line, about, text.into());
    }

    /// Line 0 is none: what it is about is not in the file.
    fn add(&mut self, weight: Weight, line: u32, about: &str, text: String) {
        let line = (line != 0).then_some(line);
        self.0.push(Finding { weight, line, about: about.to_owned(), text });
    }
}
