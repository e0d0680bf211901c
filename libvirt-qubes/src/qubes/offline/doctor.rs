//! Examining a state: the database, what is set aside in it, and what lies in the pools.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::super::class::VolumeKind;
use super::super::model::Model;
use super::super::pending::PendingKind;
use super::super::pool::Pool;
use super::super::store::Mend;
use super::super::store::doctor;
use super::super::volumes;
use crate::error::Result;
use crate::ids::PoolName;
use crate::storage::{Contents, Driver, DriverKind, Tuning, VolumeId};

/// What an examination found.
#[derive(Debug, Serialize)]
pub struct Examined {
    /// The version of the store's schema.
    pub schema: usize,
    /// The version that this release knows; an older one is migrated at the next start.
    pub known_schema: usize,
    /// VMs, dom0 included.
    pub vms: usize,
    /// What a person should look at.
    pub findings: Vec<Trouble>,
    /// What a repair would do; what it did, if it was asked for.
    pub repairs: Vec<String>,
    /// The copy of the database that was made before the repair.
    pub copy: Option<PathBuf>,
}

/// Something that is not in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// What kind of thing.
    pub kind: TroubleKind,
    /// What it is about.
    pub about: String,
    /// What is wrong.
    pub text: String,
}

/// Kinds of what is not in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TroubleKind {
    /// SQLite finds the file damaged.
    Damage,
    /// Rows refer to none.
    Dangling,
    /// A row breaks a rule.
    SetAside,
    /// An operation did not end; the next start undoes or finishes it.
    Unfinished,
    /// A pool cannot be looked at.
    Pool,
    /// A VM's volume is not there.
    MissingVolume,
    /// A volume is there that is no VM's.
    UnownedVolume,
    /// Something that is no volume lies in a pool.
    UnknownFile,
    /// The ballast is missing.
    Ballast,
}

impl TroubleKind {
    /// The kind in words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Damage => "damaged database",
            Self::Dangling => "dangling rows",
            Self::SetAside => "row set aside",
            Self::Unfinished => "unfinished operation",
            Self::Pool => "pool",
            Self::MissingVolume => "missing volume",
            Self::UnownedVolume => "volume of no VM",
            Self::UnknownFile => "unknown file",
            Self::Ballast => "ballast",
        }
    }
}

/// Examines a state directory, and repairs what can be without loss if that is asked for. Nothing in a pool is ever
/// changed; its driver is opened with `tuning`.
///
/// # Errors
/// There is no store, it is in use, or cannot be read.
pub fn doctor(state: &Path, mend: Mend, tuning: &Tuning) -> Result<Examined> {
    let seen = doctor::look(state, mend)?;
    let model = &seen.model;
    let mut findings = Vec::new();
    let mut add =
        |kind, about: &str, text: String| findings.push(Trouble { kind, about: about.to_owned(), text });
    seen.damage.iter().for_each(|text| add(TroubleKind::Damage, "state.db", text.clone()));
    seen.dangling.iter().for_each(|text| add(TroubleKind::Dangling, "state.db", text.clone()));
    for row in model.set_aside() {
        add(TroubleKind::SetAside, &format!("{} {:?}", row.table, row.name), row.reason.clone());
    }
    let pools: Vec<_> = model.pools().map(|pool| (pool, contents(pool, tuning))).collect();
    let unusable = pools.iter().filter_map(|(pool, looked)| looked.is_err().then_some(&pool.name)).collect();
    due(model, &unusable, &mut add);
    for (pool, looked) in pools {
        match looked {
            Ok(Some((driver, contents))) => compare(model, pool, &*driver, &contents, &mut add),
            Ok(None) => {}
            Err(reason) => add(TroubleKind::Pool, pool.name.as_str(), reason),
        }
    }
    if !seen.ballast {
        add(TroubleKind::Ballast, "ballast", "it is missing or too small".to_owned());
    }
    let (schema, known_schema) = seen.schema;
    let vms = model.vm_count();
    Ok(Examined { schema, known_schema, vms, findings, repairs: seen.repairs, copy: seen.copy })
}

