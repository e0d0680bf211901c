//! Hotplug programs of a process that died: they run on, and may yet attach a loop device to a domain that is
//! about to be destroyed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// libxl gives a hotplug program 40 s; nobody is left to end these.
const LIMIT: Duration = Duration::from_secs(40);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Waits until no process runs this program, other processes' children included: a disk that somebody else
/// attaches right now delays us for a moment, no more. Blocks. Gives up, with a warning, after 40 s.
pub(super) fn wait_for(program: &Path) {
    let until = Instant::now() + LIMIT;
    while runs(program) {
        if Instant::now() > until {
            tracing::warn!(program = %program.display(), "hotplug programs of an earlier run do not end");
            return;
        }
        thread::sleep(LOOK_AGAIN);
    }
}

fn runs(program: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).map(|seen| (seen.dev(), seen.ino())).ok();
    let (Some(wanted), Ok(processes)) = (identity(program), fs::read_dir("/proc")) else {
        return false;
    };
    processes.flatten().any(|process| identity(&process.path().join("exe")) == Some(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_program_is_found_and_one_that_nobody_runs_is_not() {
        assert!(runs(&std::env::current_exe().unwrap()));
        let nobody = tempfile::NamedTempFile::new().unwrap();
        assert!(!runs(nobody.path()));
        wait_for(nobody.path());
    }
}
