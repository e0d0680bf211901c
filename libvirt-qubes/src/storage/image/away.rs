//! Whether the pool is there.

use std::fmt::Display;
use std::io::ErrorKind;

use super::Shared;
use crate::error::{Error, Kind, Op, Result};
use crate::storage::VolumeGroup;

impl Shared {
    /// Which of the pool's folders is not there, and what that means.
    pub(super) fn away(&self) -> Option<String> {
        VolumeGroup::ALL.into_iter().find_map(|group| {
            let folder = self.dir.join(group.as_str());
            let why = match std::fs::metadata(&folder) {
                Ok(found) if found.is_dir() => return None,
                Ok(_) => "is no folder".to_owned(),
                Err(e) if e.kind() == ErrorKind::NotFound => "is not there".to_owned(),
                Err(e) => format!("cannot be seen ({e})"),
            };
            let folder = folder.display();
            Some(format!("{folder} {why}; its file system is probably not mounted: mount it and try again"))
        })
    }

    /// Before whatever writes in the pool, or needs what lies there.
    pub(super) fn is_there(&self, op: Op, what: &dyn Display) -> Result<()> {
        let Some(why) = self.away() else { return Ok(()) };
        Err(Error::new(Kind::Unavailable, op, what).because(format!("{}{why}", self.called())))
    }

    /// What a reason begins with, where it is known what the pool is called.
    pub(super) fn called(&self) -> String {
        self.name.as_ref().map(|name| format!("storage pool '{name}': ")).unwrap_or_default()
    }
}
