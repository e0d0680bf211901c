//! From a [`DomainSpec`] to libxl's configuration, and what is refused before libxl is asked: it accepts a good
//! deal that it then gets wrong.

use std::collections::HashSet;
use std::ffi::c_int;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use xen_sys::{
    libxl_device_disk, libxl_disk_backend, libxl_disk_format, libxl_domain_config, libxl_domain_type,
    libxl_tsc_mode,
};

use super::calls::{init_build_info, set_defbool};
use super::ctx::Ctx;
use super::operation::What;
use super::owned::{NulInside, Owned, alloc_disks, c_string, fill_bitmap};
use crate::config::{Access, DiskSpec, DomainSpec, VirtMode};
use crate::device::DiskId;
use crate::error::{At, Error, Kind, Op, Result};

/// Far more than Xen gives any guest; bounds an allocation.
const MOST_VCPUS: u32 = 512;
/// Credit of a guest's scheduler entity; dom0 has twice as much.
const WEIGHT: c_int = 1000;

/// What can be told from the specification alone, and from the files that it names. Blocks on file systems.
pub(super) fn check(spec: &DomainSpec) -> Result<()> {
    let refuse =
        |kind, why: &str| Err(Error::new(kind, Op::CreateDomain, &spec.name).because(why.to_owned()));
    if spec.virt_mode == VirtMode::Hvm {
        return refuse(
            Kind::Unsupported,
            "this backend starts PV and PVH guests; HVM needs a stub domain, which it does not start",
        );
    }
    if spec.uuid.is_nil() {
        return refuse(Kind::Invalid, "the UUID of dom0");
    }
    if spec.memory.get() == 0 || spec.max_memory < spec.memory {
        return refuse(Kind::Invalid, "memory must be more than nothing and at most max_memory");
    }
    if spec.vcpus == 0 || spec.vcpus > MOST_VCPUS {
        return refuse(Kind::Invalid, "the number of virtual CPUs must be 1 to 512");
    }
    let Some(boot) = &spec.boot else {
        return refuse(Kind::Invalid, "a PV or PVH guest needs a kernel");
    };
    for path in [Some(&boot.kernel), boot.ramdisk.as_ref()].into_iter().flatten() {
        if !path.is_absolute() {
            return Err(
                Error::new(Kind::Invalid, Op::ReadKernel, path.display()).because("not an absolute path")
            );
        }
        std::fs::metadata(path).at(Op::ReadKernel, path.display())?;
    }
    let mut names = HashSet::new();
    for disk in &spec.disks {
        check_disk(disk)?;
        if !names.insert(disk.vdev) {
            return Err(Error::new(Kind::Invalid, Op::AttachDisk, disk.vdev).because("named twice"));
        }
    }
    Ok(())
}

/// That a disk's path is one that a disk can be made of. Blocks on file systems.
pub(super) fn check_disk(disk: &DiskSpec) -> Result<()> {
    if !disk.path.is_absolute() {
        return Err(
            Error::new(Kind::Invalid, Op::AttachDisk, disk.path.display()).because("not an absolute path")
        );
    }
    DiskId::of(&disk.path).map(drop)
}

/// What only the host can tell: a domain that cannot fit is not begun.
pub(super) fn check_host(ctx: &Ctx, what: &What, spec: &DomainSpec) -> Result<()> {
    let info = ctx.physinfo().map_err(|error| what.failed(error))?;
    let (_, page_bytes) = ctx.version().map_err(|error| what.failed(error))?;
    let free_kib = info.free_pages.saturating_add(info.scrub_pages).saturating_mul(page_bytes) / 1024;
    if spec.memory.kib() > free_kib {
        let why = format!("it asks for {} MiB, the host has {} MiB free", spec.memory, free_kib / 1024);
        return Err(what.error(Kind::NoMemory).because(why));
    }
    Ok(())
}

