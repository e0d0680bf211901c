//! What is done to a volume, from what.

use std::os::unix::fs::FileExt;

use libvirt_qubes::config::Access;
use libvirt_qubes::ids::ByteSize;
use libvirt_qubes::storage::{
    Driver, Ending, ImportSize, Job, LvmDriver, Resize, Revisions, RevisionsToKeep, Sharing, VolumeId,
    VolumeKind, VolumeSpec,
};

use super::id;
use super::model::SIZE;

pub(super) fn spec(keep: i64) -> VolumeSpec {
    VolumeSpec {
        kind: VolumeKind::Origin,
        size: ByteSize::bytes(SIZE),
        revisions_to_keep: RevisionsToKeep::try_from(keep).unwrap(),
        access: Access::ReadWrite,
        sharing: Sharing::Source,
        ephemeral: false,
    }
}

/// A run that makes the first byte this one.
pub(super) fn run(driver: &LvmDriver, id: &VolumeId, spec: &VolumeSpec, byte: u8) {
    start(driver, id, spec, byte);
    driver.stop(id, spec, Ending::Ran).unwrap();
    driver.prepare(id, spec);
}

pub(super) fn start(driver: &LvmDriver, id: &VolumeId, spec: &VolumeSpec, byte: u8) {
    let started = driver.start(id, spec, &mut || {}, &Job::default()).unwrap().unwrap();
    std::fs::File::options().write(true).open(started.path).unwrap().write_all_at(&[byte], 0).unwrap();
}

/// What kind the volume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Origin,
    /// Of the volume `root` of template `t`.
    Snapshot,
    Volatile,
}

pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) what: What,
    pub(super) keep: i64,
    pub(super) prepare: fn(&LvmDriver, &VolumeId, &VolumeSpec),
    pub(super) act: fn(&LvmDriver, &VolumeId, &VolumeSpec) -> libvirt_qubes::Result<()>,
}

pub(super) fn runs(driver: &LvmDriver, id: &VolumeId, spec: &VolumeSpec, bytes: &[u8]) {
    driver.create(id, spec).unwrap();
    for byte in bytes {
        run(driver, id, spec, *byte);
    }
}

pub(super) const TEMPLATE: &str = "vm-templates/t/root";

