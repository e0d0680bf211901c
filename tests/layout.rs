//! The bindings against a C compiler: sizes, alignments, offsets and constants.
//!
//! bindgen's own assertions prove that Rust lays the types out as libclang sees them. This asks the C
//! compiler, which made the library, and it also compares constants, which nothing else does. A C program is
//! written, compiled with `$CC` (else `cc`), run, and its answers are compared with Rust's.
#![cfg(feature = "xen")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::mem::{align_of, offset_of, size_of};
use std::path::Path;
use std::process::Command;

use xen_sys::*;

/// What is asked: the C expression, and what Rust says.
type Questions = BTreeMap<String, i128>;

macro_rules! layout {
    ($questions:ident: $($name:ident { $($field:ident),* $(,)? })*) => {$(
        ask(&mut $questions, format!("sizeof({})", c_type(stringify!($name))), size_of::<$name>() as i128);
        ask(&mut $questions, format!("_Alignof({})", c_type(stringify!($name))), align_of::<$name>() as i128);
        $(ask(
            &mut $questions,
            format!("offsetof({}, {})", c_type(stringify!($name)), c_field(stringify!($field))),
            offset_of!($name, $field) as i128,
        );)*
    )*};
}

macro_rules! enums {
    ($questions:ident: $($name:ident { $($constant:ident),* $(,)? })*) => {$(
        $(ask(&mut $questions, stringify!($constant).to_owned(), i128::from($name::$constant.0));)*
    )*};
}

fn ask(questions: &mut Questions, expression: String, answer: i128) {
    let before = questions.insert(expression.clone(), answer);
    assert!(before.is_none(), "{expression} is asked twice");
}

/// bindgen appends `_` where a C name is a Rust keyword.
fn c_field(field: &str) -> &str {
    if field == "type_" { "type" } else { field }
}

/// libxenstore has no typedefs.
fn c_type(name: &str) -> &str {
    if name == "xs_permissions" { "struct xs_permissions" } else { name }
}