/// What is still to be done, and what it waits for.
fn due(model: &Model, unusable: &HashSet<&PoolName>, add: &mut impl FnMut(TroubleKind, &str, String)) {
    // That a disposable runs is no trouble.
    for row in model.pending().filter(|row| row.kind != PendingKind::Run) {
        let (kind, phase) = row.kind.words();
        let phase = phase.map(|phase| format!(", {phase}")).unwrap_or_default();
        let waits = row.volumes.iter().map(|volume| &volume.pool).find(|pool| unusable.contains(pool));
        let when = waits.map_or_else(
            || "at the next start".to_owned(),
            |pool| format!("once the pool {pool} can be used"),
        );
        add(TroubleKind::Unfinished, row.vm.name.as_str(), format!("{kind}{phase}; settled {when}"));
    }
    for folder in model.folders() {
        let text = "made for a pool that was not added; removed at the next start if it is empty";
        add(TroubleKind::Unfinished, folder, text.to_owned());
    }
    for vm in model.vms() {
        for (volume, pool) in vm.started.keys().filter(|(_, pool)| unusable.contains(pool)) {
            let text = format!(
                "its volume {volume} was started in the pool {pool}: what a run has left there is settled once that can be used"
            );
            add(TroubleKind::Unfinished, vm.name.as_str(), text);
        }
    }
}

/// A pool's driver, and what lies in the pool.
type Looked = (Arc<dyn Driver>, Contents);

/// What lies in a pool of volumes; `None` for a pool of kernels, and where there is no folder yet.
fn contents(pool: &Pool, tuning: &Tuning) -> std::result::Result<Option<Looked>, String> {
    let kind =
        pool.driver.parse::<DriverKind>().map_err(|_| format!("there is no driver {:?}", &*pool.driver))?;
    if kind == DriverKind::LinuxKernel {
        return Ok(None);
    }
    let options = pool.options.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    let driver = kind.open(&pool.name, &options, tuning.clone()).map_err(|error| error.report())?;
    let contents = driver.contents().map_err(|error| error.report())?;
    Ok(Some((driver, contents)))
}

