//! The drivers `file` and `file-reflink`: a volume is a handful of image files in its VM's folder.
//!
//! They share names ([`names`](self)), order of steps and recovery, and differ in how an image is copied and in when
//! it need not be:
//!
//! | | `file-reflink` | `file` |
//! |---|---|---|
//! | copies | share blocks (`FICLONE`) | data, without holes |
//! | copy for the next start is made | once a new state is committed and answered (`V-precache.img`) | at the start |
//! | written in place, without a copy | `revisions_to_keep = -1` | that, and: nobody may take it as source and no revision is kept |
//! | a snapshot of an origin | is a copy | is a device of device-mapper ([`CopyOnWrite`]), else a copy |
//!
//! ## Order of steps
//!
//! A *commit* of `V-dirty.img` or `V-import.img`: its data is made durable; the clean image gets a second name, its
//! revision's; the new image is renamed over the clean one; the folder is made durable: that is the moment. Then
//! surplus revisions go. There is a whole clean image at every moment, and a revision is
//! the former image itself, not a copy of it. A crash leaves at worst a revision that is the clean image under a
//! second name: such a one is nobody's, and is removed.
//!
//! Whatever an operation does, its caller waits for two syncs: of the data that is to get a name that means something, and of
//! the folder once it has it. Where the data is durable already, as after the last flush of a guest, or the copy that
//! was prepared, the first costs nothing or is not there. The first state of a volume has a third: its folder may be new.
//! Until then a crash leaves no folder, or one that is empty or has an unfinished file. What is worth nothing after a
//! crash (volatile volumes, snapshots) is not synced at all. The copy for the next start is made after the answer
//! ([`prepare`](Driver::prepare)); its data is durable before it gets its name, so that a start is a rename and one sync. A
//! crash leaves it, or an unfinished file.
//!
//! *Written in place* means that the start renames clean to dirty and the stop renames it back. So names alone say
//! what is going on: dirty without clean is a volume that cannot be a source now.
//!
//! ## Snapshots by device-mapper
//!
//! Such a start copies nothing, however large the source. A device shows the source's image and keeps what is written
//! in a sparse file. The image stays what it is while the device has it open, whatever becomes of the source: commits
//! rename. The one thing that would write it, a start of the source in place, makes a copy instead. While it runs, such
//! a snapshot cannot grow; should its file system get full, what is written is lost and so is the device, until the
//! next start.
//!
//! | step | after a kill | after a power cut |
//! |---|---|---|
//! | start: link the source's clean image as `V.img` | the link | the link |
//! | make the store `V-dirty-cow.img` | both files | as far as they had come to the disk |
//! | attach the image, attach the store to loop devices | both files: the kernel detaches with the process | both files |
//! | make the device | the device, both files | both files |
//! | stop: remove the device | both files: the kernel detaches with the device | both files |
//! | remove store, link | what is left of them | as far as it had come to the disk |
//!
//! Recovery, and a start, begin with the device: where there is a store there may be one. Its name tells whose it is.
//! The store is worth nothing without it, so that what is left is dropped as a copy would be. Recovery is only asked of
//! volumes that no domain has: the device of one that runs through a restart of the caller is never touched.
//!
//! ## Whether a snapshot is outdated
//!
//! It is when its source's image is another file than the link, or has another length or time of its last change than an
//! extended attribute of what the run writes says (`user.mgmt.source`): a source that is written in place, or grown, stays the
//! same file. Where the file system has no such attributes, and of a run that an older release started, only the file tells. Two
//! changes within a tick of the clock are one.
//!
//! ## Space
//!
//! Above the watermark ([`near_full`](ImageDriver::near_full)) what takes space is refused: imports (one that gets there on
//! its way, too), and copies that cannot share blocks, a start's and a kept state's included. What shares blocks or renames does not, nor does going
//! back to a kept state, which may give more than it takes.
//!
//! ## What counts as an image
//!
//! Regular files, in folders that are no links. What else has an image's name is refused as
//! [`Corrupt`](Kind::Corrupt), and never followed, opened or waited for; a removal unlinks it.
//!
//! A start looks for the unfinished only in its own volume; nothing else in the folder is ever touched.
//!
//! ## A pool that is away
//!
//! `setup` makes the folders of both groups, once; nothing else ever does. Where one is not there, the pool's file system
//! is not mounted: whatever would write, or needs data, is refused, recovery included, so that nothing is written beneath
//! a mount point and nothing counts as gone that only cannot be seen. Figures are the spec's then. Nothing is kept open to
//! know this, and a folder that was copied to another disk is the pool.
//!
#![doc = include_str!("crashes.md")]