fn template(driver: &LvmDriver, bytes: &[u8]) {
    runs(driver, &id(TEMPLATE), &spec(1), bytes);
}

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "create",
        what: What::Origin,
        keep: 1,
        prepare: |_, _, _| {},
        act: |d, id, spec| d.create(id, spec),
    },
    Scenario {
        name: "start",
        what: What::Origin,
        keep: 1,
        prepare: |d, id, spec| runs(d, id, spec, &[1, 2]),
        act: |d, id, spec| d.start(id, spec, &mut || {}, &Job::default()).map(drop),
    },
    Scenario {
        name: "start in place",
        what: What::Origin,
        keep: -1,
        prepare: |d, id, _| runs(d, id, &spec(2), &[1, 2]),
        act: |d, id, spec| d.start(id, spec, &mut || {}, &Job::default()).map(drop),
    },
    Scenario {
        name: "stop",
        what: What::Origin,
        keep: 2,
        prepare: |d, id, spec| {
            runs(d, id, spec, &[1, 2, 3]);
            start(d, id, spec, 4);
        },
        act: |d, id, spec| d.stop(id, spec, Ending::Ran),
    },
    Scenario {
        name: "stop without revisions",
        what: What::Origin,
        keep: 0,
        prepare: |d, id, spec| {
            runs(d, id, spec, &[1]);
            start(d, id, spec, 2);
        },
        act: |d, id, spec| d.stop(id, spec, Ending::Ran),
    },
    Scenario {
        name: "stop in place",
        what: What::Origin,
        keep: -1,
        prepare: |d, id, spec| {
            runs(d, id, spec, &[1]);
            start(d, id, spec, 2);
        },
        act: |d, id, spec| d.stop(id, spec, Ending::Ran),
    },
    Scenario {
        name: "start taken back",
        what: What::Origin,
        keep: 1,
        prepare: |d, id, spec| {
            runs(d, id, spec, &[1, 2]);
            d.start(id, spec, &mut || {}, &Job::default()).unwrap();
        },
        act: |d, id, spec| d.stop(id, spec, Ending::NeverRan),
    },
    Scenario {
        name: "recovery",
        what: What::Origin,
        keep: 2,
        prepare: |d, id, spec| {
            runs(d, id, spec, &[1, 2]);
            start(d, id, spec, 3);
        },
        act: |d, id, spec| d.recover(id, spec).map(drop),
    },
    Scenario {
        name: "import",
        what: What::Origin,
        keep: 1,
        prepare: |d, id, spec| runs(d, id, spec, &[1, 2]),
        act: |d, id, spec| {
            let mut import = d.begin_import(id, spec, ImportSize::AsItComes)?;
            import.write(&[5; 9 << 20])?;
            import.finish().map(drop)
        },
    },
    Scenario {
        name: "import of a new volume",
        what: What::Origin,
        keep: 1,
        prepare: |_, _, _| {},
        act: |d, id, spec| {
            let mut import = d.begin_import(id, spec, ImportSize::AsItComes)?;
            import.write(&[5; 4096])?;
            import.finish().map(drop)
        },
    },
    Scenario {
        name: "import broken off",
        what: What::Origin,
        keep: 1,
        prepare: |d, id, spec| runs(d, id, spec, &[1, 2]),
        act: |d, id, spec| {
            let mut import = d.begin_import(id, spec, ImportSize::AsItComes)?;
            import.write(&[5; 4096])?;
            import.abort()
        },
    },
    Scenario {
        name: "copy",
        what: What::Origin,
        keep: 1,
        prepare: |d, id, spec| {
            runs(d, id, spec, &[1, 2]);
            runs(d, &self::id("appvms/other/private"), spec, &[7]);
        },
        act: |d, id, spec| {
            let export = d.export(&self::id("appvms/other/private"), spec)?;
            d.import_from(id, spec, &export, &Job::default())
        },
    },
    Scenario {
        name: "copy to a new volume",
        what: What::Origin,
        keep: 1,
        prepare: |d, _, spec| runs(d, &id("appvms/other/private"), spec, &[7]),
        act: |d, id, spec| {
            let export = d.export(&self::id("appvms/other/private"), spec)?;
            d.import_from(id, spec, &export, &Job::default())
        },
    },
    Scenario {
        name: "revert",
        what: What::Origin,
        keep: 3,
        prepare: |d, id, spec| runs(d, id, spec, &[1, 2, 3]),
        act: |d, id, spec| {
            let revision = d.revisions(id)?.into_iter().nth(1).unwrap();
            d.revert(id, spec, &revision.id, &Job::default())
        },
    },
    Scenario {
        name: "revert without revisions to keep",
        what: What::Origin,
        keep: 0,
        prepare: |d, id, _| runs(d, id, &spec(2), &[1, 2]),
        act: |d, id, spec| {
            let revision = d.revisions(id)?.pop().unwrap();
            d.revert(id, spec, &revision.id, &Job::default())
        },
    },
    Scenario {
        name: "revert to a kept state",
        what: What::Origin,
        keep: 2,
        prepare: |d, id, spec| {
            runs(d, id, spec, &[1]);
            d.keep(id, spec, 1, &Job::default()).unwrap();
            run(d, id, spec, 2);
        },
        act: |d, id, spec| d.revert(id, spec, &"s1".parse().unwrap(), &Job::default()),
    },
    Scenario {
        name: "keep",
        what: What::Origin,
        keep: 1,
        prepare: |d, id, spec| runs(d, id, spec, &[1, 2]),
        act: |d, id, spec| d.keep(id, spec, 4, &Job::default()).map(drop),
    },
    Scenario {
        name: "resize",
        what: What::Origin,
        keep: 1,
        prepare: |d, id, spec| runs(d, id, spec, &[1, 2]),
        act: |d, id, spec| d.resize(id, spec, ByteSize::bytes(2 * SIZE)),
    },
    Scenario {
        name: "resize of a running one",
        what: What::Origin,
        keep: 1,
        prepare: |d, id, spec| {
            runs(d, id, spec, &[1]);
            start(d, id, spec, 2);
        },
        act: |d, id, spec| d.resize(id, spec, ByteSize::bytes(2 * SIZE)),
    },
    Scenario {
        name: "start of a snapshot",
        what: What::Snapshot,
        keep: 0,
        prepare: |d, _, _| template(d, &[1, 2]),
        act: |d, id, spec| d.start(id, spec, &mut || {}, &Job::default()).map(drop),
    },
    Scenario {
        name: "start of a snapshot where one is left",
        what: What::Snapshot,
        keep: 0,
        prepare: |d, id, spec| {
            template(d, &[1]);
            start(d, id, spec, 9);
        },
        act: |d, id, spec| d.start(id, spec, &mut || {}, &Job::default()).map(drop),
    },
    Scenario {
        name: "stop of a snapshot",
        what: What::Snapshot,
        keep: 0,
        prepare: |d, id, spec| {
            template(d, &[1]);
            start(d, id, spec, 9);
            run(d, &self::id(TEMPLATE), &self::spec(1), 2);
        },
        act: |d, id, spec| d.stop(id, spec, Ending::Ran),
    },
    Scenario {
        name: "resize of a snapshot",
        what: What::Snapshot,
        keep: 0,
        prepare: |d, id, spec| {
            template(d, &[1]);
            start(d, id, spec, 9);
        },
        act: |d, id, spec| d.resize(id, spec, ByteSize::bytes(2 * SIZE)),
    },
    Scenario {
        name: "stop of a source that a snapshot is of",
        what: What::Snapshot,
        keep: 0,
        prepare: |d, id, spec| {
            template(d, &[1]);
            start(d, id, spec, 9);
            start(d, &self::id(TEMPLATE), &self::spec(1), 2);
        },
        act: |d, _, _| d.stop(&id(TEMPLATE), &spec(1), Ending::Ran),
    },
    Scenario {
        name: "start of a volatile one",
        what: What::Volatile,
        keep: 0,
        prepare: |_, _, _| {},
        act: |d, id, spec| d.start(id, spec, &mut || {}, &Job::default()).map(drop),
    },
    Scenario {
        name: "start of a volatile one where one is left",
        what: What::Volatile,
        keep: 0,
        prepare: |d, id, spec| start(d, id, spec, 9),
        act: |d, id, spec| d.start(id, spec, &mut || {}, &Job::default()).map(drop),
    },
    Scenario {
        name: "stop of a volatile one",
        what: What::Volatile,
        keep: 0,
        prepare: |d, id, spec| start(d, id, spec, 9),
        act: |d, id, spec| d.stop(id, spec, Ending::Ran),
    },
    Scenario {
        name: "resize of a volatile one",
        what: What::Volatile,
        keep: 0,
        prepare: |d, id, spec| start(d, id, spec, 9),
        act: |d, id, spec| d.resize(id, spec, ByteSize::bytes(2 * SIZE)),
    },
    Scenario {
        name: "forget",
        what: What::Origin,
        keep: 2,
        prepare: |d, id, spec| runs(d, id, spec, &[1, 2]),
        act: |d, id, _| {
            let revision = d.revisions(id)?.remove(0);
            d.forget(id, &revision.id)
        },
    },
];
