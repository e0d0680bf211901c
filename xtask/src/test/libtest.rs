//! Reads what `cargo test -- --show-output` prints, line by line: counts, names of failed and skipped tests.
//!
//! The output of passed tests is asked for only to find `skipped: WHY` in it; it is not shown.

/// Counts and names. Only tests count as passed, but a failed check of any kind as failed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) passed: usize,
    pub(super) failed: Vec<String>,
    pub(super) skipped: Vec<String>,
}

impl Tally {
    /// Adds another's.
    pub(super) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed.extend(other.failed);
        self.skipped.extend(other.skipped);
    }
}

/// Where in a test program's output we are.
#[derive(Debug, Default, PartialEq, Eq)]
enum Part {
    #[default]
    Results,
    /// The output of passed tests, of this one now.
    Successes(String),
}

/// Reads line by line.
#[derive(Default)]
pub(super) struct Reader {
    /// The test program that runs, as Cargo names it.
    program: String,
    part: Part,
    tally: Tally,
    /// Failed tests of this program by name, and how many its last line says.
    failed: Vec<String>,
    /// How many of its passed tests say that they were skipped.
    skipped: usize,
}

/// What marks a test as skipped in its own output.
const SKIPPED: &str = "skipped: ";

/// Test programs whose ignored tests run in the testbed.
pub(super) const ON_XEN: &str = "xen_host";

impl Reader {
    /// Takes a line, and returns it if it is to be shown.
    pub(super) fn line<'a>(&mut self, line: &'a str) -> Option<&'a str> {
        let trimmed = line.trim_start();
        if let Some(program) = trimmed.strip_prefix("Running ").or_else(|| trimmed.strip_prefix("Doc-tests "))
        {
            self.next_program();
            self.program = program.split(" (").next().unwrap_or(program).to_owned();
            return Some(line);
        }
        if line.starts_with("test result: ") {
            self.result(line);
            return Some(line);
        }
        if line == "successes:" {
            self.part = Part::Successes(String::new());
            return None;
        }
        if line == "failures:" {
            self.part = Part::Results;
            return Some(line);
        }
        if let Part::Successes(test) = &mut self.part {
            if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----"))
            {
                name.clone_into(test);
            } else if let Some(why) = line.strip_prefix(SKIPPED) {
                self.tally.skipped.push(format!("{}: {test} ({why})", self.program));
                self.skipped += 1;
            }
            return None;
        }
        if let Some((name, result)) = line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... ")) {
            if result == "FAILED" {
                self.failed.push(format!("{}: {name}", self.program));
            } else if let Some(why) = result.strip_prefix("ignored")
                && !self.runs_on_xen()
            {
                self.tally.skipped.push(format!("{}: {name} (ignored{why})", self.program));
            }
        }
        Some(line)
    }

    /// `test result: ok. 25 passed; 0 failed; 0 ignored; ...`
    fn result(&mut self, line: &str) {
        let count = |what: &str| {
            let before = line.split(';').find_map(|part| part.trim_end().strip_suffix(what))?;
            before.split_whitespace().next_back()?.parse::<usize>().ok()
        };
        self.tally.passed += count(" passed").unwrap_or(0).saturating_sub(std::mem::take(&mut self.skipped));
        let failed = count(" failed").unwrap_or(0);
        while self.failed.len() < failed {
            self.failed.push(format!("{}: a test", self.program));
        }
        self.part = Part::Results;
    }

    fn runs_on_xen(&self) -> bool {
        let file = self.program.rsplit('/').next().unwrap_or_default();
        file.starts_with(ON_XEN)
    }

    fn next_program(&mut self) {
        self.tally.failed.append(&mut self.failed);
        self.part = Part::Results;
    }

    /// What was counted.
    pub(super) fn finish(mut self) -> Tally {
        self.next_program();
        self.tally
    }
}

/// Whether a test's own output says that it was skipped, and why.
pub(super) fn skipped(output: &str) -> Option<&str> {
    output.lines().find_map(|line| line.strip_prefix(SKIPPED))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "   Compiling x v0.1.0\n     Running unittests src/lib.rs (target/debug/deps/x-1)\n\n\
        running 4 tests\ntest a ... ok\ntest b::c ... FAILED\ntest d ... ignored, needs a disk\n\
        test e - should panic ... ok\n\nsuccesses:\n\n---- a stdout ----\nskipped: no such file system\n\n\n\
        successes:\n    a\n    e\n\nfailures:\n\n---- b::c stdout ----\nthread panicked\n\n\nfailures:\n    b::c\n\n\
        test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s\n\n     \
        Running tests/xen_host.rs (target/debug/deps/xen_host-2)\n\nrunning 1 test\n\
        test boots ... ignored, needs dom0 on Xen\n\n\
        test result: ok. 0 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0s\n   \
        Doc-tests x\n\nrunning 1 test\ntest src/lib.rs - (line 3) ... ok\n\n\
        test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0s\n";

    #[test]
    fn tests_are_counted_and_what_did_not_pass_is_named() {
        let mut reader = Reader::default();
        let shown: Vec<_> = OUTPUT.lines().filter_map(|line| reader.line(line)).collect();
        assert_eq!(
            reader.finish(),
            Tally {
                passed: 2,
                failed: vec!["unittests src/lib.rs: b::c".to_owned()],
                skipped: vec![
                    "unittests src/lib.rs: d (ignored, needs a disk)".to_owned(),
                    "unittests src/lib.rs: a (no such file system)".to_owned(),
                ],
            }
        );
        assert!(shown.contains(&"thread panicked"), "what a failed test printed is shown");
        assert!(
            !shown.iter().any(|line| line.contains("skipped: no such")),
            "what a passed one printed is not"
        );
    }

    #[test]
    fn a_failure_without_a_name_is_counted_all_the_same() {
        let mut reader = Reader::default();
        reader.line("     Running tests/x.rs (target/x)");
        reader.line("test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured");
        let tally = reader.finish();
        assert_eq!((tally.passed, tally.failed.len()), (3, 2));
    }

    #[test]
    fn a_line_of_another_test_in_the_middle_is_no_result() {
        let mut reader = Reader::default();
        reader.line("test of the emergency broadcast");
        reader.line("test a ... ok");
        assert_eq!(reader.finish(), Tally::default(), "only the result lines count");
    }
}
