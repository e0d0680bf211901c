//! A model of the kernel's device-mapper and loop devices. Devices are files of a folder, so that they outlive a process
//! that is killed, as devices do; loop devices go with their last user.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use libvirt_qubes::storage::mapper::{Attached, DeviceNumber, DmName, DmOp, Failed, Mapper, Target};
use mgmt_block::{Access, FileId};

#[derive(Debug)]
pub(crate) struct ModelOfKernel {
    devices: PathBuf,
    loops: Arc<Mutex<BTreeMap<u32, File>>>,
    next: AtomicU32,
    /// Commands until one that is done, but told to have come to no end.
    pub(crate) fails: AtomicUsize,
    /// Somebody has every device open.
    pub(crate) busy: AtomicBool,
    /// There is none.
    pub(crate) absent: bool,
    /// There is no target `crypt`.
    pub(crate) cannot_encrypt: AtomicBool,
    /// What was to be encrypted with, of each device, as the command was given it.
    keys: Mutex<Vec<String>>,
}

impl ModelOfKernel {
    pub(crate) fn new(devices: &Path) -> Self {
        std::fs::create_dir_all(devices).unwrap();
        Self {
            devices: devices.to_owned(),
            loops: Arc::default(),
            next: AtomicU32::new(0),
            fails: AtomicUsize::new(0),
            busy: AtomicBool::new(false),
            absent: false,
            cannot_encrypt: AtomicBool::new(false),
            keys: Mutex::default(),
        }
    }

    pub(crate) fn absent(devices: &Path) -> Self {
        Self { absent: true, ..Self::new(devices) }
    }

    /// The devices that there are, and what they lie on.
    pub(crate) fn devices(&self) -> Vec<String> {
        let listing = std::fs::read_dir(&self.devices).unwrap();
        listing.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    pub(crate) fn loop_devices(&self) -> usize {
        self.loops.lock().unwrap().len()
    }

    /// The keys that devices were made with, in hexadecimal.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.keys.lock().unwrap().clone()
    }

    fn beneath(&self, number: DeviceNumber) -> Result<File, Failed> {
        let loops = self.loops.lock().unwrap();
        let file = loops.get(&number.minor).filter(|_| number.major == 7);
        let file = file.ok_or_else(|| refused("Device lookup failed"))?;
        Ok(file.try_clone().unwrap())
    }

    fn create(&self, name: &DmName, sectors: u64, target: &Target) -> Result<(), Failed> {
        let path = self.device(name);
        if path.exists() {
            return Err(refused("Device or resource busy"));
        }
        let (origin, store) = match target {
            Target::Snapshot { origin, store } => (origin, store),
            Target::Crypt { device, .. } => return self.encrypt(&path, sectors, *device),
        };
        let (origin, store) = (self.beneath(*origin)?, self.beneath(*store)?);
        let size = sectors * 512;
        let chunks = size.div_ceil(128 << 10);
        assert!(sectors > 0 && origin.metadata().unwrap().len() >= size);
        assert!(store.metadata().unwrap().len() >= chunks * (128 << 10), "the store may overflow");
        assert_eq!(store.metadata().unwrap().blocks(), 0, "the store was written");
        let ids = [origin.metadata().unwrap(), store.metadata().unwrap()]
            .map(|m| format!("{}:{}", m.dev(), m.ino()));
        std::fs::write(path.with_extension("beneath"), ids.join(" ")).unwrap();
        // What is written to the copy is not in the origin: a snapshot, but for its cost.
        let mut from =
            File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&origin))).unwrap();
        let mut device = File::create_new(&path).unwrap();
        io::copy(&mut io::Read::take(&mut from, size), &mut device).unwrap();
        Ok(())
    }

    /// A file that begins with noise: what is written shows in it alone.
    fn encrypt(&self, path: &Path, sectors: u64, device: DeviceNumber) -> Result<(), Failed> {
        let beneath = self.beneath(device)?.metadata().unwrap();
        assert_eq!(beneath.len(), sectors * 512);
        std::fs::write(path.with_extension("beneath"), format!("{}:{}", beneath.dev(), beneath.ino()))
            .unwrap();
        std::fs::write(path, vec![0xa5; usize::try_from(sectors * 512).unwrap().min(1 << 20)]).unwrap();
        File::options().write(true).open(path).unwrap().set_len(sectors * 512).unwrap();
        Ok(())
    }

    fn remove(&self, name: &DmName) -> Result<(), Failed> {
        let path = self.device(name);
        if !path.exists() {
            return Err(refused("Device not found"));
        }
        if self.busy.load(Ordering::SeqCst) {
            return Err(refused("device-mapper: remove ioctl failed: Device or resource busy"));
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::remove_file(path.with_extension("beneath")).unwrap();
        Ok(())
    }
}