/// The configuration of a checked specification.
pub(super) fn domain_config(spec: &DomainSpec, block_script: &Path) -> Result<Owned<libxl_domain_config>> {
    let bad = |why: NulInside| Error::new(Kind::Invalid, Op::CreateDomain, &spec.name).because(why);
    let kind = match spec.virt_mode {
        VirtMode::Pv => libxl_domain_type::LIBXL_DOMAIN_TYPE_PV,
        VirtMode::Pvh => libxl_domain_type::LIBXL_DOMAIN_TYPE_PVH,
        VirtMode::Hvm => libxl_domain_type::LIBXL_DOMAIN_TYPE_HVM,
    };
    let mut config = Owned::<libxl_domain_config>::new();
    config.c_info.type_ = kind;
    config.c_info.name = c_string(spec.name.as_str()).map_err(bad)?;
    config.c_info.uuid.uuid = *spec.uuid.as_bytes();
    set_defbool(&mut config.c_info.run_hotplug_scripts, true);

    init_build_info(&mut config.b_info, kind);
    let build = &mut config.b_info;
    build.max_vcpus = c_int::try_from(spec.vcpus).unwrap_or(1);
    fill_bitmap(&mut build.avail_vcpus, spec.vcpus);
    build.max_memkb = spec.max_memory.kib();
    build.target_memkb = spec.memory.kib();
    build.tsc_mode = libxl_tsc_mode::LIBXL_TSC_MODE_NATIVE;
    build.sched_params.weight = WEIGHT;
    // Placement looks at the virtual CPUs of every domain there is.
    set_defbool(&mut build.numa_placement, false);
    set_defbool(&mut build.nested_hvm, false);
    if spec.virt_mode != VirtMode::Pv {
        // Only a domain that stays on this host is shown an invariant TSC.
        set_defbool(&mut build.disable_migrate, true);
    }
    if let Some(boot) = &spec.boot {
        build.kernel = c_string(boot.kernel.as_os_str().as_bytes()).map_err(bad)?;
        build.cmdline = c_string(boot.cmdline.as_str()).map_err(bad)?;
        if let Some(ramdisk) = &boot.ramdisk {
            build.ramdisk = c_string(ramdisk.as_os_str().as_bytes()).map_err(bad)?;
        }
    }
    let places = alloc_disks(&mut config, spec.disks.len());
    for (place, disk) in places.iter_mut().zip(&spec.disks) {
        fill_disk(place, disk, block_script)?;
    }
    Ok(config)
}

/// A disk for a hot plug.
pub(super) fn device_disk(disk: &DiskSpec, block_script: &Path) -> Result<Owned<libxl_device_disk>> {
    let mut place = Owned::<libxl_device_disk>::new();
    fill_disk(&mut place, disk, block_script)?;
    Ok(place)
}

/// Fills a disk that is as after `_init`.
fn fill_disk(place: &mut libxl_device_disk, disk: &DiskSpec, block_script: &Path) -> Result<()> {
    let bad = |why: NulInside| Error::new(Kind::Invalid, Op::AttachDisk, disk.path.display()).because(why);
    place.backend_domid = 0;
    place.pdev_path = c_string(disk.path.as_os_str().as_bytes()).map_err(bad)?;
    place.vdev = c_string(disk.vdev.to_string()).map_err(bad)?;
    // An absolute path is taken as it is; libxl never looks at a disk that has a script.
    place.script = c_string(block_script.as_os_str().as_bytes()).map_err(bad)?;
    place.backend = libxl_disk_backend::LIBXL_DISK_BACKEND_PHY;
    place.format = libxl_disk_format::LIBXL_DISK_FORMAT_RAW;
    place.readwrite = c_int::from(disk.access == Access::ReadWrite);
    place.removable = 1;
    set_defbool(&mut place.trusted, true);
    Ok(())
}