mod away;
mod contents;
mod copy;
mod cow;
mod disk;
mod import;
mod lifecycle;
mod names;
mod place;
mod probe;
mod regular;
mod revisions;
mod room;
mod source_note;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub use cow::CopyOnWrite;
pub use disk::Step;

use self::copy::{Copy, Method};
use self::disk::Disk;
use self::place::Place;
use super::mapper::{DeviceMapper, Mapper};
use super::uses::Uses;
use super::watermark::Watermark;
use super::{
    Contents, Driver, Ending, Export, ImportSize, ImportWriter, Job, PoolPlace, PoolUsage, Recovered, Resize,
    Revisions, RevisionsToKeep, Sharing, Started, Tuning, VolumeGroup, VolumeId, VolumeInfo, VolumeSpec,
    place as places,
};
use crate::error::{At, Error, Kind, Op, Result};
use crate::ids::{ByteSize, PoolName};
use crate::storage::about::About;

/// Whether `setup` tries if the file system can share blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetupCheck {
    /// Try, and refuse a place that cannot.
    Probe,
    /// Take the administrator's word; where blocks cannot be shared, data is copied.
    Skip,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flavour {
    File,
    Reflink(SetupCheck),
}

/// A pool of image files below one folder.
#[derive(Debug, Clone)]
pub struct ImageDriver {
    shared: Arc<Shared>,
}

/// What imports and exports hold on to.
#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    /// What the pool is called, for errors.
    name: Option<PoolName>,
    flavour: Flavour,
    disk: Disk,
    uses: Uses,
    near_full_percent: Option<u8>,
    watermark: Watermark,
    cow: CopyOnWrite,
    mapper: Arc<dyn Mapper>,
    /// Whether it is known how snapshots are made. Held while that is found out.
    chosen: Mutex<bool>,
    /// What was found: snapshots are made by device-mapper.
    maps: AtomicBool,
}

impl ImageDriver {
    /// The driver `file`: any file system with hard links.
    ///
    /// # Errors
    /// `Invalid` for a path that cannot be made absolute.
    pub fn file(dir: &Path) -> Result<Self> {
        Self::new(dir, Flavour::File, Disk::default())
    }

    /// The driver `file-reflink`: a file system whose files can share blocks (XFS, btrfs).
    ///
    /// # Errors
    /// As [`file`](Self::file).
    pub fn reflink(dir: &Path, check: SetupCheck) -> Result<Self> {
        Self::new(dir, Flavour::Reflink(check), Disk::default())
    }

    fn new(dir: &Path, flavour: Flavour, disk: Disk) -> Result<Self> {
        let dir = std::path::absolute(dir)
            .map_err(|e| Error::new(Kind::Invalid, Op::SetupPool, dir.display()).because(e))?;
        let mapper = Arc::new(DeviceMapper::new(Tuning::default().command_limit));
        Ok(Self {
            shared: Arc::new(Shared {
                dir,
                name: None,
                flavour,
                disk,
                uses: Uses::default(),
                near_full_percent: None,
                watermark: Watermark::default(),
                cow: CopyOnWrite::Copy,
                mapper,
                chosen: Mutex::new(false),
                maps: AtomicBool::new(false),
            }),
        })
    }

