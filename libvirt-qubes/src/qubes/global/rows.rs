//! The table of global properties: those that stand for themselves, numbers, pools, the host. What VMs follow lies
//! in `followed`.

use super::super::class::VmClass;
use super::super::property::boot::{default_folder, installed, kernel_name};
use super::super::property::resources::{MOST_SECONDS, positive};
use super::super::property::template::base_of_disposables;
use super::super::refusal::{Owner, Refusal};
use super::super::value::Value;
use super::row::{GlobalFallback, GlobalKind, GlobalRow, GlobalRules, GlobalSource, NONE, PLAIN, ROW};

pub(super) static CHECK_UPDATES_VM: GlobalRow = GlobalRow {
    name: "check_updates_vm",
    kind: GlobalKind::Bool,
    source: GlobalSource::Stored(GlobalRules {
        default: GlobalFallback::To(|_| Some(Value::Bool(true))),
        ..PLAIN
    }),
    default: "True",
    help: "Whether VMs look for updates. If not, new ones get the feature ``check-updates``, empty.",
};

pub(super) static DEFAULT_TEMPLATE: GlobalRow = GlobalRow {
    name: "default_template",
    source: GlobalSource::Stored(GlobalRules {
        fits: |snapshot, value| match value.as_vm().and_then(|vm| snapshot.model.vm(vm)) {
            Some(vm) if vm.class != VmClass::TemplateVm => Err(Refusal::WrongClass {
                vm: vm.name.clone(),
                class: vm.class,
                expected: VmClass::TemplateVm,
            }),
            Some(_) | None => Ok(()),
        },
        ..PLAIN
    }),
    help: "The TemplateVM that a new AppVM is based on where none is named.",
    ..ROW
};

pub(super) static UPDATEVM: GlobalRow = GlobalRow {
    name: "updatevm",
    default: "none",
    help: "The VM through which dom0 and templates fetch updates.",
    ..ROW
};

pub(super) static MANAGEMENT_DISPVM: GlobalRow = GlobalRow {
    name: "management_dispvm",
    source: GlobalSource::Stored(GlobalRules {
        fits: |snapshot, value| base_of_disposables(snapshot, &Owner::System, "management_dispvm", value),
        default: NONE,
        ..PLAIN
    }),
    default: "none",
    help: "What the disposables are based on in which VMs are managed that do not say otherwise.",
    ..ROW
};

pub(super) static DEFAULT_KERNEL: GlobalRow = GlobalRow {
    name: "default_kernel",
    kind: GlobalKind::Str,
    source: GlobalSource::Stored(GlobalRules {
        canonical: |value| kernel_name("default_kernel", value),
        announce: |snapshot, _, new| {
            let kernel = new.and_then(Value::as_str).filter(|kernel| !kernel.is_empty());
            let checked = kernel.map_or(Ok(()), |kernel| installed(default_folder(snapshot, kernel), kernel));
            (Vec::new(), checked)
        },
        ..PLAIN
    }),
    help: "The kernel that VMs boot where neither they nor their templates say otherwise: the name of a folder in \
           the pool of kernels. Empty: they bring their own.",
    ..ROW
};

pub(super) static DEFAULT_QREXEC_TIMEOUT: GlobalRow = GlobalRow {
    name: "default_qrexec_timeout",
    kind: GlobalKind::Int,
    source: GlobalSource::Stored(GlobalRules {
        canonical: |value| positive("default_qrexec_timeout", MOST_SECONDS, value),
        default: GlobalFallback::To(|_| Some(Value::Int(60))),
        ..PLAIN
    }),
    default: "60",
    help: "How long a start waits for the guest's qrexec agent, in seconds, where neither the VM nor its template \
           says otherwise.",
};

pub(super) static DEFAULT_SHUTDOWN_TIMEOUT: GlobalRow = GlobalRow {
    name: "default_shutdown_timeout",
    kind: GlobalKind::Int,
    source: GlobalSource::Stored(GlobalRules {
        canonical: |value| positive("default_shutdown_timeout", MOST_SECONDS, value),
        default: GlobalFallback::To(|_| Some(Value::Int(60))),
        ..PLAIN
    }),
    default: "60",
    help: "How long a shutdown that is waited for may take, in seconds, where neither the VM nor its template says \
           otherwise.",
};

pub(super) static STATS_INTERVAL: GlobalRow = GlobalRow {
    name: "stats_interval",
    kind: GlobalKind::Int,
    source: GlobalSource::Stored(GlobalRules {
        canonical: |value| positive("stats_interval", MOST_SECONDS, value),
        default: GlobalFallback::To(|_| Some(Value::Int(3))),
        ..PLAIN
    }),
    default: "3",
    help: "The time between two figures of a VM that runs, in seconds.",
};

pub(super) static MAXMEM: GlobalRow = GlobalRow {
    name: "maxmem",
    kind: GlobalKind::Int,
    source: GlobalSource::Computed(|snapshot| {
        snapshot.cells.host.total_memory.map(|memory| Value::Int(i64::from(memory.get())))
    }),
    help: "The memory of the machine, in MiB.",
    ..ROW
};

pub(super) static NO_CPUS: GlobalRow = GlobalRow {
    name: "no_cpus",
    kind: GlobalKind::Int,
    source: GlobalSource::Computed(|snapshot| {
        snapshot.cells.host.cpus.map(|cpus| Value::Int(i64::from(cpus)))
    }),
    help: "How many processors the machine has.",
    ..ROW
};

/// A property that names a pool. Whether there is one of that name is seen when the name is read.
const POOL: GlobalRow = GlobalRow {
    kind: GlobalKind::Pool,
    source: GlobalSource::Stored(GlobalRules {
        default: GlobalFallback::To(|model| model.default_pool().cloned().map(Value::Pool)),
        ..PLAIN
    }),
    default: "``default_pool``",
    ..ROW
};

pub(super) static DEFAULT_POOL: GlobalRow = GlobalRow {
    name: "default_pool",
    source: GlobalSource::Stored(GlobalRules {
        default: GlobalFallback::To(|model| model.usual_pool().cloned().map(Value::Pool)),
        ..PLAIN
    }),
    default: "``varlibqubes`` if there is such a pool, else none",
    help: "The pool for new volumes where no other is named.",
    ..POOL
};

pub(super) static DEFAULT_POOL_KERNEL: GlobalRow =
    GlobalRow { name: "default_pool_kernel", help: "The pool of kernels.", ..POOL };

pub(super) static DEFAULT_POOL_PRIVATE: GlobalRow =
    GlobalRow { name: "default_pool_private", help: "The pool for new volumes ``private``.", ..POOL };

pub(super) static DEFAULT_POOL_ROOT: GlobalRow =
    GlobalRow { name: "default_pool_root", help: "The pool for new volumes ``root``.", ..POOL };

pub(super) static DEFAULT_POOL_VOLATILE: GlobalRow =
    GlobalRow { name: "default_pool_volatile", help: "The pool for new volumes ``volatile``.", ..POOL };
