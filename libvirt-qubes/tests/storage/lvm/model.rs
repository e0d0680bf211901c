//! What LVM's commands do, on files in memory: an LV is a file, a snapshot is a copy of it, a name is taken once, an LV
//! that is open cannot be removed.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libvirt_qubes::storage::lvm::{Failed, Lv, LvName, LvOp, Resizing, Runner};
use tempfile::TempDir;

pub(super) const EXTENT: u64 = 4 << 20;
pub(super) const SIZE: u64 = EXTENT;

#[derive(Debug)]
pub(super) struct ModelOfLvm {
    dir: TempDir,
    state: Mutex<State>,
    commands: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    lvs: BTreeMap<String, Lv>,
    data_percent: f64,
    metadata_percent: f64,
    /// The pool has no device: nobody knows how full it is.
    is_inactive: bool,
    /// Nor has it one when it was activated.
    is_broken: bool,
    delay: Duration,
    has_large: bool,
}

impl ModelOfLvm {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        std::fs::create_dir(dir.path().join("qubes")).unwrap();
        // Every LV counts as large, so that each is discarded before its removal.
        let state = Mutex::new(State { has_large: true, ..State::default() });
        Self { dir, state, commands: AtomicUsize::new(0) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn path(&self, lv: &str) -> PathBuf {
        self.dir.path().join("qubes").join(lv)
    }

    pub(super) fn lvs(&self) -> Vec<String> {
        self.state().lvs.keys().cloned().collect()
    }

    pub(super) fn commands(&self) -> usize {
        self.commands.load(Ordering::SeqCst)
    }

    pub(super) fn slow_down(&self, delay: Duration) {
        self.state().delay = delay;
    }

    pub(super) fn has_only_small_lvs(&self) {
        self.state().has_large = false;
    }

    pub(super) fn fill(&self, data_percent: f64, metadata_percent: f64) {
        let mut state = self.state();
        (state.data_percent, state.metadata_percent) = (data_percent, metadata_percent);
    }

    /// The pool has no device, until it is activated or for good.
    pub(super) fn deactivate(&self, is_broken: bool) {
        let mut state = self.state();
        (state.is_inactive, state.is_broken) = (true, is_broken);
    }

    /// An LV of the thin pool that somebody else has made.
    pub(super) fn add(&self, name: &str) {
        self.make(&mut self.state(), name, "pool00", SIZE).unwrap();
    }

    /// One that is in no thin pool.
    pub(super) fn add_foreign(&self, name: &str) {
        self.make(&mut self.state(), name, "", SIZE).unwrap();
    }

    /// The first byte of an LV.
    pub(super) fn byte(&self, lv: &str) -> u8 {
        let mut byte = [0];
        std::os::unix::fs::FileExt::read_exact_at(&File::open(self.path(lv)).unwrap(), &mut byte, 0).unwrap();
        byte[0]
    }

    fn make(&self, state: &mut State, name: &str, pool: &str, size: u64) -> Result<(), Failed> {
        if state.lvs.contains_key(name) {
            let why = format!("Logical Volume \"{name}\" already exists in volume group \"qubes\"");
            return Err(Failed::Refused(why));
        }
        let lv = Lv {
            name: name.to_owned(),
            size: size.next_multiple_of(EXTENT),
            pool: pool.to_owned(),
            time: SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed(),
            ..Lv::default()
        };
        File::create_new(self.path(name)).unwrap().set_len(lv.size).unwrap();
        state.lvs.insert(name.to_owned(), lv);
        Ok(())
    }

    fn is_open(&self, lv: &str) -> bool {
        let path = self.path(lv);
        let open = |entry: std::fs::DirEntry| std::fs::read_link(entry.path()).is_ok_and(|to| to == path);
        std::fs::read_dir("/proc/self/fd").unwrap().any(|entry| open(entry.unwrap()))
    }

    fn execute(&self, op: &LvOp) -> Result<Vec<Lv>, Failed> {
        let mut state = self.state();
        let missing = |lv: &LvName| Failed::Refused(format!("Failed to find logical volume \"{lv}\""));
        let is_read_only = state.metadata_percent >= 100.0;
        if is_read_only && matches!(op, LvOp::Create { .. } | LvOp::Snapshot { .. } | LvOp::Remove(_)) {
            let why = "device-mapper: message ioctl on  (253:3) failed: Operation not supported";
            return Err(Failed::Refused(why.to_owned()));
        }
        match op {
            LvOp::Create { lv, pool, size } => self.make(&mut state, lv.lv(), pool.lv(), size.get())?,
            LvOp::Snapshot { of, lv } => {
                let origin = state.lvs.get(of.lv()).cloned().ok_or_else(|| missing(of))?;
                self.make(&mut state, lv.lv(), &origin.pool, origin.size)?;
                std::fs::copy(self.path(of.lv()), self.path(lv.lv())).unwrap();
                state.lvs.get_mut(lv.lv()).unwrap().origin = origin.name;
            }
            LvOp::Remove(lvs) => {
                for lv in lvs {
                    if !state.lvs.contains_key(lv.lv()) {
                        return Err(missing(lv));
                    }
                    if self.is_open(lv.lv()) {
                        return Err(Failed::Refused(format!("Logical volume {lv} in use.")));
                    }
                    state.lvs.remove(lv.lv());
                    std::fs::remove_file(self.path(lv.lv())).unwrap();
                    for other in state.lvs.values_mut().filter(|other| other.origin == lv.lv()) {
                        other.origin.clear();
                    }
                }
            }
            LvOp::Rename { from, to } => {
                if state.lvs.contains_key(to.lv()) {
                    let why =
                        format!("Logical Volume \"{}\" already exists in volume group \"qubes\"", to.lv());
                    return Err(Failed::Refused(why));
                }
                let mut lv = state.lvs.remove(from.lv()).ok_or_else(|| missing(from))?;
                std::fs::rename(self.path(from.lv()), self.path(to.lv())).unwrap();
                lv.name = to.lv().to_owned();
                for other in state.lvs.values_mut().filter(|other| other.origin == from.lv()) {
                    other.origin = to.lv().to_owned();
                }
                state.lvs.insert(to.lv().to_owned(), lv);
            }
            LvOp::Resize { lv, size, how } => {
                let size = size.get().next_multiple_of(EXTENT);
                let found = state.lvs.get_mut(lv.lv()).ok_or_else(|| missing(lv))?;
                let right = match how {
                    Resizing::Grow => size > found.size,
                    Resizing::Trim => size < found.size,
                };
                if !right {
                    return Err(Failed::Refused("New size matches existing size.".to_owned()));
                }
                found.size = size;
                File::options().write(true).open(self.path(lv.lv())).unwrap().set_len(size).unwrap();
            }
            LvOp::Activate(lv) => {
                if lv.lv() == "pool00" {
                    state.is_inactive = state.is_broken;
                } else if !state.lvs.contains_key(lv.lv()) {
                    return Err(missing(lv));
                }
            }
            LvOp::Names { bases, .. } => {
                let is_of = |name: &str, base: &String| {
                    name.strip_prefix(base.as_str())
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
                };
                let of = |lv: &&Lv| bases.iter().any(|base| is_of(&lv.name, base));
                return Ok(state.lvs.values().filter(of).cloned().collect());
            }
            LvOp::Figures(lvs) => {
                let figures = |name: &LvName| {
                    let lv = state.lvs.get(name.lv()).ok_or_else(|| missing(name))?;
                    let used = std::fs::metadata(self.path(name.lv())).unwrap().blocks() * 512;
                    let data_percent = Some(used as f64 * 100.0 / lv.size as f64);
                    Ok(Lv { data_percent, is_open: self.is_open(name.lv()), ..lv.clone() })
                };
                return lvs.iter().map(figures).collect();
            }
            LvOp::Pool(pool) => {
                return Ok(vec![Lv {
                    name: pool.lv().to_owned(),
                    attributes: if is_read_only { "twi-aotzM-" } else { "twi-aotz--" }.to_owned(),
                    size: 1 << 30,
                    data_percent: (!state.is_inactive).then_some(state.data_percent),
                    metadata: (!state.is_inactive).then_some((4 << 20, state.metadata_percent)),
                    chunk: 65536,
                    zeroes: true,
                    extent: EXTENT,
                    ..Lv::default()
                }]);
            }
            LvOp::All(_) => return Ok(state.lvs.values().cloned().collect()),
        }
        Ok(Vec::new())
    }
}

impl Runner for ModelOfLvm {
    fn run(&self, op: &LvOp) -> Result<Vec<Lv>, Failed> {
        self.commands.fetch_add(1, Ordering::SeqCst);
        let delay = self.state().delay;
        std::thread::sleep(delay);
        self.execute(op)
    }

    fn device(&self, lv: &LvName) -> PathBuf {
        self.path(lv.lv())
    }

    fn lv_of(&self, file: &File) -> Option<LvName> {
        let inode = file.metadata().ok()?.ino();
        let state = self.state();
        let name =
            state.lvs.keys().find(|lv| std::fs::metadata(self.path(lv)).is_ok_and(|m| m.ino() == inode))?;
        LvName::new("qubes".parse().unwrap(), name).ok()
    }

    fn is_large(&self, _lv: &LvName) -> bool {
        self.state().has_large
    }

    fn discard(&self, lv: &LvName) -> std::io::Result<()> {
        let size = std::fs::metadata(self.path(lv.lv()))?.len();
        assert!(!self.is_open(lv.lv()), "{lv} is discarded while it is open");
        // Whoever still needs what it has finds nothing.
        let file = File::options().write(true).open(self.path(lv.lv()))?;
        file.set_len(0)?;
        file.set_len(size)
    }
}
