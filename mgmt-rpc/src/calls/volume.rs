//! Volumes: by the VM that has them, and by their pool.

use libvirt_qubes::config::Access;
use libvirt_qubes::ids::{VmName, VolumeName};
use libvirt_qubes::qubes::class::VolumeKind;
use libvirt_qubes::qubes::{Host, PoolVolume, Refusal, VolumeFacts, VolumeRefusal};

use super::{OrFail, host};
use crate::args::volume::{Flag, NewSize, RevisionText, RevisionsToKeep, Vid, VidAnd};
use crate::cx::Cx;
use crate::failure::Failure;
use crate::reply::{Content, Reply, VolumeLines, seed};
use crate::row;
use crate::table::Row;
use crate::untrusted::Text;

pub(super) const ROWS: &[Row<Host>] = &[
    row!(Both("vm.volume.List"), Any, Local Read, (Empty, Empty) => list),
    row!(Both("vm.volume.Info"), Any, Local Read, (Required<Text>, Empty) => info),
    row!(Both("vm.volume.ListSnapshots"), Any, Local Read, (Required<Text>, Empty) => snapshots),
    row!(Both("pool.volume.List"), Dom0, Global Read, (Required<Text>, Empty) => pool_list),
    row!(
        Both("pool.volume.Info"), Dom0, Global Read, (Required<Text>, Required<Vid>) => pool_info,
        encode: seed, seed
    ),
    row!(
        Both("pool.volume.ListSnapshots"), Dom0, Global Read, (Required<Text>, Required<Vid>) => pool_snapshots
    ),
    row!(Both("vm.volume.Snapshot"), Any, Local Write, (Required<Text>, Empty) => snapshot),
    row!(Both("vm.volume.Revert"), Any, Local Write, (Required<Text>, Required<RevisionText>) => revert),
    row!(Both("vm.volume.Resize"), Any, Local Write, (Required<Text>, Required<NewSize>) => resize),
    row!(
        Mgmt("vm.volume.RemoveSnapshot"), Any, Local Write,
        (Required<Text>, Required<RevisionText>) => remove_snapshot
    ),
    row!(Both("pool.volume.Snapshot"), Dom0, Global Write, (Required<Text>, Required<Vid>) => pool_snapshot),
    row!(
        Both("pool.volume.Revert"), Dom0, Global Write,
        (Required<Text>, Required<VidAnd<RevisionText>>) => pool_revert
    ),
    row!(
        Both("pool.volume.Resize"), Dom0, Global Write, (Required<Text>, Required<VidAnd<NewSize>>) => pool_resize
    ),
    row!(
        Mgmt("pool.volume.RemoveSnapshot"), Dom0, Global Write,
        (Required<Text>, Required<VidAnd<RevisionText>>) => pool_remove_snapshot
    ),
    row!(
        Both("vm.volume.Set.revisions_to_keep"), Any, Local Write,
        (Required<Text>, Required<RevisionsToKeep>) => set_revisions_to_keep
    ),
    row!(Both("vm.volume.Set.rw"), Any, Local Write, (Required<Text>, Required<Flag>) => set_rw),
    row!(Both("vm.volume.Set.ephemeral"), Any, Local Write, (Required<Text>, Required<Flag>) => set_ephemeral),
];

async fn list(cx: &Cx<Host>) -> Result<Reply, Failure> {
    Ok(Reply::lines(cx.host.volumes(&cx.destination).or_fail(cx)?))
}

async fn info(cx: &Cx<Host>, Text(volume): Text) -> Result<Reply, Failure> {
    let facts = cx.host.volume_info(&cx.destination, &volume).await.or_fail(cx)?;
    Ok(lines(facts))
}

/// Oldest first.
async fn snapshots(cx: &Cx<Host>, Text(volume): Text) -> Result<Reply, Failure> {
    let revisions = cx.host.volume_revisions(&cx.destination, &volume).await.or_fail(cx)?;
    Ok(Reply::lines(revisions.into_iter().map(|revision| revision.id)))
}

/// The volumes of the VMs that the source may see, and kernels.
async fn pool_list(cx: &Cx<Host>, Text(pool): Text) -> Result<Reply, Failure> {
    let volumes = cx.host.pool_volumes(&pool).await.or_fail(cx)?;
    let seen = |of: &PoolVolume| match of {
        PoolVolume::OfVm { vm, .. } => cx.sees(vm),
        PoolVolume::Kernel(_) => true,
    };
    Ok(Reply::lines(volumes.into_iter().filter(|(_, of)| seen(of)).map(|(vid, _)| vid)))
}

async fn pool_info(cx: &Cx<Host>, Text(pool): Text, vid: Vid) -> Result<Reply, Failure> {
    let facts = match named(cx, &pool, vid).await? {
        PoolVolume::OfVm { vm, volume } => cx.host.volume_info(&vm, volume.as_ref()).await,
        PoolVolume::Kernel(version) => cx.host.kernel_info(&pool, version).await,
    };
    Ok(lines(facts.or_fail(cx)?))
}

async fn pool_snapshots(cx: &Cx<Host>, Text(pool): Text, vid: Vid) -> Result<Reply, Failure> {
    let revisions = match named(cx, &pool, vid).await? {
        PoolVolume::OfVm { vm, volume } => {
            cx.host.volume_revisions(&vm, volume.as_ref()).await.or_fail(cx)?
        }
        PoolVolume::Kernel(_) => Vec::new(),
    };
    Ok(Reply::lines(revisions.into_iter().map(|revision| revision.id)))
}