    /// The same pool, before its first use, with something changed.
    fn with(&self, change: impl FnOnce(&mut Shared)) -> Self {
        let Shared { dir, name, flavour, disk, near_full_percent, cow, mapper, .. } = &*self.shared;
        let mut shared = Shared {
            dir: dir.clone(),
            name: name.clone(),
            flavour: *flavour,
            disk: disk.clone(),
            uses: Uses::default(),
            near_full_percent: *near_full_percent,
            watermark: Watermark::default(),
            cow: *cow,
            mapper: Arc::clone(mapper),
            chosen: Mutex::new(false),
            maps: AtomicBool::new(false),
        };
        change(&mut shared);
        Self { shared: Arc::new(shared) }
    }

    /// The same pool, called so in its errors. Before its first use.
    #[must_use]
    pub fn named(&self, name: &PoolName) -> Self {
        self.with(|shared| shared.name = Some(name.clone()))
    }

    /// The same pool, refusing what takes space while its file system is `percent` full. Before its first use.
    #[must_use]
    pub fn near_full(&self, percent: u8) -> Self {
        self.with(|shared| shared.near_full_percent = Some(percent))
    }

    /// The same pool of the driver `file`, with snapshots made in this way; without, they are copies. Before its first
    /// use.
    #[must_use]
    pub fn copy_on_write(&self, way: CopyOnWrite, mapper: Arc<dyn Mapper>) -> Self {
        self.with(|shared| (shared.cow, shared.mapper) = (way, mapper))
    }

    /// The same pool, with `observer` told of each step on disk, on the thread that makes it. For tests of crashes:
    /// an observer that ends the process is a crash after that step.
    #[must_use]
    pub fn observed(&self, observer: impl Fn(&Step) + Send + Sync + 'static) -> Self {
        self.with(|shared| shared.disk = Disk::observed(observer))
    }

    /// Whether files below `dir` can share blocks. `dir` exists.
    ///
    /// # Errors
    /// If a file cannot be made there at all.
    pub fn can_share_blocks(dir: &Path) -> Result<bool> {
        let at = dir.display();
        let file = || nameless_file(dir).at(Op::SetupPool, &at);
        // Without nameless files it is none of the file systems that can share blocks.
        let (Some(source), Some(target)) = (file()?, file()?) else { return Ok(false) };
        std::io::Write::write_all(&mut &source, b"mgm").at(Op::SetupPool, &at)?;
        copy::share(&source, &target).at(Op::SetupPool, &at)
    }

    /// Removes what the set-up of a pool in `dir` has left when it was cut off.
    ///
    /// # Errors
    /// Of the file system.
    pub fn clear_set_up(dir: &Path) -> Result<()> {
        probe::remove_left(dir).at(Op::SetupPool, dir.display())
    }

    /// Makes the pool's folders, as far as they are not there, once `fits` has found nothing against the place.
    fn make_place(&self, fits: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let Shared { dir, flavour, disk, .. } = &*self.shared;
        places::needs_parent(dir)?;
        std::iter::once(dir.clone())
            .chain(VolumeGroup::ALL.map(|group| dir.join(group.as_str())))
            .try_for_each(|path| places::must_be_folder(&path))?;
        let made = disk.make_dir(dir).at(Op::SetupPool, dir.display())?;
        let fits = fits(dir).and_then(|()| {
            if *flavour == Flavour::Reflink(SetupCheck::Probe) && !Self::can_share_blocks(dir)? {
                let advice =
                    "the file system does not support reflinks: use XFS or btrfs, or the driver file";
                return Err(Error::new(Kind::Unsupported, Op::SetupPool, dir.display()).because(advice));
            }
            self.shared.choose_way()
        });
        if let Err(refused) = fits {
            if made {
                disk.remove_empty_dir(dir).at(Op::SetupPool, dir.display())?;
            }
            return Err(refused);
        }
        for group in VolumeGroup::ALL {
            let path = dir.join(group.as_str());
            disk.make_dir(&path).at(Op::SetupPool, path.display())?;
        }
        Ok(())
    }

