//! Changes of a VM's volumes and its Start, in the order in which they came.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use libvirt_qubes::qubes::{Host, HostError, Refusal};
use libvirt_qubes::sim::World;

use crate::ephemeral_host::{host, make_work, work};
use crate::kernel_model::ModelOfKernel;

/// Has a call begin: from its first poll on it is registered.
async fn begin<F: Future>(mut call: std::pin::Pin<&mut F>) {
    poll_fn(|context| {
        assert!(call.as_mut().poll(context).is_pending(), "it does not wait for the one before");
        Poll::Ready(())
    })
    .await;
}

async fn scene(dir: &std::path::Path) -> Arc<Host> {
    let kernel = Arc::new(ModelOfKernel::new(&dir.join("devices")));
    let host = host(dir, &World::memory(), &kernel).await;
    make_work(&host).await;
    host
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_came_later_is_no_reason_to_refuse_a_change_of_a_volume() {
    let dir = tempfile::tempdir().unwrap();
    let host = scene(dir.path()).await;
    let id = host.snapshot_volume(&work(), "private").await.unwrap();
    // Its VM's lock is held until the import's end.
    let import = host.import_volume(&work(), "private", None).await.unwrap();
    let name = work();
    let mut clear = pin!(host.clear_volume(&name, "private"));
    begin(clear.as_mut()).await;
    let mut revert = pin!(host.revert_volume(&name, "private", id.as_str()));
    begin(revert.as_mut()).await;
    let mut next = pin!(host.import_volume(&name, "private", None));
    begin(next.as_mut()).await;
    let mut start = pin!(host.start(&name));
    begin(start.as_mut()).await;
    let mut late = pin!(host.clear_volume(&name, "private"));
    begin(late.as_mut()).await;
    import.abort().await;
    // The next import holds the lock until it is given up, whichever of them has its turn first.
    let next = async { next.await.unwrap().abort().await };
    let (clear, revert, (), start, late) = tokio::join!(clear, revert, next, start, late);
    clear.unwrap();
    revert.unwrap();
    start.unwrap();
    assert!(matches!(&late, Err(HostError::Refused(Refusal::NotHalted { .. }))), "{late:?}");
    host.kill(&work()).await.unwrap();
    host.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_came_before_is() {
    let dir = tempfile::tempdir().unwrap();
    let host = scene(dir.path()).await;
    let import = host.import_volume(&work(), "private", None).await.unwrap();
    let name = work();
    let mut start = pin!(host.start(&name));
    begin(start.as_mut()).await;
    let mut clear = pin!(host.clear_volume(&name, "private"));
    begin(clear.as_mut()).await;
    import.abort().await;
    let clear = clear.await;
    assert!(matches!(&clear, Err(HostError::Refused(Refusal::NotHalted { .. }))), "{clear:?}");
    start.await.unwrap();
    host.kill(&work()).await.unwrap();
    host.close().await.unwrap();
}
