//! Build script of `xen-sys`: makes the bindings from the headers of the Xen that is there, and says what to
//! link. It decides nothing else.
//!
//! Headers, first that exists: the folder `XEN_INCLUDE_DIR`, `vendor-headers/xen/` (filled by
//! `cargo xtask headers`), the system's. Their release (`4.17`) comes from pkg-config for the system's, from
//! `XEN_INCLUDE_VERSION` or a file `VERSION` among them for any other: the headers hold no number that tells.
//! libxl's API is stable and its ABI is not, so for headers other than the system's the library of that same
//! release is linked by its full name.

use std::env;
use std::error::Error;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use bindgen::callbacks::{DeriveInfo, ParseCallbacks, TypeKind};

/// What is bound: every function that the workspace calls, or will in the device and suspend operations.
/// Types come along with the functions that name them.
const FUNCTIONS: &[&str] = &[
    // Contexts and their children.
    "libxl_ctx_(alloc|free)",
    "libxl_childproc_setmode",
    // Life of a domain.
    "libxl_domain_(config|create_info|build_info)_(init|dispose|to_json)",
    "libxl_domain_build_info_init_type",
    "libxl_domain_(create_new|destroy|pause|unpause|shutdown|reboot|suspend_only|resume)",
    "libxl_retrieve_domain_configuration",
    "libxl_send_trigger",
    "libxl_ao_abort",
    // Devices.
    "libxl_device_(disk|nic|pci|usbctrl|usbdev)_(init|dispose|to_json)",
    "libxl_device_usbdev_init_type",
    "libxl_device_(disk|nic|pci|usbctrl|usbdev)_(add|remove|destroy|safe_remove|list|list_free)",
    "libxl_device_(disk|nic|usbctrl)_getinfo",
    "libxl_(diskinfo|nicinfo|usbctrlinfo)_(init|dispose)",
    "libxl_device_pci_assignable_(add|remove|list|list_free)",
    "libxl_(vdev_to_device_disk|mac_to_device_nic|devid_to_device_nic|devid_to_device_usbctrl)",
    "libxl_ctrlport_to_device_usbdev",
    // Events and the event loop.
    "libxl_event_(check|wait|free|register_callbacks)",
    "libxl_(evenable|evdisable)_domain_death",
    "libxl_osevent_(beforepoll|afterpoll)",
    // Looking.
    "libxl_list_domain",
    "libxl_dominfo_(init|dispose|list_free)",
    "libxl_domain_info",
    "libxl_(physinfo_init|physinfo_dispose|get_physinfo|get_version_info|get_free_memory|get_online_cpus)",
    "libxl_(domid_to_name|name_to_domid|get_stubdom_id|is_stubdom)",
    "libxl_(console_get_tty|primary_console_get_tty)",
    // Values.
    "libxl_defbool_(set|unset|val|is_default)",
    "libxl_bitmap_(init|dispose|set|test|count_set)",
    "libxl_(bitmap_alloc|cpu_bitmap_alloc)",
    "libxl_uuid_(copy|compare|from_string|generate|is_nil|bytearray|bytearray_const)",
    "libxl_(error|shutdown_reason|event_type|domain_type)_to_string",
    "libxl_cpuid_parse_config",
    "libxl_get_required_shadow_memory",
    // libxenstore.
    "xs_(open|close|read|write|directory|mkdir|rm|watch|unwatch|fileno|check_watch|read_watch)",
    "xs_(transaction_start|transaction_end|get_permissions|set_permissions|get_domain_path)",
    // libxentoollog.
    "xtl_(createlogger_stdiostream|stdiostream_set_minlevel|logger_destroy|level_to_string|log)",
];

/// Types that no bound function names.
const TYPES: &[&str] = &["libxl_error", "libxl_childproc_hooks", "libxl_sigchld_owner", "xentoollog_level"];

/// Constants. `LIBXL_EVENTMASK_ALL` and `INVALID_DOMID` hide behind casts: `xen-sys` spells them itself.
const CONSTANTS: &[&str] = &["LIBXL_VERSION", "LIBXL_API_VERSION", "XBT_NULL"];

/// The system's own definitions, taken from `libc`, so that callers need no conversion.
const FROM_LIBC: &[&str] = &["timeval", "pollfd", "FILE", "_IO_FILE"];