fn questions() -> Questions {
    let mut q = Questions::new();
    layout! { q:
        libxl_domain_config {
            c_info, b_info, disks, num_disks, nics, num_nics, pcidevs, num_pcidevs, usbctrls, num_usbctrls,
            usbdevs, num_usbdevs, on_poweroff, on_reboot, on_crash,
        }
        libxl_domain_create_info { type_, name, domid, uuid, run_hotplug_scripts, passthrough }
        libxl_domain_build_info {
            max_vcpus, avail_vcpus, numa_placement, tsc_mode, max_memkb, target_memkb, video_memkb,
            shadow_memkb, rtc_timeoffset, localtime, disable_migrate, cpuid, device_model_version,
            device_model_stubdomain, stubdomain_memkb, stubdomain_kernel, stubdomain_ramdisk, extra_hvm,
            sched_params, event_channels, kernel, cmdline, ramdisk, acpi, nested_hvm, apic, type_, u, arch_x86,
        }
        libxl_device_disk {
            backend_domid, backend_domname, pdev_path, vdev, backend, format, script, removable, readwrite,
            is_cdrom, discard_enable, trusted,
        }
        libxl_device_nic { backend_domid, devid, mtu, mac, ip, bridge, script, nictype, trusted }
        libxl_device_pci { domain, permissive, seize, rdm_policy, name }
        libxl_device_usbctrl { type_, devid, version, ports, backend_domid, backend_domname }
        libxl_device_usbdev { ctrl, port, type_, u }
        libxl_dominfo {
            uuid, domid, ssid_label, running, blocked, paused, shutdown, dying, shutdown_reason,
            outstanding_memkb, current_memkb, max_memkb, cpu_time, vcpu_online, domain_type,
        }
        libxl_diskinfo { backend, backend_id, frontend, frontend_id, devid, state }
        libxl_physinfo { threads_per_core, nr_cpus, total_pages, free_pages, cap_hvm, cap_pv, cap_hvm_directio }
        libxl_version_info { xen_version_major, xen_version_minor, xen_version_extra, pagesize, commandline }
        libxl_event { link, domid, domuuid, for_user, type_, u }
        libxl_event_hooks { event_occurs_mask, event_occurs, disaster }
        libxl_asyncop_how { callback, u }
        libxl_childproc_hooks { chldowner, fork_replacement, reaped_callback }
        libxl_defbool { val }
        libxl_bitmap { size, map }
        libxl_uuid { uuid }
        xentoollog_logger { vmessage, progress, destroy }
        xs_permissions { id, perms }
    }
    enums! { q:
        libxl_error {
            ERROR_NONSPECIFIC, ERROR_VERSION, ERROR_FAIL, ERROR_NI, ERROR_NOMEM, ERROR_INVAL, ERROR_BADFAIL,
            ERROR_GUEST_TIMEDOUT, ERROR_TIMEDOUT, ERROR_NOPARAVIRT, ERROR_NOT_READY, ERROR_OSEVENT_REG_FAIL,
            ERROR_BUFFERFULL, ERROR_UNKNOWN_CHILD, ERROR_LOCK_FAIL, ERROR_DEVICE_EXISTS,
            ERROR_DOMAIN_NOTFOUND, ERROR_ABORTED, ERROR_NOTFOUND, ERROR_DOMAIN_DESTROYED, ERROR_FEATURE_REMOVED,
        }
        libxl_domain_type {
            LIBXL_DOMAIN_TYPE_INVALID, LIBXL_DOMAIN_TYPE_HVM, LIBXL_DOMAIN_TYPE_PV, LIBXL_DOMAIN_TYPE_PVH,
        }
        libxl_shutdown_reason {
            LIBXL_SHUTDOWN_REASON_UNKNOWN, LIBXL_SHUTDOWN_REASON_POWEROFF, LIBXL_SHUTDOWN_REASON_REBOOT,
            LIBXL_SHUTDOWN_REASON_SUSPEND, LIBXL_SHUTDOWN_REASON_CRASH, LIBXL_SHUTDOWN_REASON_WATCHDOG,
            LIBXL_SHUTDOWN_REASON_SOFT_RESET,
        }
        libxl_event_type {
            LIBXL_EVENT_TYPE_DOMAIN_SHUTDOWN, LIBXL_EVENT_TYPE_DOMAIN_DEATH, LIBXL_EVENT_TYPE_DISK_EJECT,
            LIBXL_EVENT_TYPE_OPERATION_COMPLETE, LIBXL_EVENT_TYPE_DOMAIN_CREATE_CONSOLE_AVAILABLE,
        }
        libxl_disk_format { LIBXL_DISK_FORMAT_UNKNOWN, LIBXL_DISK_FORMAT_RAW, LIBXL_DISK_FORMAT_EMPTY }
        libxl_disk_backend { LIBXL_DISK_BACKEND_UNKNOWN, LIBXL_DISK_BACKEND_PHY, LIBXL_DISK_BACKEND_QDISK }
        libxl_tsc_mode { LIBXL_TSC_MODE_DEFAULT, LIBXL_TSC_MODE_NATIVE }
        libxl_console_type { LIBXL_CONSOLE_TYPE_SERIAL, LIBXL_CONSOLE_TYPE_PV }
        libxl_sigchld_owner {
            libxl_sigchld_owner_libxl, libxl_sigchld_owner_mainloop, libxl_sigchld_owner_libxl_always,
            libxl_sigchld_owner_libxl_always_selective_reap,
        }
        xentoollog_level {
            XTL_NONE, XTL_DEBUG, XTL_VERBOSE, XTL_DETAIL, XTL_PROGRESS, XTL_INFO, XTL_NOTICE, XTL_WARN,
            XTL_ERROR, XTL_CRITICAL, XTL_NUM_LEVELS,
        }
    }
    ask(&mut q, "LIBXL_VERSION".to_owned(), i128::from(LIBXL_VERSION));
    ask(&mut q, "LIBXL_API_VERSION".to_owned(), i128::from(LIBXL_API_VERSION));
    ask(&mut q, "(uint32_t)INVALID_DOMID".to_owned(), i128::from(INVALID_DOMID));
    ask(
        &mut q,
        "(uint64_t)LIBXL_EVENTMASK_ALL == UINT64_MAX".to_owned(),
        i128::from(LIBXL_EVENTMASK_ALL == u64::MAX),
    );
    q
}

/// A C program that prints one line for each question, in their order.
fn program(questions: &Questions) -> String {
    let mut text = String::from(
        "#include \"wrapper.h\"\n#include <stddef.h>\n#include <stdint.h>\n#include <stdio.h>\n",
    );
    text.push_str("int main(void) {\n");
    for expression in questions.keys() {
        writeln!(text, "    printf(\"%lld\\n\", (long long)({expression}));").unwrap();
    }
    text.push_str("    return 0;\n}\n");
    text
}

#[test]
fn the_bindings_agree_with_the_c_compiler() {
    let questions = questions();
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("layout.c");
    let binary = folder.path().join("layout");
    std::fs::write(&source, program(&questions)).unwrap();

    let mut cc = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
    cc.arg("-o").arg(&binary).arg(&source);
    cc.arg("-I").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("vendor-headers"));
    for folder in std::env::split_paths(INCLUDE_DIRS).filter(|folder| !folder.as_os_str().is_empty()) {
        cc.arg("-I").arg(folder);
    }
    let compiled = cc.output().expect("a C compiler is needed: $CC or cc");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));

    let run = Command::new(&binary).output().unwrap();
    assert!(run.status.success());
    let answers: Vec<i128> =
        String::from_utf8(run.stdout).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(answers.len(), questions.len());

    let different: Vec<String> = questions
        .iter()
        .zip(answers)
        .filter(|((_, rust), c)| **rust != *c)
        .map(|((expression, rust), c)| format!("{expression}: C says {c}, the bindings say {rust}"))
        .collect();
    assert!(different.is_empty(), "Xen {RELEASE}:\n{}", different.join("\n"));
}