fn compare(
    model: &Model,
    pool: &Pool,
    driver: &dyn Driver,
    contents: &Contents,
    add: &mut impl FnMut(TroubleKind, &str, String),
) {
    // The name in its pool is what a volume is known by: not every driver's names tell a template from another VM.
    let vid = |id: &VolumeId| driver.vid(id, &volumes::any_spec());
    let there: HashSet<String> = contents.volumes.iter().map(vid).collect();
    let at = |id: &VolumeId| format!("{} in pool {}", vid(id), pool.name);
    let mut run = HashSet::new();
    for vm in model.vms() {
        // What a run has left lies where it was started.
        let started = vm.started.keys().filter(|(_, started)| *started == pool.name);
        run.extend(started.map(|(volume, _)| vid(&volumes::id(vm, volume))));
        let lasting = vm.volumes.iter().filter(|v| v.kind == VolumeKind::Origin && v.pool == pool.name);
        for volume in lasting {
            let id = volumes::id(vm, &volume.name);
            if !there.contains(&vid(&id)) {
                add(TroubleKind::MissingVolume, &at(&id), format!("volume {} of {}", volume.name, vm.name));
            }
        }
    }
    let owned = |vid: &str| model.occupant(pool.name.as_str(), vid).is_some() || run.contains(vid);
    for id in contents.volumes.iter().filter(|id| !owned(&vid(id))) {
        add(TroubleKind::UnownedVolume, &at(id), "no VM has it; it is left alone".to_owned());
    }
    for path in &contents.unknown {
        let text = format!("no volume of pool {}; it is left alone", pool.name);
        add(TroubleKind::UnknownFile, &path.display().to_string(), text);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::super::super::class::VmClass;
    use super::super::super::snapshot::{HostView, VolumeNaming};
    use super::super::super::testing::{self, make, new_vm};
    use super::*;
    use crate::storage::lvm::{Failed, Lv, LvOp, Runner};
    use crate::storage::{LvmDriver, VolumeSpec};

    /// The LVs of a thin pool.
    #[derive(Debug, Default)]
    struct Lvs(Mutex<Vec<Lv>>);

    impl Lvs {
        fn add(&self, name: &str) {
            let lv = Lv { name: name.to_owned(), pool: "pool00".to_owned(), ..Lv::default() };
            self.0.lock().unwrap().push(lv);
        }
    }

    impl Runner for Lvs {
        fn run(&self, op: &LvOp) -> std::result::Result<Vec<Lv>, Failed> {
            match op {
                LvOp::Create { lv, .. } => self.add(lv.lv()),
                LvOp::Pool(pool) => {
                    let (name, attributes) = (pool.lv().to_owned(), "twi-a".to_owned());
                    let data_percent = Some(0.0);
                    let lv =
                        Lv { name, attributes, data_percent, extent: 4 << 20, zeroes: true, ..Lv::default() };
                    return Ok(vec![lv]);
                }
                LvOp::Names { bases, .. } => {
                    let lvs = self.0.lock().unwrap();
                    return Ok(lvs.iter().filter(|lv| bases.contains(&lv.name)).cloned().collect());
                }
                LvOp::All(_) => return Ok(self.0.lock().unwrap().clone()),
                LvOp::Snapshot { .. }
                | LvOp::Remove(_)
                | LvOp::Rename { .. }
                | LvOp::Resize { .. }
                | LvOp::Activate(_)
                | LvOp::Figures(_) => panic!("{op}"),
            }
            Ok(Vec::new())
        }
    }

    #[test]
    fn volumes_on_lvm_are_known_by_the_names_of_their_lvs() {
        let lvs = Arc::new(Lvs::default());
        let pool = crate::storage::lvm::LvName::new("qubes".parse().unwrap(), "pool00").unwrap();
        let runner = Arc::clone(&lvs) as Arc<dyn Runner>;
        let driver = Arc::new(LvmDriver::with_runner(pool, Tuning::default(), runner));
        driver.setup().unwrap();
        let names = Arc::clone(&driver);
        let naming = VolumeNaming::new(move |_: &Pool, group, owner, volume| {
            names.vid(&VolumeId::new(group, owner.clone(), volume.clone()), &volumes::any_spec())
        });
        let mut seen = testing::first_model();
        seen.cells.host = Arc::new(HostView { naming, ..testing::host() });
        make(&mut seen, &new_vm("debian", VmClass::TemplateVm, None));
        make(&mut seen, &new_vm("a-b", VmClass::AppVm, Some("debian")));
        let pool = Arc::clone(seen.model.pool("varlibqubes").unwrap());
        let spec = VolumeSpec { kind: crate::storage::VolumeKind::Origin, ..volumes::any_spec() };
        let mut made = 0;
        for vm in seen.model.vms() {
            for volume in vm.volumes.iter().filter(|volume| volume.kind == VolumeKind::Origin) {
                driver.create(&volumes::id(vm, &volume.name), &spec).unwrap();
                made += 1;
            }
        }
        assert_eq!(made, 3, "the template's two, and one private");
        let found = || {
            let mut found = Vec::new();
            let mut add = |kind, about: &str, _| found.push((kind, about.to_owned()));
            compare(&seen.model, &pool, &*driver, &driver.contents().unwrap(), &mut add);
            found
        };
        // What a run has is a VM's too.
        for lv in ["vm-a-b-root-snap", "vm-a-b-volatile", "vm-debian-root-1700000000-back"] {
            lvs.add(lv);
        }
        assert_eq!(found(), []);
        lvs.add("vm-nobody-root");
        lvs.add("vm-debian-root-1-gone");
        lvs.0.lock().unwrap().retain(|lv| lv.name != "vm-a-b-private");
        let wrong = [
            (TroubleKind::MissingVolume, "qubes/vm-a-b-private in pool varlibqubes".to_owned()),
            (TroubleKind::UnownedVolume, "qubes/vm-nobody-root in pool varlibqubes".to_owned()),
            (TroubleKind::UnknownFile, "/dev/qubes/vm-debian-root-1-gone".to_owned()),
        ];
        assert_eq!(found(), wrong);
    }
}