fn main() {
    if let Err(error) = run() {
        eprintln!("\nxen-sys: {error}\n");
        std::process::exit(1);
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    for variable in ["XEN_INCLUDE_DIR", "XEN_INCLUDE_VERSION", "LIBCLANG_PATH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=wrapper.h");

    let headers = Headers::find()?;
    println!("cargo::rustc-env=XEN_SYS_RELEASE={}", headers.release);
    println!("cargo::metadata=release={}", headers.release);
    let folders = env::join_paths(&headers.folders)?;
    println!("cargo::rustc-env=XEN_SYS_INCLUDE={}", folders.to_string_lossy());
    println!("cargo::metadata=include={}", folders.to_string_lossy());

    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    bind(&headers.folders, &out.join("bindings.rs"))
}

/// A tree of Xen's headers and the release that it belongs to.
struct Headers {
    folders: Vec<PathBuf>,
    release: String,
}

impl Headers {
    fn find() -> Result<Self, Box<dyn Error>> {
        if let Some(folder) = env::var_os("XEN_INCLUDE_DIR") {
            return Self::from_tree(PathBuf::from(folder), "XEN_INCLUDE_DIR");
        }
        let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("CARGO_MANIFEST_DIR is not set")?);
        let vendored = here.join("../vendor-headers");
        if vendored.is_dir() {
            println!("cargo::rerun-if-changed={}", vendored.display());
        }
        if vendored.join("xen").is_dir() {
            return Self::from_tree(vendored.join("xen"), "vendor-headers/xen");
        }
        Self::of_the_system()
    }

    /// Headers that are not the system's: the library is named by their release, so that headers of one
    /// release and a library of another are a link error and not a crash.
    fn from_tree(folder: PathBuf, origin: &str) -> Result<Self, Box<dyn Error>> {
        if !folder.join("libxl.h").is_file() {
            return Err(format!("{origin}: there is no libxl.h in {}", folder.display()).into());
        }
        let text = match env::var("XEN_INCLUDE_VERSION") {
            Ok(version) => version,
            Err(_) => fs::read_to_string(folder.join("VERSION")).map_err(|_| {
                format!(
                    "{origin}: the release of the headers in {} is not known; \
                     set XEN_INCLUDE_VERSION (for example 4.19)",
                    folder.display()
                )
            })?,
        };
        let release =
            major_minor(&text).ok_or_else(|| format!("{origin}: {text:?} is no release like 4.19"))?;
        println!("cargo::rustc-link-lib=dylib:+verbatim=libxenlight.so.{release}");
        println!("cargo::rustc-link-lib=dylib=xenstore");
        println!("cargo::rustc-link-lib=dylib=xentoollog");
        Ok(Self { folders: vec![folder], release })
    }

    fn of_the_system() -> Result<Self, Box<dyn Error>> {
        let mut folders = Vec::new();
        let mut release = None;
        for package in ["xenlight", "xenstore", "xentoollog"] {
            let found = pkg_config::Config::new().probe(package).map_err(|error| {
                format!(
                    "Xen's headers were not found ({}).\n  \
                     Install them: `apt-get install libxen-dev pkg-config` on Debian and Ubuntu, \
                     `dnf install xen-devel pkgconf` on Fedora and Qubes OS,\n  \
                     or name a folder that holds them: XEN_INCLUDE_DIR=DIR XEN_INCLUDE_VERSION=4.N.\n  \
                     Everything but the libxl backend builds without Xen: --no-default-features \
                     (README, \"Building without Xen\").",
                    first_line(&error.to_string())
                )
            })?;
            if package == "xenlight" {
                release = major_minor(&found.version);
            }
            folders.extend(found.include_paths);
        }
        folders.sort();
        folders.dedup();
        let release = release.ok_or("pkg-config names no release of xenlight")?;
        Ok(Self { folders, release })
    }
}

/// `4.17` of `4.17.0`: pkg-config does not tell the third number truly, and the soname does not hold it.
fn major_minor(version: &str) -> Option<String> {
    let mut parts = version.trim().split(['.', '-', '+']);
    let (major, minor) = (parts.next()?.parse::<u32>().ok()?, parts.next()?.parse::<u32>().ok()?);
    Some(format!("{major}.{minor}"))
}

fn first_line(text: &str) -> &str {
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("pkg-config failed")
}

/// Enums own nothing: they may be copied, although `derive_copy(false)` is there for everything else.
#[derive(Debug)]
struct EnumsAreNumbers;

impl ParseCallbacks for EnumsAreNumbers {
    fn add_derives(&self, info: &DeriveInfo<'_>) -> Vec<String> {
        if matches!(info.kind, TypeKind::Enum) { vec!["Copy".to_owned()] } else { Vec::new() }
    }
}

fn bind(folders: &[PathBuf], target: &Path) -> Result<(), Box<dyn Error>> {
    let mut builder = bindgen::Builder::default()
        .header("wrapper.h")
        .clang_args(folders.iter().map(|folder| format!("-I{}", folder.display())))
        // A value that C adds later must not be undefined behaviour here: newtypes, not Rust enums.
        .default_enum_style(bindgen::EnumVariation::NewType { is_bitfield: false, is_global: false })
        // What has a dispose must not be duplicated by an assignment.
        .derive_copy(false)
        .default_non_copy_union_style(bindgen::NonCopyUnionStyle::ManuallyDrop)
        .generate_comments(false)
        .layout_tests(true)
        .raw_line("use libc::{pollfd, timeval, FILE};")
        .parse_callbacks(Box::new(bindgen::CargoCallbacks::new()))
        .parse_callbacks(Box::new(EnumsAreNumbers));
    for function in FUNCTIONS {
        builder = builder.allowlist_function(function);
    }
    for name in TYPES {
        builder = builder.allowlist_type(name);
    }
    for name in CONSTANTS {
        builder = builder.allowlist_var(name);
    }
    for name in FROM_LIBC {
        builder = builder.blocklist_type(name);
    }

    // bindgen reports a missing libclang by a panic only.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let made = panic::catch_unwind(AssertUnwindSafe(|| builder.generate()));
    panic::set_hook(hook);
    let bindings = made.map_err(|cause| {
        let text = cause.downcast_ref::<String>().map_or("it panicked", String::as_str);
        format!(
            "the bindings need libclang, which did not load ({}).\n  \
             Install it: `apt-get install libclang-dev` on Debian and Ubuntu, `dnf install clang-devel` on \
             Fedora and Qubes OS, or set LIBCLANG_PATH.\n  \
             Everything but the libxl backend builds without it: --no-default-features.",
            first_line(text)
        )
    })??;
    bindings.write_to_file(target)?;
    Ok(())
}
