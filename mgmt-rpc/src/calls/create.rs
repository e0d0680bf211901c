//! Making VMs.

use std::collections::BTreeMap;

use libvirt_qubes::ids::{PoolName, VmName, VolumeName};
use libvirt_qubes::qubes::{self, CreateRequest, Host, VmClass};

use super::{OrFail, host};
use crate::args::{Create, CreateInPool, DisposableAnswer, NewClone, NewVm, Pools, Preload};
use crate::cx::Cx;
use crate::failure::Failure;
use crate::reply::Reply;
use crate::row;
use crate::server::{Upload, UploadError};
use crate::table::Row;
use crate::untrusted::Text;
use crate::wire::{Class, Exception};

/// The classes, for the names of calls that hold one.
const CLASSES: &[&str] = &["AdminVM", "AppVM", "DispVM", "RemoteVM", "StandaloneVM", "TemplateVM"];

pub(super) const ROWS: &[Row<Host>] = &[
    row!(Both("vm.Create.", CLASSES, ""), Dom0, Global Write, (Optional<Text>, Optional<Create>) => create),
    row!(
        Both("vm.CreateInPool.", CLASSES, ""), Dom0, Global Write,
        (Optional<Text>, Optional<CreateInPool>) => create_in_pool
    ),
    row!(
        Both("vm.CreateTemplate"), Dom0, Global Write, (Required<VmName>, Stream) => create_template,
        cancel: InPayload
    ),
    row!(
        Both("vm.CreateDisposable"), Any, Global Write,
        (Optional<Preload>, Optional<DisposableAnswer>) => create_disposable
    ),
    row!(Both("vm.Clone"), Vm, Global Write, (Empty, Required<NewClone>) => clone),
];

/// A piece of an image: large enough that a copy is cheap, small enough that many uploads fit.
const PIECE: usize = 512 << 10;

async fn create(cx: &Cx<Host>, template: Text, payload: Create) -> Result<Reply, Failure> {
    make(cx, template, payload.0).await
}

async fn create_in_pool(cx: &Cx<Host>, template: Text, payload: CreateInPool) -> Result<Reply, Failure> {
    make(cx, template, payload.0).await
}

async fn make(cx: &Cx<Host>, Text(template): Text, new: NewVm) -> Result<Reply, Failure> {
    let class: VmClass =
        cx.class.parse().map_err(|_| Failure::internal("the table names an unknown class"))?;
    let template = match template.as_str() {
        "" => None,
        // What has no template says so, whatever was named.
        _ if class.template_rule() == qubes::class::TemplateRule::None => Some(VmName::dom0()),
        name => Some(cx.vm(name)?),
    };
    let pools = pools(new.pools)?;
    let request =
        CreateRequest { name: new.name, class, label: new.label, template, pools, source: cx.source.clone() };
    host(cx).create(request).await.or_fail(cx)?;
    Ok(Reply::empty())
}

/// A pool's name that is none names no pool.
fn pools(pools: Pools) -> Result<qubes::Pools, Failure> {
    let unknown = |name: &str| Exception::new(Class::QubesException, "Unknown storage pool %s", [name]);
    let pool = |name: &str| name.parse::<PoolName>().map_err(|_| unknown(name));
    Ok(match pools {
        Pools::Default => qubes::Pools::Default,
        Pools::All(name) => qubes::Pools::All(pool(&name)?),
        Pools::Some(some) => {
            let mut each = BTreeMap::new();
            for chosen in some {
                let volume: VolumeName =
                    chosen.volume.parse().map_err(|_| Failure::internal("a volume's name is none"))?;
                each.insert(volume, pool(&chosen.pool)?);
            }
            qubes::Pools::Each(each)
        }
    })
}

/// The image goes to the pool as it comes. The client's half-close ends it; a client that is gone before that has
/// broken off.
async fn create_template(cx: &Cx<Host>, name: VmName, mut image: Upload) -> Result<Reply, Failure> {
    // The first bytes, however few, reserve the name.
    let mut piece = vec![0; PIECE];
    let first = image.read(&mut piece).await.map_err(broken)?;
    piece.truncate(first);
    if piece.is_empty() {
        return Err(Exception::plain(Class::ProtocolError, "expected payload").into());
    }
    let mut upload = host(cx).create_template(name, cx.source.clone()).await.or_fail(cx)?;
    loop {
        if piece.is_empty() {
            break;
        }
        piece = match upload.write(piece).await {
            Ok(empty) => empty,
            Err(error) => {
                upload.abort().await;
                return Err(error).or_fail(cx);
            }
        };
        if let Err(error) = fill(&mut image, &mut piece).await {
            upload.abort().await;
            return Err(error);
        }
    }
    upload.finish().await.or_fail(cx)?;
    Ok(Reply::empty())
}

/// Reads a piece, or what is left.
pub(super) async fn fill(image: &mut Upload, piece: &mut Vec<u8>) -> Result<(), Failure> {
    piece.resize(PIECE, 0);
    let mut filled = 0;
    while let Some(rest) = piece.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let read = image.read(rest).await.map_err(broken)?;
        if read == 0 {
            break;
        }
        filled = filled.saturating_add(read);
    }
    piece.truncate(filled);
    Ok(())
}

pub(super) fn broken(error: UploadError) -> Failure {
    Exception::plain(Class::QubesException, format!("Data import failed: {error}")).into()
}

/// Based on the destination, or, for dom0, on what the source's property `default_dispvm` names. Nothing is made ahead
/// of its use: what is asked for to be preloaded is made when it is wanted.
async fn create_disposable(
    cx: &Cx<Host>,
    preload: Preload,
    answer: DisposableAnswer,
) -> Result<Reply, Failure> {
    if preload == Preload::Ahead {
        return Ok(Reply::empty());
    }
    let base = (!cx.destination.is_dom0()).then(|| cx.destination.clone());
    let made = host(cx).create_disposable(base, cx.source.clone()).await.or_fail(cx)?;
    Ok(match answer {
        DisposableAnswer::Name => Reply::value(made.name.as_str()),
        DisposableAnswer::Uuid => Reply::value(format!("uuid:{}", made.uuid)),
    })
}

async fn clone(cx: &Cx<Host>, NewClone { name }: NewClone) -> Result<Reply, Failure> {
    host(cx).clone_vm(&cx.destination, name, cx.source.clone()).await.or_fail(cx)?;
    Ok(Reply::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_every_class() {
        let classes: Vec<&str> = VmClass::ALL.iter().map(|class| class.as_str()).collect();
        assert_eq!(CLASSES, classes);
    }
}
