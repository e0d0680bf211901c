//! Filling an empty store with what a file holds.

use std::fmt;

use rusqlite::{Connection, params};

use super::super::model::{Model, SetAside};
use super::super::qubes_xml::resolve::{Kept, Resolved};
use super::super::write;
use super::error::AtStore;
use super::load::SET_ASIDE;
use super::{Opened, Store, desktop_tags, load};
use crate::error::{Error, Kind, Op};

/// What keeps a state from being filled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotEmpty(String);

impl fmt::Display for NotEmpty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the state is not empty: it holds {}", self.0)
    }
}

/// What became of the rows.
#[derive(Debug)]
pub struct Filled {
    /// The model as it is now.
    pub model: Model,
    /// The rows that were set aside although the file's rules had no objection.
    pub unexpected: Vec<SetAside>,
}

impl Opened {
    /// Why this store is not as a first start leaves it; `None` when it is.
    pub fn is_filled(&self) -> Option<NotEmpty> {
        let model = &self.model;
        let names: Vec<&str> =
            model.vms().map(|vm| vm.name.as_str()).filter(|name| *name != "dom0").collect();
        let some = |what: &str, count: usize, names: &[&str]| {
            let shown = names.get(..3).unwrap_or(names).join(", ");
            let more = if names.len() > 3 { ", .." } else { "" };
            Some(NotEmpty(format!("{count} {what} ({shown}{more})")))
        };
        if !names.is_empty() {
            return some("VMs besides dom0", names.len(), &names);
        }
        let bad: Vec<&str> = model.set_aside().map(|row| row.name.as_str()).collect();
        if !bad.is_empty() {
            return some("rows that are set aside", bad.len(), &bad);
        }
        let pending: Vec<&str> = model.pending().map(|row| row.vm.name.as_str()).collect();
        if !pending.is_empty() {
            return some("operations under way", pending.len(), &pending);
        }
        let folders: Vec<&str> = model.folders().map(|folder| &**folder).collect();
        if !folders.is_empty() {
            return some("folders of a pool that is being added", folders.len(), &folders);
        }
        let labels: Vec<&str> = model.labels().skip(8).map(|label| label.name.as_str()).collect();
        if !labels.is_empty() {
            return some("labels of its own", labels.len(), &labels);
        }
        let pools: Vec<&str> = model.pools().skip(2).map(|pool| pool.name.as_str()).collect();
        if !pools.is_empty() {
            return some("pools of its own", pools.len(), &pools);
        }
        None
    }
}

impl Store {
    /// Replaces what a first start left by the rows of a file, all in one transaction. `accept` looks at what they
    /// amount to, and decides.
    ///
    /// # Errors
    /// The store cannot be written, or `accept` refuses: nothing has changed.
    pub(in super::super) fn fill<E: From<Error>>(
        &mut self,
        resolved: &Resolved,
        accept: impl FnOnce(&Filled) -> Result<(), E>,
    ) -> Result<Model, E> {
        let name = self.name.clone();
        let transaction = self.db.transaction().at_store(&name)?;
        rows(&transaction, resolved).at_store(&name)?;
        let dangling: i64 = transaction
            .query_row("SELECT count(*) FROM pragma_foreign_key_check", [], |row| row.get(0))
            .at_store(&name)?;
        if dangling != 0 {
            return Err(Error::new(Kind::Corrupt, Op::Store, name).because("rows of the file dangle").into());
        }
        let mut model = load::model(&transaction, &name)?;
        desktop_tags::add(&transaction, &name, &mut model)?;
        let known = |row: &SetAside| {
            row.uuid.is_some_and(|uuid| resolved.kept.iter().any(|kept| kept.uuid == uuid))
                || (row.table == "global" && resolved.kept_globals.iter().any(|(name, _)| *name == row.name))
        };
        let unexpected =
            model.set_aside().filter(|row| !known(row)).map(|row| SetAside::clone(row)).collect();
        let filled = Filled { model, unexpected };
        accept(&filled)?;
        transaction.commit().at_store(&name)?;
        Ok(filled.model)
    }
}

fn rows(db: &Connection, resolved: &Resolved) -> rusqlite::Result<()> {
    // VMs refer to each other in any order.
    db.execute_batch(
        "PRAGMA defer_foreign_keys = ON;
         DELETE FROM global; DELETE FROM vm; DELETE FROM pool; DELETE FROM label;",
    )?;
    for write in &resolved.writes {
        write.execute(db)?;
    }
    for kept in &resolved.kept {
        keep(db, kept)?;
    }
    for (name, value) in &resolved.kept_globals {
        let sql = "INSERT INTO global (name, value) VALUES (?1, ?2)";
        db.prepare_cached(sql)?.execute([name, value])?;
    }
    Ok(())
}

/// The rows of a domain that loading sets aside.
fn keep(db: &Connection, kept: &Kept) -> rusqlite::Result<()> {
    let uuid = kept.uuid.to_string();
    let sql = "INSERT INTO vm (uuid, qid, name, class, label) VALUES (?1, ?2, ?3, ?4, ?5)";
    db.prepare_cached(sql)?.execute(params![uuid, kept.qid, kept.name, kept.class, kept.label.get()])?;
    let sql = "INSERT INTO vm_property (vm, name, value) VALUES (?1, ?2, ?3)";
    let mut property = db.prepare_cached(sql)?;
    property.execute([&uuid, SET_ASIDE, &kept.reason])?;
    for (name, value) in &kept.properties {
        property.execute([&uuid, name, value])?;
    }
    for (name, target) in &kept.references {
        let sql = "INSERT INTO vm_reference (vm, name, target) VALUES (?1, ?2, ?3)";
        let target = target.map(|target| target.to_string());
        db.prepare_cached(sql)?.execute(params![uuid, name, target])?;
    }
    for volume in &kept.volumes {
        write::volume(db, kept.uuid, volume)?;
    }
    for tag in &kept.tags {
        db.prepare_cached("INSERT INTO tag (vm, tag) VALUES (?1, ?2)")?.execute([&uuid, tag])?;
    }
    for (position, (name, value)) in (1i64..).zip(&kept.features) {
        let sql = "INSERT INTO feature (vm, name, value, position) VALUES (?1, ?2, ?3, ?4)";
        db.prepare_cached(sql)?.execute(params![uuid, name, value, position])?;
    }
    Ok(())
}
