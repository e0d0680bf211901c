//! The daemon: configuration in, sockets open, one host served until it is told to stop.

mod hypervisor;
mod offline;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use libvirt_qubes::qubes::{EventLimits, Host, HostConfig};
use libvirt_qubes::storage;
use mgmt_rpc::calls;
use mgmt_rpc::config::{Config, Flags};
use mgmt_rpc::dispatch::{Manners, Refusals, Service, Tracebacks};
use mgmt_rpc::permission::Dom0Only;
use mgmt_rpc::server::{self, Admission, Server};
use mgmt_rpc::table::Door;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// From SIGTERM to the end, at most.
const GRACE: Duration = Duration::from_secs(30);
/// So much of it is for what follows when commands around pools are killed.
const LAST: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let flags = Flags::parse();
    match run(&flags) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("mgmtd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &Flags) -> anyhow::Result<ExitCode> {
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let config = flags.configuration(variables)?;
    if flags.print_config {
        print!("{}", config.print()?);
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(offline) = &flags.offline {
        if flags.log.is_some() {
            log_to_stderr(&config)?;
        }
        return offline::run(offline, &config);
    }
    log_to_stderr(&config)?;
    raise_open_files();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting threads")?;
    let ended = runtime.block_on(serve(config));
    // Whatever still blocks a thread is the kernel's to end.
    runtime.shutdown_background();
    ended.map(|()| ExitCode::SUCCESS)
}

fn log_to_stderr(config: &Config) -> anyhow::Result<()> {
    let filter = config.log.filter()?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    Ok(())
}

/// Lets the process open as many files as it may: each connection takes one, each disk of a VM more.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

async fn serve(config: Config) -> anyhow::Result<()> {
    // Before anything is open: a signal that comes early is not lost.
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    refuse_what_is_not_there(&config)?;

    let host = Host::open(host_config(&config), async || hypervisor::open(&config).await).await?;
    let name = host.hypervisor().name();
    let main = config.sockets.main.iter().map(|path| (Door::Main, path.as_path()));
    let internal = config.sockets.internal.iter().map(|path| (Door::Internal, path.as_path()));
    let listeners = server::bind(main.chain(internal)).await?;
    let manners = Manners {
        tracebacks: if config.debug { Tracebacks::On } else { Tracebacks::Off },
        refusals: if config.compat.silent_refusals { Refusals::Silent } else { Refusals::Answered },
    };
    let service =
        Arc::new(Service::new(Arc::clone(&host), calls::table(), Dom0Only, config.limits.clone(), manners));
    let server = Server::new(service, listeners, Admission::of_this_process());
    let paths: Vec<String> = server.paths().iter().map(|path| path.display().to_string()).collect();

    let stop = CancellationToken::new();
    let serving = tokio::spawn(server.run(stop.clone()));
    eprintln!("mgmtd: ready on {} (hypervisor: {name})", paths.join(", "));
    // Not run by systemd: nobody to tell.
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::debug!(%error, "systemd was not told");
    }

    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: ending"),
        _ = interrupt.recv() => tracing::info!("SIGINT: ending"),
    }
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Stopping]) {
        tracing::debug!(%error, "systemd was not told");
    }
    stop.cancel();
    // Nobody waits for what is called off: copies end now, and their calls say so.
    host.cancel_copies();
    let ending = async {
        // Calls first: an upload that is cut off takes back what it made, and needs the store for that.
        serving.await.context("the server's task")?;
        Ok(host.close().await?)
    };
    let mut ending = std::pin::pin!(ending);
    let ended = match tokio::time::timeout(GRACE.saturating_sub(LAST), &mut ending).await {
        Err(_) => {
            // They would run on without anybody to kill them.
            host.end_commands();
            tokio::time::timeout(LAST, ending).await
        }
        ended => ended,
    };
    match ended {
        Ok(ended) => ended,
        Err(_) => {
            tracing::warn!(
                "something did not end in {} s; what it was is settled at the next start",
                GRACE.as_secs()
            );
            Ok(())
        }
    }
}

/// Settings for parts that this build does not have are an error, not a silence.
fn refuse_what_is_not_there(config: &Config) -> anyhow::Result<()> {
    let missing = [
        ("sockets.misc", config.sockets.misc.is_some()),
        ("metrics", config.metrics.is_some()),
        ("audit", config.audit.is_some()),
        ("xen.ready", matches!(config.xen.ready, mgmt_rpc::config::Ready::Xenstore(_))),
    ];
    match missing.into_iter().find(|(_, set)| *set) {
        Some((key, _)) => anyhow::bail!("{key} is set, and this release does not have it: remove it"),
        None => Ok(()),
    }
}

fn host_config(config: &Config) -> HostConfig {
    let limits = &config.limits;
    let count = |number: std::num::NonZeroU32| usize::try_from(number.get()).unwrap_or(usize::MAX);
    HostConfig {
        state: absolute(config.state.clone()),
        storage_dir: absolute(config.storage_dir()),
        operations_per_vm: count(limits.operations_per_vm),
        events: EventLimits { queue: count(limits.event_queue), history: count(limits.event_history) },
        storage: storage::Limits { bulk_copies: count(limits.bulk_copies), ..storage::Limits::default() },
        tuning: tuning(config),
        mapper: None,
    }
}

fn tuning(config: &Config) -> storage::Tuning {
    storage::Tuning {
        near_full_percent: config.storage.near_full_percent.get(),
        refresh: Duration::from_secs(u64::from(config.storage.refresh_s.get())),
        command_limit: Duration::from_secs(u64::from(config.storage.command_timeout_s.get())),
        callback_config: absolute(config.storage.callback_config.clone()).into(),
        ..storage::Tuning::default()
    }
}

/// As seen from where the daemon was started.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}
