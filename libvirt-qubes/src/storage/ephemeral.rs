//! Volatile volumes that are encrypted with a key that nobody keeps.
//!
//! Whatever the driver: it makes the plain volume ready as always, and the domain is given a device of dm-crypt over it
//! (AES-XTS, 512 random bits). The key goes to the kernel by `dmsetup`'s standard input and is forgotten, so that what
//! the domain wrote cannot be read once the device is gone, by whoever gets at the disk.
//!
//! | step | after a kill | after a power cut |
//! |---|---|---|
//! | start: the driver's | what it says | what it says |
//! | attach a file to a loop device | the plain volume: the kernel detaches with the process | the plain volume |
//! | make the device | the device over the plain volume | the plain volume: noise |
//! | write zeros at its beginning | the same | the same |
//! | stop: remove the device | the plain volume: the kernel detaches with the device | the same |
//! | the driver's | what it says | what it says |
//!
//! Start, stop, recovery and removal of a volume begin with a device of its name that is there, also when the volume is
//! none of this kind any more. Where nothing can encrypt, such a volume is not started: never does one run as a plain one.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::PathBuf;

use mgmt_block::Access;

use super::mapper::{self, Attached, DeviceNumber, DmName, DmOp, Failed, Key, Mapper, Target};
use super::{Started, VolumeId, VolumeKind, VolumeSpec};
use crate::error::{At, Error, Kind, Op, Result};

/// What a guest finds at the beginning of such a volume is zeros, as on every new one: no old signature by chance.
static WIPED: [u8; 64 << 10] = [0; 64 << 10];

/// Refuses what would have to do without.
pub(super) fn can_encrypt(mapper: &dyn Mapper, op: Op, target: impl fmt::Display) -> Result<()> {
    mapper.encrypts().map_err(|why| {
        let do_what = "ephemeral volumes take root, dmsetup and the kernel's dm-crypt: see to these, or set \
                       ephemeral to False";
        Error::new(Kind::Unsupported, op, target).because(format!("{why}; {do_what}"))
    })
}

/// The same for a start, before anything is made.
pub(super) fn check(mapper: &dyn Mapper, id: &VolumeId, spec: &VolumeSpec) -> Result<()> {
    if !spec.ephemeral {
        return Ok(());
    }
    if spec.kind != VolumeKind::Volatile || spec.access == crate::config::Access::ReadOnly {
        let why =
            "only what is empty at each start and may be written can be ephemeral: set ephemeral to False";
        return Err(Error::new(Kind::Unsupported, Op::EncryptVolume, id).because(why));
    }
    can_encrypt(mapper, Op::EncryptVolume, id)
}

/// Encrypts what a driver has started.
pub(super) fn start(mapper: &dyn Mapper, id: &VolumeId, plain: &Started) -> Result<Started> {
    let op = Op::EncryptVolume;
    let at = plain.path.display();
    let mut file = OpenOptions::new().read(true).write(true).open(&plain.path).at(op, &at)?;
    let sectors = file.seek(SeekFrom::End(0)).at(op, &at)? / 512;
    let beneath = block_device(mapper, &file).at(op, &at)?;
    let name = DmName::of_ephemeral(id);
    let key = Key::random().at(op, id)?;
    let command =
        DmOp::Create { name: name.clone(), sectors, target: Target::Crypt { device: beneath.number(), key } };
    let made = match mapper.run(&command) {
        // A process of an earlier start was killed amidst its work: a device that nobody has in its tables.
        Err(Failed::Refused(_)) if mapper.exists(&name).unwrap_or(false) => {
            mapper::remove(mapper, &name).and_then(|()| mapper.run(&command))
        }
        made => made,
    };
    made.map_err(|failed| mapper::failure(op, id, &command, &failed))?;
    let device = mapper.device(&name);
    let wipe = || {
        let file = File::options().write(true).open(&device)?;
        let length = usize::try_from(sectors.saturating_mul(512)).unwrap_or(usize::MAX).min(WIPED.len());
        file.write_all_at(WIPED.get(..length).unwrap_or_default(), 0)?;
        file.sync_all()
    };
    wipe().at(op, device.display())?;
    Ok(Started { path: device, access: plain.access })
}

fn block_device(mapper: &dyn Mapper, file: &File) -> std::io::Result<Attached> {
    let metadata = file.metadata()?;
    if metadata.file_type().is_block_device() {
        let (major, minor) = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
        return Ok(Attached::new(DeviceNumber { major, minor }, file.try_clone()?));
    }
    mapper.attach(file, Access::ReadWrite)
}

/// The device of a volume that is encrypted now.
pub(super) fn device(mapper: &dyn Mapper, id: &VolumeId, spec: &VolumeSpec) -> Option<PathBuf> {
    let device = || mapper.device(&DmName::of_ephemeral(id));
    (spec.kind == VolumeKind::Volatile).then(device).filter(|path| path.symlink_metadata().is_ok())
}

/// Removes the device of a volume, if there is one.
pub(super) fn stop(mapper: &dyn Mapper, id: &VolumeId, spec: &VolumeSpec, op: Op) -> Result<()> {
    if !spec.ephemeral && device(mapper, id, spec).is_none() {
        return Ok(());
    }
    // Nobody has ever made one where there is no device-mapper.
    if device(mapper, id, spec).is_none() && mapper.available().is_err() {
        return Ok(());
    }
    let name = DmName::of_ephemeral(id);
    let removed = mapper::remove(mapper, &name);
    removed.map_err(|failed| mapper::failure(op, id, &DmOp::Remove(name), &failed))
}