/// Whose a volume is that a payload names; one of a VM that the source may not see is absent.
async fn named(cx: &Cx<Host>, pool: &str, Vid(vid): Vid) -> Result<PoolVolume, Failure> {
    let found = cx.host.pool_volume(pool, &vid).await.or_fail(cx)?;
    match &found {
        PoolVolume::OfVm { vm, .. } if !cx.sees(vm) => {
            Err(Refusal::from(VolumeRefusal::NoSuchVid { vid })).or_fail(cx)
        }
        PoolVolume::OfVm { .. } | PoolVolume::Kernel(_) => Ok(found),
    }
}

fn lines(facts: VolumeFacts) -> Reply {
    Content::Volume(Box::new(VolumeLines {
        pool: facts.pool.to_string(),
        vid: facts.vid,
        size: facts.size.get(),
        usage: facts.usage.get(),
        rw: facts.access == Access::ReadWrite,
        internal: matches!(facts.kind, VolumeKind::Volatile | VolumeKind::Kernel),
        source: facts.source.unwrap_or_default(),
        path: facts.path.map(|path| path.display().to_string()).unwrap_or_default(),
        save_on_stop: facts.kind.save_on_stop(),
        snap_on_start: facts.kind.snap_on_start(),
        revisions_to_keep: facts.revisions_to_keep.into(),
        ephemeral: facts.ephemeral,
        is_outdated: facts.outdated,
    }))
    .into()
}

async fn snapshot(cx: &Cx<Host>, Text(volume): Text) -> Result<Reply, Failure> {
    let id = host(cx).snapshot_volume(&cx.destination, &volume).await.or_fail(cx)?;
    Ok(Reply::value(id.as_str()))
}

async fn revert(
    cx: &Cx<Host>,
    Text(volume): Text,
    RevisionText(revision): RevisionText,
) -> Result<Reply, Failure> {
    host(cx).revert_volume(&cx.destination, &volume, &revision).await.or_fail(cx)?;
    Ok(Reply::empty())
}

async fn resize(cx: &Cx<Host>, Text(volume): Text, NewSize(size): NewSize) -> Result<Reply, Failure> {
    host(cx).resize_volume(&cx.destination, &volume, size).await.or_fail(cx)?;
    Ok(Reply::empty())
}

async fn remove_snapshot(
    cx: &Cx<Host>,
    Text(volume): Text,
    RevisionText(revision): RevisionText,
) -> Result<Reply, Failure> {
    host(cx).remove_revision(&cx.destination, &volume, &revision).await.or_fail(cx)?;
    Ok(Reply::empty())
}

async fn pool_snapshot(cx: &Cx<Host>, Text(pool): Text, vid: Vid) -> Result<Reply, Failure> {
    let (vm, volume) = of_a_vm(cx, &pool, vid).await?;
    let id = host(cx).snapshot_volume(&vm, volume.as_ref()).await.or_fail(cx)?;
    Ok(Reply::value(id.as_str()))
}

async fn pool_revert(
    cx: &Cx<Host>,
    Text(pool): Text,
    VidAnd(vid, RevisionText(revision)): VidAnd<RevisionText>,
) -> Result<Reply, Failure> {
    let (vm, volume) = of_a_vm(cx, &pool, vid).await?;
    host(cx).revert_volume(&vm, volume.as_ref(), &revision).await.or_fail(cx)?;
    Ok(Reply::empty())
}

async fn pool_resize(
    cx: &Cx<Host>,
    Text(pool): Text,
    VidAnd(vid, NewSize(size)): VidAnd<NewSize>,
) -> Result<Reply, Failure> {
    let (vm, volume) = of_a_vm(cx, &pool, vid).await?;
    host(cx).resize_volume(&vm, volume.as_ref(), size).await.or_fail(cx)?;
    Ok(Reply::empty())
}

async fn pool_remove_snapshot(
    cx: &Cx<Host>,
    Text(pool): Text,
    VidAnd(vid, RevisionText(revision)): VidAnd<RevisionText>,
) -> Result<Reply, Failure> {
    let (vm, volume) = of_a_vm(cx, &pool, vid).await?;
    host(cx).remove_revision(&vm, volume.as_ref(), &revision).await.or_fail(cx)?;
    Ok(Reply::empty())
}

/// The same of what is to be changed: kernels are not.
async fn of_a_vm(cx: &Cx<Host>, pool: &str, vid: Vid) -> Result<(VmName, VolumeName), Failure> {
    match named(cx, pool, vid).await? {
        PoolVolume::OfVm { vm, volume } => Ok((vm, volume)),
        PoolVolume::Kernel(_) => Err(Refusal::from(VolumeRefusal::Kernel)).or_fail(cx),
    }
}

async fn set_revisions_to_keep(
    cx: &Cx<Host>,
    Text(volume): Text,
    RevisionsToKeep(number): RevisionsToKeep,
) -> Result<Reply, Failure> {
    cx.host.set_volume_revisions(&cx.destination, &volume, number).await.or_fail(cx)?;
    Ok(Reply::empty())
}

async fn set_rw(cx: &Cx<Host>, Text(volume): Text, Flag(rw): Flag) -> Result<Reply, Failure> {
    let access = if rw { Access::ReadWrite } else { Access::ReadOnly };
    cx.host.set_volume_access(&cx.destination, &volume, access).await.or_fail(cx)?;
    Ok(Reply::empty())
}

async fn set_ephemeral(cx: &Cx<Host>, Text(volume): Text, Flag(ephemeral): Flag) -> Result<Reply, Failure> {
    cx.host.set_volume_ephemeral(&cx.destination, &volume, ephemeral).await.or_fail(cx)?;
    Ok(Reply::empty())
}
