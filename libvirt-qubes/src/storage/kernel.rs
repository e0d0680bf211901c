//! The driver `linux-kernel`: a folder per version, with `vmlinuz`, and where there are any `initramfs` and
//! `modules.img`. It only reads; an administrator puts kernels there and takes them away. So a crash leaves nothing, but for the
//! pool's folder, empty, when it comes while a pool is added: the caller has noted it, and removes it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{
    Contents, Driver, Ending, Export, ImportSize, ImportWriter, Job, Kernel, Kernels, PoolPlace, PoolUsage,
    Recovered, Started, VolumeId, VolumeInfo, VolumeKind, VolumeSpec, place,
};
use crate::config::Access;
use crate::error::{At, Error, Kind, Op, Result};
use crate::ids::{ByteSize, KernelVersion};

/// A pool of kernels.
#[derive(Debug, Clone)]
pub struct KernelDriver {
    dir: PathBuf,
}

impl KernelDriver {
    /// The pool in `dir`, which `setup` makes.
    ///
    /// # Errors
    /// `Invalid` for a path that cannot be made absolute.
    pub fn new(dir: &Path) -> Result<Self> {
        let dir = std::path::absolute(dir)
            .map_err(|e| Error::new(Kind::Invalid, Op::SetupPool, dir.display()).because(e))?;
        Ok(Self { dir })
    }

    /// Which kernel a volume is, and its modules, if both are there.
    fn modules(&self, op: Op, id: &VolumeId, spec: &VolumeSpec) -> Result<Option<PathBuf>> {
        match &spec.kind {
            VolumeKind::Kernel { version: Some(version) } => Ok(self.find(op, version)?.modules),
            VolumeKind::Kernel { version: None } => Ok(None),
            VolumeKind::Volatile | VolumeKind::Snapshot { .. } | VolumeKind::Origin => {
                Err(unsupported(op, id, "a pool of kernels holds no other volumes"))
            }
        }
    }

    fn find(&self, op: Op, version: &KernelVersion) -> Result<Kernel> {
        let dir = self.dir.join(version.as_str());
        let vmlinuz = dir.join("vmlinuz");
        if !vmlinuz.is_file() {
            let why = format!("the kernel {version} needs the file {}", vmlinuz.display());
            return Err(Error::new(Kind::NotFound, op, version).because(why));
        }
        let optional = |name: &str| Some(dir.join(name)).filter(|path| path.is_file());
        Ok(Kernel { vmlinuz, initramfs: optional("initramfs"), modules: optional("modules.img") })
    }
}

fn unsupported(op: Op, id: &VolumeId, why: &str) -> Error {
    Error::new(Kind::Unsupported, op, id).because(why)
}