fn refused(why: &str) -> Failed {
    Failed::Refused(why.to_owned())
}

impl Mapper for ModelOfKernel {
    fn available(&self) -> Result<(), Failed> {
        if self.absent {
            Err(Failed::Broken("/dev/mapper/control: No such device".to_owned()))
        } else {
            Ok(())
        }
    }

    fn encrypts(&self) -> Result<(), Failed> {
        self.available()?;
        if self.cannot_encrypt.load(Ordering::SeqCst) { Err(refused("Invalid argument")) } else { Ok(()) }
    }

    fn run(&self, op: &DmOp) -> Result<(), Failed> {
        // `START LENGTH crypt CIPHER KEY ..`
        if let Some(key) = op.input().split(' ').skip_while(|word| *word != "crypt").nth(2) {
            self.keys.lock().unwrap().push(key.to_owned());
        }
        match op {
            DmOp::Create { name, sectors, target } => self.create(name, *sectors, target)?,
            DmOp::Remove(name) => self.remove(name)?,
        }
        let left = self.fails.load(Ordering::SeqCst);
        self.fails.store(left.saturating_sub(1), Ordering::SeqCst);
        if left == 1 {
            Err(Failed::TimedOut { limit: std::time::Duration::from_secs(120), said: String::new() })
        } else {
            Ok(())
        }
    }

    fn device(&self, name: &DmName) -> PathBuf {
        self.devices.join(name.as_str())
    }

    fn exists(&self, name: &DmName) -> io::Result<bool> {
        Ok(self.device(name).exists())
    }

    fn attach(&self, file: &File, access: Access) -> io::Result<Attached> {
        use rustix::fs::{OFlags, fcntl_getfl};
        let writable = fcntl_getfl(file).unwrap().contains(OFlags::RDWR);
        assert!(access == Access::ReadOnly || writable);
        let minor = self.next.fetch_add(1, Ordering::SeqCst);
        self.loops.lock().unwrap().insert(minor, file.try_clone()?);
        let hold = Loop { minor, loops: Arc::clone(&self.loops) };
        Ok(Attached::new(DeviceNumber { major: 7, minor }, hold))
    }

    fn is_attached(&self, file: FileId) -> io::Result<bool> {
        let here = self.loops.lock().unwrap().values().any(|f| FileId::of(&f.metadata().unwrap()) == file);
        let ids = self.devices().into_iter().filter(|name| name.ends_with(".beneath"));
        let beneath = ids.flat_map(|name| {
            let text = std::fs::read_to_string(self.devices.join(name)).unwrap();
            text.split(' ').map(str::to_owned).collect::<Vec<_>>()
        });
        // `FileId` shows its parts to nobody else.
        let mut beneath = beneath.map(|id| {
            let (device, inode) = id.split_once(':').unwrap();
            format!("FileId {{ device: {device}, inode: {inode} }}")
        });
        Ok(here || beneath.any(|id| id == format!("{file:?}")))
    }
}

/// A loop device that somebody has open.
struct Loop {
    minor: u32,
    loops: Arc<Mutex<BTreeMap<u32, File>>>,
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.loops.lock().unwrap().remove(&self.minor);
    }
}