    /// A volume's place, to be looked at.
    fn place<'a>(&'a self, id: &'a VolumeId, op: Op) -> Place<'a> {
        Place::new(&self.shared, id, op)
    }

    /// A volume's place, to be worked on: the pool is there.
    fn at_work<'a>(&'a self, id: &'a VolumeId, op: Op) -> Result<Place<'a>> {
        self.shared.is_there(op, id)?;
        Ok(self.place(id, op))
    }
}

impl Shared {
    fn method(&self) -> Method {
        match self.flavour {
            Flavour::File => Method::Data,
            Flavour::Reflink(_) => Method::Share,
        }
    }

    /// Whether snapshots are made by device-mapper.
    fn maps(&self) -> bool {
        self.maps.load(Ordering::Relaxed)
    }

    /// Finds out in which way snapshots are made, unless that is known.
    fn choose_way(&self) -> Result<()> {
        let mut chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        if !*chosen {
            self.find_way()?;
            *chosen = true;
        }
        Ok(())
    }

    fn find_way(&self) -> Result<()> {
        let tried = match (self.flavour, self.cow) {
            (Flavour::Reflink(_), _) | (Flavour::File, CopyOnWrite::Copy) => return Ok(()),
            (Flavour::File, CopyOnWrite::Auto | CopyOnWrite::DeviceMapper) => self.try_mapping(),
        };
        self.maps.store(tried.is_ok(), Ordering::Relaxed);
        match tried {
            Err(why) if self.cow == CopyOnWrite::DeviceMapper => {
                let why = format!("no snapshots by device-mapper here: {why}; cow=copy does without");
                Err(Error::new(Kind::Unsupported, Op::SetupPool, self.dir.display()).because(why))
            }
            Err(why) => {
                tracing::info!(dir = %self.dir.display(), why, "snapshots are copies: no device-mapper here");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Whether a start may do without a copy.
    fn writes_in_place(&self, spec: &VolumeSpec) -> bool {
        match (self.flavour, spec.revisions_to_keep) {
            (_, RevisionsToKeep::Disabled) => true,
            (Flavour::File, RevisionsToKeep::Newest(0)) => spec.sharing == Sharing::Private,
            (Flavour::File | Flavour::Reflink(_), RevisionsToKeep::Newest(_)) => false,
        }
    }

    /// Whether a copy for the next start is made ahead of it.
    fn prepares_copies(&self, spec: &VolumeSpec) -> bool {
        matches!(self.flavour, Flavour::Reflink(_)) && spec.revisions_to_keep != RevisionsToKeep::Disabled
    }
}

impl Driver for ImageDriver {
    fn name(&self) -> &'static str {
        match self.shared.flavour {
            Flavour::File => "file",
            Flavour::Reflink(_) => "file-reflink",
        }
    }

    fn setup(&self) -> Result<()> {
        self.make_place(probe::probe)
    }

    /// The place was tried out when the pool was added.
    fn resume(&self) -> Result<()> {
        if self.shared.away().is_some() { Ok(()) } else { self.shared.choose_way() }
    }

    fn away(&self) -> Option<String> {
        self.shared.away()
    }

    fn vid(&self, id: &VolumeId, _spec: &VolumeSpec) -> String {
        id.to_string()
    }

    fn pool_place(&self) -> PoolPlace {
        PoolPlace::folder(&self.shared.dir)
    }

    fn folders(&self) -> Vec<PathBuf> {
        let dir = &self.shared.dir;
        std::iter::once(dir.clone()).chain(VolumeGroup::ALL.map(|group| dir.join(group.as_str()))).collect()
    }

    fn vacant(&self, id: &VolumeId) -> Result<()> {
        self.at_work(id, Op::CreateVolume)?.vacant()
    }

    fn create(&self, id: &VolumeId, spec: &VolumeSpec) -> Result<()> {
        self.shared.placed(self.at_work(id, Op::CreateVolume)?.create(spec))
    }

    fn remove(&self, id: &VolumeId) -> Result<()> {
        self.at_work(id, Op::RemoveVolume)?.remove_all()
    }

    fn verify(&self, id: &VolumeId, spec: &VolumeSpec) -> Result<()> {
        self.at_work(id, Op::VerifyVolume)?.verify(spec)
    }

    fn start(
        &self,
        id: &VolumeId,
        spec: &VolumeSpec,
        release_source: &mut dyn FnMut(),
        job: &Job,
    ) -> Result<Option<Started>> {
        let place = self.at_work(id, Op::StartVolume)?;
        // The pool may have been away until now.
        self.shared.choose_way()?;
        self.shared.placed(place.start(spec, release_source, job)).map(Some)
    }

    fn stop(&self, id: &VolumeId, spec: &VolumeSpec, ending: Ending) -> Result<()> {
        self.shared.placed(self.at_work(id, Op::StopVolume)?.stop(spec, ending))
    }

    fn prepare(&self, id: &VolumeId, spec: &VolumeSpec) {
        self.place(id, Op::StartVolume).prepare(spec);
    }

    fn recover(&self, id: &VolumeId, spec: &VolumeSpec) -> Result<Recovered> {
        self.shared.placed(self.at_work(id, Op::Recover)?.recover(spec))
    }

    fn begin_import(
        &self,
        id: &VolumeId,
        spec: &VolumeSpec,
        size: ImportSize,
    ) -> Result<Box<dyn ImportWriter>> {
        self.shared.is_there(Op::ImportVolume, id)?;
        Ok(Box::new(self.shared.placed(import::ImageImport::begin(&self.shared, id, spec, size))?))
    }

    fn import_from(&self, id: &VolumeId, spec: &VolumeSpec, source: &Export, job: &Job) -> Result<()> {
        self.shared.is_there(Op::ImportVolume, id)?;
        self.shared.placed(import::copy_from(&self.shared, id, spec, source, job))
    }

    fn export(&self, id: &VolumeId, spec: &VolumeSpec) -> Result<Export> {
        let place = self.at_work(id, Op::ExportVolume)?;
        place.persistent(spec)?;
        place.open_clean()
    }

    fn info(&self, id: &VolumeId, spec: &VolumeSpec) -> Result<VolumeInfo> {
        self.place(id, Op::InspectStorage).info(spec)
    }

    fn usage(&self) -> Result<Option<PoolUsage>> {
        self.shared.is_there(Op::InspectStorage, &self.shared.dir.display())?;
        self.shared.usage(Op::InspectStorage).map(Some)
    }

    fn shares_blocks(&self) -> bool {
        self.shared.flavour == Flavour::Reflink(SetupCheck::Probe)
    }

    fn contents(&self) -> Result<Contents> {
        self.shared.contents()
    }

    fn as_resize(&self) -> Option<&dyn Resize> {
        Some(self)
    }

    fn as_revisions(&self) -> Option<&dyn Revisions> {
        Some(self)
    }
}

impl Resize for ImageDriver {
    fn resize(&self, id: &VolumeId, spec: &VolumeSpec, size: ByteSize) -> Result<()> {
        self.shared.placed(self.at_work(id, Op::ResizeVolume)?.resize(spec, size))
    }
}

/// A new file below `dir` that goes with its handle; `None` where the file system has no such files.
fn nameless_file(dir: &Path) -> std::io::Result<Option<File>> {
    use rustix::fs::{CWD, Mode, OFlags, openat};
    match openat(CWD, dir, OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR) {
        Ok(fd) => Ok(Some(File::from(fd))),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => Ok(None),
        Err(e) => Err(e.into()),
    }
}
