//! The driver `file` whose snapshots are made by device-mapper, on a model of it; and on the kernel's, where there is one.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use libvirt_qubes::Kind;
use libvirt_qubes::config::Access;
use libvirt_qubes::contract::storage::{Fixture, storage_contract};
use libvirt_qubes::ids::ByteSize;
use libvirt_qubes::storage::mapper::{DeviceMapper, Mapper};
use libvirt_qubes::storage::{
    CopyOnWrite, Driver, DriverKind, Ending, ImageDriver, Job, Recovered, Resize, RevisionsToKeep, Sharing,
    Tuning, VolumeId, VolumeKind, VolumeSpec,
};
use tempfile::TempDir;

use crate::filesystem::allocated;
use crate::kernel_model::ModelOfKernel;

const SIZE: u64 = 8 << 20;

/// A pool and the kernel's model of it.
struct Bench {
    dir: TempDir,
    kernel: Arc<ModelOfKernel>,
    driver: ImageDriver,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let kernel = Arc::new(ModelOfKernel::new(&dir.path().join("devices")));
        let driver = Self::driver(&dir, &kernel);
        driver.setup().unwrap();
        Self { dir, kernel, driver }
    }

    fn driver(dir: &TempDir, kernel: &Arc<ModelOfKernel>) -> ImageDriver {
        let driver = ImageDriver::file(&dir.path().join("pool")).unwrap();
        driver.copy_on_write(CopyOnWrite::DeviceMapper, Arc::clone(kernel) as Arc<dyn Mapper>)
    }

    /// The driver of a daemon that was started anew; the VMs run on.
    fn restart(&mut self) {
        self.kernel = Arc::new(ModelOfKernel::new(&self.dir.path().join("devices")));
        self.driver = Self::driver(&self.dir, &self.kernel);
        self.driver.setup().unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("pool").join(name)
    }

    fn start(&self, id: &VolumeId, spec: &VolumeSpec) -> libvirt_qubes::Result<PathBuf> {
        self.driver.start(id, spec, &mut || {}, &Job::default()).map(|started| started.unwrap().path)
    }

    fn run(&self, id: &VolumeId, spec: &VolumeSpec, byte: u8) {
        write(&self.start(id, spec).unwrap(), byte);
        self.driver.stop(id, spec, Ending::Ran).unwrap();
    }

    /// A template whose root holds this byte, and the root of a VM that is based on it.
    fn template(&self, byte: u8) -> (VolumeId, VolumeId, VolumeSpec) {
        let template = id("vm-templates/base/root");
        self.driver.create(&template, &origin(0)).unwrap();
        self.run(&template, &origin(0), byte);
        let root = VolumeSpec { kind: VolumeKind::Snapshot { source: template.clone() }, ..origin(0) };
        (template, id("appvms/work/root"), root)
    }

    fn assert_nothing_is_left_of_work(&self) {
        assert_eq!(self.kernel.devices(), Vec::<String>::new());
        assert_eq!(self.kernel.loop_devices(), 0);
        let left = std::fs::read_dir(self.path("appvms/work")).map(Iterator::count).unwrap_or(0);
        assert_eq!(left, 0);
    }
}

fn id(text: &str) -> VolumeId {
    text.parse().unwrap()
}

fn origin(keep: i64) -> VolumeSpec {
    VolumeSpec {
        kind: VolumeKind::Origin,
        size: ByteSize::bytes(SIZE),
        revisions_to_keep: RevisionsToKeep::try_from(keep).unwrap(),
        access: Access::ReadWrite,
        sharing: Sharing::Source,
        ephemeral: false,
    }
}

fn write(path: &Path, byte: u8) {
    File::options().write(true).open(path).unwrap().write_all_at(&[byte; 4096], 0).unwrap();
}

fn first(path: &Path) -> u8 {
    let mut byte = [0];
    File::open(path).unwrap().read_exact_at(&mut byte, 0).unwrap();
    byte[0]
}

struct OnModel(TempDir);

impl Fixture for OnModel {
    fn new_pool(&self) -> Arc<dyn Driver> {
        let dir = tempfile::Builder::new().tempdir_in(&self.0).unwrap().keep();
        let kernel = Arc::new(ModelOfKernel::new(&dir.join("devices")));
        let driver = ImageDriver::file(&dir.join("pool")).unwrap();
        Arc::new(driver.copy_on_write(CopyOnWrite::Auto, kernel))
    }
}

