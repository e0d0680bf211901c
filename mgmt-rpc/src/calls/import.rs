//! Data into volumes: imports as they come, and copies by token.

use libvirt_qubes::ids::ByteSize;
use libvirt_qubes::qubes::{Host, VolumeImport};

use super::create::{broken, fill};
use super::{OrFail, host};
use crate::args::volume::{MOST_DIGITS, Token, size_of_new_data};
use crate::cx::Cx;
use crate::failure::Failure;
use crate::reply::Reply;
use crate::row;
use crate::server::Upload;
use crate::table::Row;
use crate::untrusted::Text;
use crate::wire::header::malformed;
use crate::wire::{Class, Exception};

pub(super) const ROWS: &[Row<Host>] = &[
    row!(
        Mgmt("vm.volume.Import"), Any, Local Write, (Required<Text>, Stream) => import,
        cancel: InPayload
    ),
    row!(Admin("vm.volume.Import"), Any, Local Write, (Required<Text>, Stream) => import),
    row!(
        Mgmt("vm.volume.ImportWithSize"), Any, Local Write, (Required<Text>, Stream) => import_with_size,
        cancel: InPayload
    ),
    row!(Admin("vm.volume.ImportWithSize"), Any, Local Write, (Required<Text>, Stream) => import_with_size),
    row!(Both("vm.volume.Clear"), Any, Local Write, (Required<Text>, Empty) => clear),
    row!(Both("vm.volume.CloneFrom"), Any, Local Write, (Required<Text>, Empty) => clone_from),
    row!(
        Mgmt("vm.volume.CloneTo"), Any, Local Write, (Required<Text>, Required<Token>) => clone_to,
        cancel: OnHangUp
    ),
    row!(Admin("vm.volume.CloneTo"), Any, Local Write, (Required<Text>, Required<Token>) => clone_to),
];

/// Refuses a volume that is none, in the words that imports have for it.
pub(super) fn known(cx: &Cx<Host>, volume: &str) -> Result<(), Failure> {
    let volumes = cx.host.volumes(&cx.destination).or_fail(cx)?;
    if volumes.iter().any(|known| known.as_ref() == volume) {
        return Ok(());
    }
    let fields = [cx.destination.to_string()];
    Err(Failure::Absent(Exception::new(Class::ProtocolError, "Argument not in %s volumes", fields)))
}

/// As much data as the volume has.
async fn import(cx: &Cx<Host>, Text(volume): Text, data: Upload) -> Result<Reply, Failure> {
    known(cx, &volume)?;
    take(cx, &volume, None, data, Vec::new()).await
}

/// The first line says how much data follows.
async fn import_with_size(cx: &Cx<Host>, Text(volume): Text, mut data: Upload) -> Result<Reply, Failure> {
    known(cx, &volume)?;
    let mut head = Vec::new();
    let line = loop {
        let searched = head.get(..head.len().min(LONGEST_LINE)).unwrap_or_default();
        if let Some(end) = searched.iter().position(|byte| *byte == b'\n') {
            break end;
        }
        if head.len() >= LONGEST_LINE {
            break LONGEST_LINE;
        }
        let mut piece = [0; PIECE_OF_LINE];
        let read = data.read(&mut piece).await.map_err(broken)?;
        if read == 0 {
            break head.len();
        }
        head.extend_from_slice(piece.get(..read).unwrap_or_default());
    };
    let size = size_of_new_data(head.get(..line).unwrap_or_default())?;
    if head.len() <= line {
        return Err(malformed("the size must end with a newline").into());
    }
    head.drain(..head.len().min(line.saturating_add(1)));
    take(cx, &volume, Some(size), data, head).await
}

/// Digits and the newline, and one more, which tells that it is too long.
const LONGEST_LINE: usize = MOST_DIGITS + 2;

/// What is read at a time while the first line is looked for.
const PIECE_OF_LINE: usize = 4096;

/// Hands the data on as it comes: `first`, then the rest. As `mgmt`, a client that is gone before its end has broken off;
/// as `admin`, what has come by then is all there is, and too little is refused.
async fn take(
    cx: &Cx<Host>,
    volume: &str,
    size: Option<ByteSize>,
    mut data: Upload,
    first: Vec<u8>,
) -> Result<Reply, Failure> {
    let mut into = host(cx).import_volume(&cx.destination, volume, size).await.or_fail(cx)?;
    match pour(&mut into, &mut data, first).await {
        Ok(()) => into.finish().await.or_fail(cx)?,
        Err(Poured::Refused(error)) => {
            into.abort().await;
            Err(error).or_fail(cx)?;
        }
        Err(Poured::Broken(failure)) => {
            into.abort().await;
            return Err(failure);
        }
    }
    Ok(Reply::empty())
}

enum Poured {
    Refused(libvirt_qubes::qubes::HostError),
    Broken(Failure),
}

async fn pour(into: &mut VolumeImport, data: &mut Upload, first: Vec<u8>) -> Result<(), Poured> {
    let mut piece = first;
    loop {
        if !piece.is_empty() {
            piece = into.write(piece).await.map_err(Poured::Refused)?;
        }
        fill(data, &mut piece).await.map_err(Poured::Broken)?;
        if piece.is_empty() {
            return Ok(());
        }
    }
}

async fn clear(cx: &Cx<Host>, Text(volume): Text) -> Result<Reply, Failure> {
    host(cx).clear_volume(&cx.destination, &volume).await.or_fail(cx)?;
    Ok(Reply::empty())
}

async fn clone_from(cx: &Cx<Host>, Text(volume): Text) -> Result<Reply, Failure> {
    let token = cx.host.offer_volume(&cx.destination, &volume, cx.source.clone()).or_fail(cx)?;
    Ok(Reply::value(token))
}

async fn clone_to(cx: &Cx<Host>, Text(volume): Text, Token(token): Token) -> Result<Reply, Failure> {
    let token = (token.as_str(), &cx.source);
    host(cx).copy_volume(&cx.destination, &volume, token, cx.cancelled.clone()).await.or_fail(cx)?;
    Ok(Reply::empty())
}