/// The number that Xen's block protocol gives a disk (xen/include/public/io/blkif.h, "Notes on device IDs").
pub(super) fn devid(vdev: crate::ids::Vdev) -> u32 {
    let index = u32::from(vdev.index());
    if index < 16 { (202 << 8) | (index << 4) } else { (1 << 28) | (index << 8) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Boot;
    use crate::ids::{MemoryMib, Vdev};
    use std::path::PathBuf;
    use uuid::Uuid;

    fn disk(vdev: &str, path: &str) -> DiskSpec {
        DiskSpec { vdev: vdev.parse().unwrap(), path: PathBuf::from(path), access: Access::ReadWrite }
    }

    fn good(folder: &Path) -> DomainSpec {
        let kernel = folder.join("vmlinuz");
        std::fs::write(&kernel, b"k").unwrap();
        std::fs::write(folder.join("a.img"), b"d").unwrap();
        DomainSpec {
            name: "work".parse().unwrap(),
            uuid: Uuid::from_u128(1),
            virt_mode: VirtMode::Pvh,
            memory: MemoryMib::new(16),
            max_memory: MemoryMib::new(32),
            vcpus: 2,
            boot: Some(Boot { kernel, ramdisk: None, cmdline: "quiet".to_owned() }),
            disks: vec![disk("xvda", folder.join("a.img").to_str().unwrap())],
        }
    }

    #[test]
    fn what_libxl_would_get_wrong_is_refused_with_the_kind_that_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let spec = good(folder.path());
        check(&spec).unwrap();
        let refused = |change: &dyn Fn(&mut DomainSpec)| {
            let mut spec = spec.clone();
            change(&mut spec);
            check(&spec).unwrap_err().kind()
        };
        assert_eq!(refused(&|s| s.virt_mode = VirtMode::Hvm), Kind::Unsupported);
        assert_eq!(refused(&|s| s.uuid = Uuid::nil()), Kind::Invalid);
        assert_eq!(refused(&|s| s.max_memory = MemoryMib::new(8)), Kind::Invalid);
        assert_eq!(refused(&|s| s.memory = MemoryMib::new(0)), Kind::Invalid);
        assert_eq!(refused(&|s| s.vcpus = 0), Kind::Invalid);
        assert_eq!(refused(&|s| s.vcpus = 513), Kind::Invalid);
        assert_eq!(refused(&|s| s.boot = None), Kind::Invalid);
        assert_eq!(refused(&|s| s.boot.as_mut().unwrap().kernel = "/nowhere/vmlinuz".into()), Kind::NotFound);
        assert_eq!(refused(&|s| s.boot.as_mut().unwrap().ramdisk = Some("initramfs".into())), Kind::Invalid);
        assert_eq!(refused(&|s| s.disks.push(disk("xvdb", "/nowhere/b.img"))), Kind::NotFound);
        assert_eq!(refused(&|s| s.disks.push(disk("xvdb", "b.img"))), Kind::Invalid);
        assert_eq!(refused(&|s| s.disks.push(s.disks[0].clone())), Kind::Invalid);
    }

    #[test]
    fn the_configuration_holds_what_the_specification_says() {
        let folder = tempfile::tempdir().unwrap();
        let spec = good(folder.path());
        let config = domain_config(&spec, Path::new("/x/mgmt-block")).unwrap();
        assert_eq!(config.b_info.max_vcpus, 2);
        assert_eq!((config.b_info.target_memkb, config.b_info.max_memkb), (16 << 10, 32 << 10));
        assert_eq!(config.c_info.uuid.uuid, *spec.uuid.as_bytes());
        assert_eq!(config.num_disks, 1);
        assert!(config.b_info.ramdisk.is_null());
    }

    #[test]
    fn a_command_line_with_a_nul_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut spec = good(folder.path());
        spec.boot.as_mut().unwrap().cmdline = "a\0b".to_owned();
        assert_eq!(domain_config(&spec, Path::new("/x")).err().unwrap().kind(), Kind::Invalid);
    }

    #[test]
    fn disks_have_the_numbers_of_the_block_protocol() {
        for (name, number) in [("xvda", 51712), ("xvdi", 51840), ("xvdp", 51952), ("xvdq", 268_439_552)] {
            assert_eq!(devid(name.parse::<Vdev>().unwrap()), number, "{name}");
        }
    }
}