#[test]
fn file_with_snapshots_by_device_mapper_keeps_the_contract() {
    storage_contract(&OnModel(tempfile::tempdir().unwrap()));
}

#[test]
fn file_keeps_the_contract_on_the_kernels_device_mapper() {
    let dir = tempfile::tempdir().unwrap();
    let new = |way| {
        let dir = tempfile::Builder::new().tempdir_in(&dir).unwrap().keep().join("pool");
        let mapper = Arc::new(DeviceMapper::new(Duration::from_secs(120)));
        ImageDriver::file(&dir).unwrap().copy_on_write(way, mapper)
    };
    if let Err(why) = new(CopyOnWrite::DeviceMapper).setup() {
        println!("skipped: file_keeps_the_contract_on_the_kernels_device_mapper: {}", why.report());
        return;
    }
    struct Real<F>(F);
    impl<F: Fn(CopyOnWrite) -> ImageDriver + Send + Sync> Fixture for Real<F> {
        fn new_pool(&self) -> Arc<dyn Driver> {
            Arc::new((self.0)(CopyOnWrite::DeviceMapper))
        }
    }
    storage_contract(&Real(new));
}

#[test]
fn a_start_takes_no_space_and_its_stop_leaves_nothing() {
    let bench = Bench::new();
    let (template, work, root) = bench.template(1);
    assert!(allocated(&bench.path("vm-templates/base/root.img")) > 0);
    let device = bench.start(&work, &root).unwrap();
    assert_eq!(device.parent().unwrap(), bench.dir.path().join("devices"));
    assert_eq!(allocated(&bench.path("appvms/work/root-dirty-cow.img")), 0);
    assert!(!bench.path("appvms/work/root-dirty.img").exists());
    let info = bench.driver.info(&work, &root).unwrap();
    assert_eq!((info.size.get(), info.path.as_ref()), (SIZE, Some(&device)));
    assert_eq!((info.dirty, info.outdated, info.usage.get()), (true, Some(false), 0));
    assert_eq!(bench.driver.contents().unwrap().volumes, [work.clone(), template.clone()]);
    assert_eq!(bench.driver.contents().unwrap().unknown, Vec::<PathBuf>::new());

    let why = bench.driver.resize(&work, &root, ByteSize::bytes(2 * SIZE)).unwrap_err();
    assert_eq!(why.kind(), Kind::Busy);
    bench.driver.resize(&template, &origin(0), ByteSize::bytes(2 * SIZE)).unwrap();
    assert_eq!(bench.driver.info(&work, &root).unwrap().outdated, Some(true), "the next start is larger");
    bench.driver.stop(&work, &root, Ending::Ran).unwrap();
    bench.assert_nothing_is_left_of_work();
    assert_eq!(bench.driver.info(&work, &root).unwrap().path, Some(device));
}

#[test]
fn an_image_beneath_a_device_is_not_written_in_place() {
    let mut bench = Bench::new();
    let (template, work, root) = bench.template(1);
    let in_place = origin(-1);
    bench.run(&template, &in_place, 2);
    bench.start(&work, &root).unwrap();
    let shown = bench.path("appvms/work/root.img");
    for restarted in [false, true] {
        if restarted {
            bench.restart();
        }
        // The name of the present state has gone with the run before, the image beneath the device has not.
        bench.start(&template, &in_place).unwrap();
        assert!(restarted || bench.path("vm-templates/base/root.img").exists(), "it is written in place");
        write(&bench.path("vm-templates/base/root-dirty.img"), 3);
        assert_eq!(first(&shown), 2);
        bench.driver.stop(&template, &in_place, Ending::Ran).unwrap();
        assert_eq!(first(&shown), 2);
    }
    assert_eq!(bench.driver.info(&work, &root).unwrap().outdated, Some(true));
    bench.driver.stop(&work, &root, Ending::Ran).unwrap();
    // Nothing is in the way any more.
    bench.start(&template, &in_place).unwrap();
    assert!(!bench.path("vm-templates/base/root.img").exists());
}

#[test]
fn what_runs_through_a_restart_is_left_alone_until_its_stop() {
    let mut bench = Bench::new();
    let (template, work, root) = bench.template(1);
    let device = bench.start(&work, &root).unwrap();
    write(&device, 7);
    bench.restart();
    bench.driver.recover(&template, &origin(0)).unwrap();
    bench.driver.recover(&id("appvms/other/root"), &root).unwrap();
    assert_eq!(first(&device), 7);
    assert_eq!(bench.driver.info(&work, &root).unwrap().path.as_ref(), Some(&device));
    assert_eq!(bench.driver.recover(&work, &root).unwrap(), Recovered::Dropped);
    bench.assert_nothing_is_left_of_work();
}