impl Driver for KernelDriver {
    fn name(&self) -> &'static str {
        "linux-kernel"
    }

    fn setup(&self) -> Result<()> {
        place::needs_parent(&self.dir)?;
        place::must_be_folder(&self.dir)?;
        match std::fs::create_dir(&self.dir) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && self.dir.is_dir() => Ok(()),
            made => made.at(Op::SetupPool, self.dir.display()),
        }
    }

    /// A folder that is not there has no kernels for now.
    fn resume(&self) -> Result<()> {
        Ok(())
    }

    /// The version.
    fn vid(&self, _id: &VolumeId, spec: &VolumeSpec) -> String {
        match &spec.kind {
            VolumeKind::Kernel { version: Some(version) } => version.to_string(),
            VolumeKind::Kernel { version: None }
            | VolumeKind::Volatile
            | VolumeKind::Snapshot { .. }
            | VolumeKind::Origin => String::new(),
        }
    }

    fn pool_place(&self) -> PoolPlace {
        PoolPlace::folder(&self.dir)
    }

    fn folders(&self) -> Vec<PathBuf> {
        vec![self.dir.clone()]
    }

    fn vacant(&self, _id: &VolumeId) -> Result<()> {
        Ok(())
    }

    fn create(&self, id: &VolumeId, spec: &VolumeSpec) -> Result<()> {
        match spec.kind {
            VolumeKind::Kernel { .. } => Ok(()),
            VolumeKind::Volatile | VolumeKind::Snapshot { .. } | VolumeKind::Origin => {
                Err(unsupported(Op::CreateVolume, id, "a pool of kernels holds no other volumes"))
            }
        }
    }

    fn remove(&self, _id: &VolumeId) -> Result<()> {
        Ok(())
    }

    fn verify(&self, id: &VolumeId, spec: &VolumeSpec) -> Result<()> {
        self.modules(Op::VerifyVolume, id, spec).map(drop)
    }

    fn start(
        &self,
        id: &VolumeId,
        spec: &VolumeSpec,
        _release_source: &mut dyn FnMut(),
        _job: &Job,
    ) -> Result<Option<Started>> {
        let modules = self.modules(Op::StartVolume, id, spec)?;
        Ok(modules.map(|path| Started { path, access: Access::ReadOnly }))
    }

    fn stop(&self, _id: &VolumeId, _spec: &VolumeSpec, _ending: Ending) -> Result<()> {
        Ok(())
    }

    fn recover(&self, _id: &VolumeId, _spec: &VolumeSpec) -> Result<Recovered> {
        Ok(Recovered::Clean)
    }

    fn begin_import(
        &self,
        id: &VolumeId,
        _spec: &VolumeSpec,
        _size: ImportSize,
    ) -> Result<Box<dyn ImportWriter>> {
        Err(unsupported(Op::ImportVolume, id, "a kernel is a folder of files, put there by hand"))
    }

    fn import_from(&self, id: &VolumeId, _spec: &VolumeSpec, _source: &Export, _job: &Job) -> Result<()> {
        Err(unsupported(Op::ImportVolume, id, "a kernel is a folder of files, put there by hand"))
    }

    fn export(&self, id: &VolumeId, _spec: &VolumeSpec) -> Result<Export> {
        Err(unsupported(Op::ExportVolume, id, "a kernel is a folder of files"))
    }

    fn info(&self, id: &VolumeId, spec: &VolumeSpec) -> Result<VolumeInfo> {
        let op = Op::InspectStorage;
        // A folder that has gone is an error of verify and start; figures are zero then.
        let path = self
            .modules(op, id, spec)
            .or_else(|e| if e.kind() == Kind::NotFound { Ok(None) } else { Err(e) })?;
        let size = match &path {
            Some(path) => std::fs::metadata(path).at(op, path.display())?.size(),
            None => 0,
        };
        Ok(VolumeInfo {
            size: ByteSize::bytes(size),
            usage: ByteSize::bytes(0),
            path,
            dirty: false,
            outdated: Some(false),
        })
    }

    fn usage(&self) -> Result<Option<PoolUsage>> {
        Ok(None)
    }

    /// Kernels are no volumes of a VM.
    fn contents(&self) -> Result<Contents> {
        Ok(Contents::default())
    }

    fn as_kernels(&self) -> Option<&dyn Kernels> {
        Some(self)
    }
}

impl Kernels for KernelDriver {
    fn versions(&self) -> Result<Vec<KernelVersion>> {
        let at = self.dir.display();
        let mut versions = Vec::new();
        for entry in std::fs::read_dir(&self.dir).at(Op::ReadKernel, &at)? {
            let entry = entry.at(Op::ReadKernel, &at)?;
            let version = entry.file_name().into_string().ok().and_then(|name| name.parse().ok());
            // Also one without an image: what is wrong with it, its reader says.
            versions.extend(version.filter(|_| entry.path().is_dir()));
        }
        versions.sort();
        Ok(versions)
    }

    fn kernel(&self, version: &KernelVersion) -> Result<Kernel> {
        self.find(Op::ReadKernel, version)
    }
}
