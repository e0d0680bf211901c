//! Making a template from an image whose size is not known before its end.

use std::sync::Arc;

use super::class::VmClass;
use super::create::{self, Making, Pools};
use super::creation::{CreateRequest, Creation};
use super::host::Host;
use super::meter::{Meter, Tell};
use super::refusal::HostError;
use crate::error::Result;
use crate::ids::VmName;
use crate::storage::Import;

impl Host {
    /// Begins to make a template from an image whose size is not known yet. Its name is reserved from now on; it
    /// is there for everybody after [`TemplateUpload::finish`].
    ///
    /// # Errors
    /// What is wrong with the request; nothing is left then.
    pub async fn create_template(
        self: &Arc<Self>,
        name: VmName,
        source: VmName,
    ) -> Result<TemplateUpload, HostError> {
        let request = CreateRequest {
            name,
            class: VmClass::TemplateVm,
            label: "black".to_owned(),
            template: None,
            pools: Pools::Default,
            source,
        };
        let new = self.new_vm(request, Making::Template);
        let host = Arc::clone(self);
        // A task of its own: a caller that goes away while the row is written leaves no row.
        let task = self.tasks.spawn(async move {
            let uuid = new.uuid;
            let creation = Creation::begin(&host, uuid, move |seen| create::begin(seen, &new)).await?;
            match creation.begin_upload().await {
                Ok(import) => {
                    // How much is to come nobody knows.
                    let (vm, root) = (&creation.plan.vm, "root".parse().map_err(|_| HostError::Bug)?);
                    let meter = Meter::begin(&host.sequencer, vm, &root, 0, Tell::IfLong);
                    Ok(TemplateUpload { state: Some(UnderWay { creation, import, meter, done: 0 }) })
                }
                Err(error) => Err(creation.end(Err(error)).await.err().unwrap_or(HostError::Bug)),
            }
        });
        task.await.unwrap_or(Err(HostError::Bug))
    }
}

/// The image of a template on its way to the pool. Dropped before its end, it leaves nothing.
pub struct TemplateUpload {
    state: Option<UnderWay>,
}

struct UnderWay {
    creation: Creation,
    import: Import,
    meter: Meter,
    done: u64,
}

impl TemplateUpload {
    /// Writes the next bytes of the image and gives the buffer back, empty. Memory stays flat; zeros become holes.
    ///
    /// # Errors
    /// The pool cannot take them; the upload can only be dropped then.
    pub async fn write(&mut self, data: Vec<u8>) -> Result<Vec<u8>, HostError> {
        let state = self.state.as_mut().ok_or(HostError::Bug)?;
        state.creation.check()?;
        state.done = state.done.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
        let empty = state.import.write(data).await?;
        state.meter.note(state.done);
        Ok(empty)
    }

    /// All has come: makes the template, and returns when it is there for everybody.
    ///
    /// # Errors
    /// What failed; nothing is left then.
    pub async fn finish(mut self) -> Result<(), HostError> {
        let UnderWay { mut creation, import, meter, .. } = self.state.take().ok_or(HostError::Bug)?;
        let tasks = creation.host.tasks.clone();
        let task = tasks.spawn(async move {
            let made = match import.finish().await {
                Ok(size) => {
                    meter.finish();
                    creation.set_root_size(size);
                    creation.make_all_but_root().await
                }
                Err(error) => Err(error.into()),
            };
            creation.end(made).await.map(drop)
        });
        task.await.unwrap_or(Err(HostError::Bug))
    }

    /// Gives up, and returns when nothing is left.
    pub async fn abort(mut self) {
        if let Some(state) = self.state.take() {
            state.give_up().await;
        }
    }
}

impl std::fmt::Debug for TemplateUpload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TemplateUpload").finish_non_exhaustive()
    }
}

impl Drop for TemplateUpload {
    fn drop(&mut self) {
        if let Some(state) = self.state.take() {
            let tasks = state.creation.host.tasks.clone();
            tasks.spawn(state.give_up());
        }
    }
}

impl UnderWay {
    async fn give_up(self) {
        let Self { creation, import, meter, .. } = self;
        drop(meter);
        if let Err(error) = import.abort().await {
            tracing::warn!(vm = %creation.plan.vm.name, error = error.report(), "an unfinished image stays for now");
        }
        creation.undo().await;
    }
}