#[test]
fn files_without_their_device_are_dropped_as_after_a_power_cut() {
    let bench = Bench::new();
    let (_, work, root) = bench.template(1);
    bench.start(&work, &root).unwrap();
    for device in bench.kernel.devices() {
        std::fs::remove_file(bench.dir.path().join("devices").join(device)).unwrap();
    }
    assert_eq!(bench.driver.recover(&work, &root).unwrap(), Recovered::Dropped);
    bench.assert_nothing_is_left_of_work();
    assert_eq!(bench.driver.recover(&work, &root).unwrap(), Recovered::Clean);
}

#[test]
fn a_command_that_fails_leaves_nothing_or_what_the_next_one_ends() {
    let bench = Bench::new();
    let (_, work, root) = bench.template(1);
    // Made, but told to have come to no end.
    bench.kernel.fails.store(1, Ordering::SeqCst);
    let why = bench.start(&work, &root).unwrap_err();
    assert_eq!(why.kind(), Kind::TimedOut);
    assert!(why.report().contains("dmsetup create"), "{}", why.report());
    assert_eq!((bench.kernel.devices().len(), bench.kernel.loop_devices()), (0, 0));
    bench.driver.recover(&work, &root).unwrap();
    bench.assert_nothing_is_left_of_work();

    // Somebody has it open: the volume stays as it is, for another try.
    let device = bench.start(&work, &root).unwrap();
    bench.kernel.busy.store(true, Ordering::SeqCst);
    assert_eq!(bench.driver.stop(&work, &root, Ending::Ran).unwrap_err().kind(), Kind::Busy);
    assert_eq!(bench.start(&work, &root).unwrap_err().kind(), Kind::Busy);
    assert_eq!(bench.driver.remove(&work).unwrap_err().kind(), Kind::Busy);
    assert_eq!(first(&device), 1);
    assert_eq!(bench.driver.info(&work, &root).unwrap().path.as_ref(), Some(&device));
    bench.kernel.busy.store(false, Ordering::SeqCst);
    bench.driver.remove(&work).unwrap();
    bench.assert_nothing_is_left_of_work();
}

#[test]
fn without_device_mapper_it_is_refused_where_asked_for_and_done_without_else() {
    let dir = tempfile::tempdir().unwrap();
    let kernel = Arc::new(ModelOfKernel::absent(&dir.path().join("devices")));
    let pool = dir.path().join("pool");
    let driver =
        |way| ImageDriver::file(&pool).unwrap().copy_on_write(way, Arc::clone(&kernel) as Arc<dyn Mapper>);
    let why = driver(CopyOnWrite::DeviceMapper).setup().unwrap_err();
    assert_eq!(why.kind(), Kind::Unsupported);
    assert!(why.report().contains("/dev/mapper/control"), "{}", why.report());
    assert!(!pool.exists(), "a refused pool leaves its folder");

    let driver = driver(CopyOnWrite::Auto);
    driver.setup().unwrap();
    let bench = Bench { kernel, driver, dir };
    let (_, work, root) = bench.template(1);
    assert_eq!(bench.start(&work, &root).unwrap(), bench.path("appvms/work/root-dirty.img"));
    assert_eq!(bench.driver.info(&work, &root).unwrap().path, Some(bench.path("appvms/work/root-dirty.img")));
}

#[test]
fn the_option_is_the_drivers() {
    let dir = tempfile::tempdir().unwrap();
    let open = |way: &str| {
        let options = [("dir_path", dir.path().join("pool").display().to_string()), ("cow", way.to_owned())];
        let options = options.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        DriverKind::File.open(&"fast".parse().unwrap(), &options, Tuning::default())
    };
    open("copy").unwrap().setup().unwrap();
    open("auto").unwrap().setup().unwrap();
    assert_eq!(open("snapshots").unwrap_err().kind(), Kind::Invalid);
    match open("dm").unwrap().setup() {
        Ok(()) => assert!(DeviceMapper::new(Duration::from_secs(1)).available().is_ok()),
        Err(why) => assert_eq!(why.kind(), Kind::Unsupported, "{}", why.report()),
    }
}
