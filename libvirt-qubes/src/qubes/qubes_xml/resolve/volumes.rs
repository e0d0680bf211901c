//! The volumes of a domain: what the file says, on top of what its class has.

use std::sync::Arc;

use super::super::super::class::{VolumeDefault, VolumeKind};
use super::super::super::pool::Pool;
use super::super::super::property::{Property, parse};
use super::super::super::vm::Vm;
use super::super::super::volume::VolumeConfig;
use super::super::{Domain, VolumeEntry};
use super::Resolving;
use crate::config::Access;
use crate::ids::{ByteSize, VolumeName};

impl Resolving<'_> {
    pub(super) fn volumes(&mut self, vm: &mut Vm, domain: &Domain, about: &str) {
        let usual = vm.class.volumes();
        if usual.is_empty() {
            for entry in &domain.volumes {
                let text = format!("volume {:?} is none of a {}'s, left out", entry.name, vm.class);
                self.findings.note(entry.line, about, text);
            }
            return;
        }
        let given = |name: &str| domain.volumes.iter().rev().find(|entry| entry.name == name);
        let own = usual.iter().map(|usual| (usual.name, Some(usual), given(usual.name)));
        let mut extra: Vec<&VolumeEntry> = Vec::new();
        for entry in &domain.volumes {
            let is_usual = usual.iter().any(|usual| usual.name == entry.name);
            if !is_usual && !extra.iter().any(|known| known.name == entry.name) {
                extra.push(entry);
            }
        }
        let extra = extra.into_iter().map(|entry| (entry.name.as_str(), None, given(&entry.name)));
        for (name, usual, entry) in own.chain(extra) {
            let line = entry.map_or(domain.line, |entry| entry.line);
            match self.volume(vm, name, usual, entry) {
                Ok(volume) => vm.volumes.push(Arc::new(volume)),
                Err(reason) => self.findings.problem(line, about, format!("volume {name:?}: {reason}")),
            }
        }
    }

    fn volume(
        &mut self,
        vm: &Vm,
        name: &str,
        usual: Option<&VolumeDefault>,
        entry: Option<&VolumeEntry>,
    ) -> Result<VolumeConfig, String> {
        let get = |key: &str| entry.and_then(|entry| entry.get(key));
        let flag = |key: &str, default: bool| match get(key) {
            None => Ok(default),
            Some(text) => parse::boolean(text).ok_or_else(|| format!("{key} is {text:?}")),
        };
        let usual_kind = usual.map(|usual| usual.kind);
        let snap = flag("snap_on_start", usual_kind.is_some_and(VolumeKind::snap_on_start))?;
        let save = flag("save_on_stop", usual_kind.is_some_and(VolumeKind::save_on_stop))?;
        let parsed: VolumeName = name.parse().map_err(|error| format!("{error}"))?;
        let pool = match get("pool") {
            Some(pool) => self.model.pool(pool).ok_or_else(|| format!("there is no pool {pool:?}"))?.clone(),
            None => self.usual_pool(vm, name, snap)?,
        };
        let kind = match (pool.holds_kernels(), snap, save) {
            (true, ..) => VolumeKind::Kernel,
            (false, false, true) => VolumeKind::Origin,
            (false, true, false) => VolumeKind::Snapshot,
            (false, false, false) if usual_kind == Some(VolumeKind::Kernel) => {
                return Err(format!("its pool {} holds no kernels", pool.name));
            }
            (false, false, false) => VolumeKind::Volatile,
            (false, true, true) => return Err("snap_on_start and save_on_stop exclude each other".to_owned()),
        };
        let access = flag("rw", usual.is_none_or(|usual| usual.access == Access::ReadWrite))?;
        let ephemeral = get("ephemeral").map(|_| flag("ephemeral", false)).transpose()?;
        let revisions = get("revisions_to_keep").map(str::parse).transpose();
        let revisions: Option<i32> =
            revisions.ok().filter(|n| n.is_none_or(|n| n >= -1)).ok_or("revisions_to_keep")?;
        let stated = get("size").map(|size| size.parse::<u64>().map_err(|_| format!("size is {size:?}")));
        let stated = stated.transpose()?.filter(|size| i64::try_from(*size).is_ok());
        let size = match kind {
            VolumeKind::Origin | VolumeKind::Volatile => {
                stated.map(ByteSize::bytes).or_else(|| usual.and_then(|usual| usual.size))
            }
            VolumeKind::Snapshot | VolumeKind::Kernel => None,
        };
        let vid = match kind {
            VolumeKind::Kernel => None,
            VolumeKind::Origin | VolumeKind::Snapshot | VolumeKind::Volatile => {
                let own = self.place.naming.vid(&pool, vm.class.volume_group(), &vm.name, &parsed);
                let vid = get("vid").filter(|vid| !vid.is_empty()).unwrap_or(&own).to_owned();
                if vid != own {
                    return Err(format!("its vid is {vid:?}; in this pool it is called {own:?}"));
                }
                Some(vid.into())
            }
        };
        Ok(VolumeConfig {
            name: parsed,
            pool: pool.name.clone(),
            vid,
            kind,
            size,
            access: if access { Access::ReadWrite } else { Access::ReadOnly },
            revisions_to_keep: revisions,
            ephemeral,
            last_snapshot: 0,
        })
    }

    /// The pool of a volume for which the file names none: its source's, or the default for its name.
    fn usual_pool(&self, vm: &Vm, name: &str, snapshot: bool) -> Result<Arc<Pool>, String> {
        let template = vm.reference(Property::Template).flatten().filter(|_| snapshot);
        let source = template.and_then(|template| self.model.vm(template));
        let source = source.and_then(|template| self.model.volume_origin(template, name));
        let pool = source.map(|(_, origin)| &origin.pool).or_else(|| self.model.default_pool_of(name));
        pool.and_then(|pool| self.model.pool(pool.as_str()))
            .cloned()
            .ok_or_else(|| "it names no pool, and there is no default".to_owned())
    }
}
