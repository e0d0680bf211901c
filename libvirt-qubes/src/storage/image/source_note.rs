//! What the source of a snapshot was like when its run began, noted at what the run writes: as an extended attribute of the
//! copy, or of the device's store.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::XattrFlags;

const NAME: &str = "user.mgmt.source";

fn text(source: &Metadata) -> String {
    format!("{} {}.{:09}", source.len(), source.mtime(), source.mtime_nsec())
}

/// Notes the source at what a run writes. It is lost with that, and no sooner.
pub(super) fn note(at: &Path, source: &Metadata) -> io::Result<()> {
    Ok(rustix::fs::setxattr(at, NAME, text(source).as_bytes(), XattrFlags::empty())?)
}

/// Whether the source is as it was noted, as far as it was.
pub(super) fn is_as_noted(at: &Path, source: &Metadata) -> bool {
    let mut noted = [0; 64];
    match rustix::fs::getxattr(at, NAME, &mut noted) {
        Ok(length) => noted.get(..length) == Some(text(source).as_bytes()),
        Err(_) => true,
    }
}
