//! The options of a new pool: which there are, and what their values must be.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::super::property::parse;
use super::super::refusal::Refusal;
use crate::ids::PoolName;
use crate::storage::{CopyOnWrite, DriverKind, Need, RevisionsToKeep};

pub(super) const REVISIONS: &str = "revisions_to_keep";
pub(super) const EPHEMERAL: &str = "ephemeral_volatile";
const SETUP_CHECK: &str = "setup_check";
const DIR: &str = "dir_path";
pub(super) const COW: &str = "cow";

/// Options that [`Pool::shown_options`](super::super::pool::Pool::shown_options) leaves out.
pub(super) const IS_HIDDEN: [&str; 1] = [SETUP_CHECK];

/// A driver, with the options that a pool of it may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriverInfo {
    /// The driver.
    pub kind: DriverKind,
    /// Names of options, in the order in which clients list them.
    pub options: Vec<&'static str>,
}

/// The drivers, sorted by name.
pub fn drivers() -> impl Iterator<Item = DriverInfo> {
    DriverKind::ALL.into_iter().map(|kind| {
        let own = kind.options().iter().map(|option| option.name);
        let options = if matches!(kind, DriverKind::Callback | DriverKind::LinuxKernel) {
            own.collect()
        } else {
            std::iter::once(REVISIONS).chain(own).chain([EPHEMERAL]).collect()
        };
        DriverInfo { kind, options }
    })
}

/// A pool that is to be added: options known, complete, and in one form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPool {
    pub(super) name: PoolName,
    pub(super) driver: DriverKind,
    pub(super) options: BTreeMap<Arc<str>, Arc<str>>,
}

impl NewPool {
    /// Of what a client gives.
    ///
    /// # Errors
    /// [`Refusal::UnknownPoolOptions`]; [`Refusal::MissingPoolOptions`]; [`Refusal::PoolOption`] for a value that is
    /// wrong by itself.
    pub fn new(
        name: PoolName,
        driver: DriverKind,
        options: BTreeMap<String, String>,
    ) -> Result<Self, Refusal> {
        let known = drivers().find(|info| info.kind == driver).map(|info| info.options).unwrap_or_default();
        let unknown: BTreeSet<String> =
            options.keys().filter(|key| !known.contains(&key.as_str())).cloned().collect();
        if !unknown.is_empty() {
            return Err(Refusal::UnknownPoolOptions { options: unknown });
        }
        let required = driver.options().iter().filter(|option| option.need == Need::Required);
        let missing: Vec<&'static str> = required
            .map(|option| option.name)
            .filter(|name| options.get(*name).is_none_or(String::is_empty))
            .collect();
        if !missing.is_empty() {
            return Err(Refusal::MissingPoolOptions { options: missing });
        }
        Ok(Self { name, driver, options: in_one_form(options)? })
    }

    /// The same, with options that every pool has and that its driver takes from elsewhere.
    pub(super) fn with_base(mut self, options: BTreeMap<String, String>) -> Result<Self, Refusal> {
        self.options.extend(in_one_form(options)?);
        Ok(self)
    }
}

fn in_one_form(options: BTreeMap<String, String>) -> Result<BTreeMap<Arc<str>, Arc<str>>, Refusal> {
    let options = options.into_iter().map(|(key, value)| {
        let value = canonical(&key, &value)
            .ok_or_else(|| bad(format!("Invalid value for {key}: {}", parse::python_repr(&value))))?;
        Ok((key.into(), value.into()))
    });
    options.collect()
}

pub(super) fn bad(text: impl Into<std::borrow::Cow<'static, str>>) -> Refusal {
    Refusal::PoolOption { text: text.into() }
}

/// The value in its one form; `None` for one that is wrong.
fn canonical(key: &str, value: &str) -> Option<String> {
    match key {
        REVISIONS => {
            let number = parse::integer(value)?;
            // Digits alone, as where it is set later.
            RevisionsToKeep::try_from(number).ok().map(|keep| keep.to_string()).filter(|form| form == value)
        }
        EPHEMERAL | SETUP_CHECK => parse::boolean(value).map(|flag| shown(flag).to_owned()),
        DIR => folder(value),
        COW => value.parse::<CopyOnWrite>().ok().map(|way| way.as_str().to_owned()),
        _ => Some(value.to_owned()),
    }
    .filter(|value| !value.chars().any(char::is_control))
}

pub(super) const fn shown(flag: bool) -> &'static str {
    if flag { "True" } else { "False" }
}

/// An absolute path without `.`, `..` and doubled slashes.
fn folder(text: &str) -> Option<String> {
    let path = Path::new(text);
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return None;
    }
    path.components().collect::<PathBuf>().into_os_string().into_string().ok()
}
