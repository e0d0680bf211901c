//! Power: start, stop, pause, and what a VM is doing.

use libvirt_qubes::qubes::{Force, Host, ShutdownRequest, Wait};

use super::{OrFail, host};
use crate::args::ShutdownOptions;
use crate::cx::Cx;
use crate::failure::Failure;
use crate::reply::Reply;
use crate::row;
use crate::table::Row;

pub(super) const ROWS: &[Row<Host>] = &[
    row!(Both("vm.Start"), Any, Local Write, (Empty, Empty) => start),
    row!(Mgmt("vm.Shutdown"), Any, Local Write, (Empty, Empty) => shutdown),
    row!(Admin("vm.Shutdown"), Any, Local Write, (Optional<ShutdownOptions>, Empty) => shutdown_with),
    row!(Both("vm.Pause"), Any, Local Write, (Empty, Empty) => pause),
    row!(Both("vm.Unpause"), Any, Local Write, (Empty, Empty) => unpause),
    row!(Both("vm.Kill"), Any, Local Write, (Empty, Empty) => kill),
    row!(Both("vm.CurrentState"), Any, Local Read, (Empty, Empty) => current_state),
];

async fn start(cx: &Cx<Host>) -> Result<Reply, Failure> {
    host(cx).start(&cx.destination).await.or_fail(cx)?;
    Ok(Reply::empty())
}

async fn shutdown(cx: &Cx<Host>) -> Result<Reply, Failure> {
    shutdown_with(cx, ShutdownOptions::default()).await
}

async fn shutdown_with(cx: &Cx<Host>, options: ShutdownOptions) -> Result<Reply, Failure> {
    let how = ShutdownRequest {
        force: if options.force { Force::Yes } else { Force::No },
        wait: if options.wait { Wait::ForTheEnd } else { Wait::ForTheRequest },
    };
    host(cx).shutdown(&cx.destination, how).await.or_fail(cx)?;
    Ok(Reply::empty())
}

async fn pause(cx: &Cx<Host>) -> Result<Reply, Failure> {
    host(cx).pause(&cx.destination).await.or_fail(cx)?;
    Ok(Reply::empty())
}

async fn unpause(cx: &Cx<Host>) -> Result<Reply, Failure> {
    host(cx).unpause(&cx.destination).await.or_fail(cx)?;
    Ok(Reply::empty())
}

async fn kill(cx: &Cx<Host>) -> Result<Reply, Failure> {
    host(cx).kill(&cx.destination).await.or_fail(cx)?;
    Ok(Reply::empty())
}

/// One line without a newline; KiB and nanoseconds.
async fn current_state(cx: &Cx<Host>) -> Result<Reply, Failure> {
    let figures = cx.host.vm_figures(&cx.destination).await.or_fail(cx)?;
    Ok(Reply::value(format!(
        "mem={} mem_static_max={} cputime={} power_state={}",
        figures.memory_kib,
        figures.max_memory_kib,
        figures.cpu_time_ns,
        figures.state.as_str()
    )))
}
