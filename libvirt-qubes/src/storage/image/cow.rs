//! A snapshot whose start copies nothing: a device of device-mapper that shows the source's image and keeps what is
//! written in a sparse file.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use mgmt_block::{Access, FileId};

use super::disk::{Durability, Step};
use super::names::Image;
use super::place::{Found, Place};
use super::{Shared, nameless_file};
use crate::error::{At, Error, Kind, Op, Result};
use crate::ids::{BadId, ByteSize, VolumeName};
use crate::storage::Export;
use crate::storage::about::About;
use crate::storage::mapper::{self, CHUNK, DmName, DmOp, Target};

const SECTOR: u64 = 512;

/// How a pool makes the snapshots that running domains get of their origins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyOnWrite {
    /// By device-mapper where that can be had, else by a copy.
    Auto,
    /// By device-mapper.
    DeviceMapper,
    /// By a copy of the data.
    Copy,
}

impl CopyOnWrite {
    /// The option's values.
    pub const ALL: [CopyOnWrite; 3] = [CopyOnWrite::Auto, CopyOnWrite::DeviceMapper, CopyOnWrite::Copy];

    /// As people write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::DeviceMapper => "dm",
            Self::Copy => "copy",
        }
    }
}

impl std::str::FromStr for CopyOnWrite {
    type Err = BadId;
    fn from_str(text: &str) -> Result<Self, BadId> {
        Self::ALL.into_iter().find(|way| way.as_str() == text).ok_or(BadId::new("must be auto, dm or copy"))
    }
}

/// The store of a snapshot of so many sectors: room for each chunk of it.
fn store_size(sectors: u64) -> u64 {
    sectors.div_ceil(CHUNK).saturating_mul(CHUNK).saturating_mul(SECTOR)
}

impl Place<'_> {
    /// The device of this volume, running or not.
    fn dm_name(&self) -> Result<DmName> {
        let folder = std::fs::metadata(&self.dir).at(self.op, self.dir.display())?;
        Ok(DmName::of(&folder, &self.id.volume))
    }

    pub(super) fn device(&self) -> Result<PathBuf> {
        Ok(self.shared.mapper.device(&self.dm_name()?))
    }

    /// Makes the device over `origin`, which may change its names once `release_source` was called. There is none.
    pub(super) fn map(&self, origin: &Export, release_source: &mut dyn FnMut()) -> Result<PathBuf> {
        let (mapper, sectors) = (&*self.shared.mapper, origin.size().get() / SECTOR);
        let name = self.dm_name()?;
        let path = self.path(&Image::Cow);
        self.empty(&Image::Cow, ByteSize::bytes(store_size(sectors)), Durability::None)?;
        let store = File::options().read(true).write(true).open(&path).at(self.op, path.display())?;
        let attach = |file: &File, access, path: &Path| {
            let attached = mapper.attach(file, access).at(self.op, path.display())?;
            self.disk().done(|| Step::Attach(path.to_owned()));
            Result::Ok(attached)
        };
        let origin = attach(origin.file(), Access::ReadOnly, origin.path())?;
        // From here on the device beneath keeps the file, and `is_beneath_a_device` keeps it from being written.
        release_source();
        let store = attach(&store, Access::ReadWrite, &path)?;
        let target = Target::Snapshot { origin: origin.number(), store: store.number() };
        let op = DmOp::Create { name: name.clone(), sectors, target };
        mapper.run(&op).map_err(|failed| mapper::failure(self.op, self.id, &op, &failed))?;
        let device = mapper.device(&name);
        self.disk().done(|| Step::Map(device.clone()));
        Ok(device)
    }

    /// Removes what a start that failed has made; what cannot be removed now, recovery removes.
    pub(super) fn give_up_map(&self) {
        let removed =
            self.look().and_then(|found| self.unmap(&found)).and_then(|()| self.remove(&Image::Cow));
        if let Err(e) = removed {
            tracing::warn!(volume = %self.id, error = %e.report(), "cannot take a failed start back");
        }
    }

    /// Removes the device of a start, if there is one; with it go the loop devices beneath.
    pub(super) fn unmap(&self, found: &Found) -> Result<()> {
        // The store is made before the device and removed after it.
        if found.cow.is_none() {
            return Ok(());
        }
        let (mapper, name) = (&*self.shared.mapper, self.dm_name()?);
        mapper::remove(mapper, &name)
            .map_err(|failed| mapper::failure(self.op, self.id, &DmOp::Remove(name.clone()), &failed))?;
        self.disk().done(|| Step::Unmap(mapper.device(&name)));
        Ok(())
    }

    /// Whether a device shows this image: it must not be written then.
    pub(super) fn is_beneath_a_device(&self, image: &Metadata) -> Result<bool> {
        // Each device's volume has a name of its own for the image.
        if image.nlink() < 2 {
            return Ok(false);
        }
        // Where that cannot be found out, a copy does no harm.
        let attached = self.shared.mapper.is_attached(FileId::of(image)).at(Op::LoopDevice, self.id);
        Ok(attached.unwrap_or_else(|e| {
            tracing::warn!(volume = %self.id, error = %e.report(), "cannot tell whether a device shows it");
            true
        }))
    }

    /// What is running on a device cannot change its size.
    pub(super) fn refuse_to_grow_device(&self) -> Error {
        let why =
            format!("Volume {} is a device-mapper snapshot while its VM runs: stop the VM first", self.id);
        self.refuse(Kind::Busy, why)
    }
}

impl Shared {
    /// Tries whether snapshots can be made by device-mapper over files of this pool: makes a small one and removes it.
    pub(super) fn try_mapping(&self) -> std::result::Result<(), String> {
        let (mapper, dir) = (&*self.mapper, &*self.dir);
        mapper.available().map_err(|failed| failed.to_string())?;
        let text = |e: std::io::Error| e.to_string();
        let file = || -> std::result::Result<File, String> {
            let file = nameless_file(dir).map_err(text)?;
            let file = file.ok_or("its file system has no nameless files")?;
            file.set_len(store_size(CHUNK)).map_err(text)?;
            Ok(file)
        };
        let probe: VolumeName = "probe".parse().map_err(|e: BadId| e.to_string())?;
        let name = DmName::of(&dir.metadata().map_err(text)?, &probe);
        if mapper.exists(&name).map_err(text)? {
            mapper::remove(mapper, &name).map_err(|failed| failed.to_string())?;
        }
        let attach = |access| {
            mapper.attach(&file()?, access).map_err(|e| format!("cannot attach a file to a loop device: {e}"))
        };
        let (origin, store) = (attach(Access::ReadOnly)?, attach(Access::ReadWrite)?);
        let target = Target::Snapshot { origin: origin.number(), store: store.number() };
        let op = DmOp::Create { name: name.clone(), sectors: CHUNK, target };
        let made = mapper.run(&op).map_err(|failed| format!("{op}: {failed}"));
        let removed = made.is_ok().then(|| mapper::remove(mapper, &name));
        made?;
        removed.unwrap_or(Ok(())).map_err(|failed| failed.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_has_room_for_every_chunk() {
        assert_eq!(store_size(1), 128 << 10);
        assert_eq!(store_size(256), 128 << 10);
        assert_eq!(store_size(257), 256 << 10);
        assert_eq!(store_size(u64::MAX), u64::MAX);
    }

    #[test]
    fn a_way_is_what_it_is_called() {
        for way in CopyOnWrite::ALL {
            assert_eq!(way.as_str().parse::<CopyOnWrite>().unwrap(), way);
        }
        assert!("DM".parse::<CopyOnWrite>().is_err());
    }
}
