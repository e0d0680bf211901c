//! Labels and pools.

use std::sync::Arc;

use super::super::super::ids::LabelIndex;
use super::super::super::label::{BUILT_IN, Label};
use super::super::super::pool::Pool;
use super::super::{LabelEntry, PoolEntry};
use super::Resolving;
use crate::storage::{DriverKind, Tuning};

impl Resolving<'_> {
    pub(super) fn labels(&mut self, entries: Option<&[LabelEntry]>) {
        for entry in entries.unwrap_or_default() {
            let about = format!("label {:?}", entry.name);
            match label(entry) {
                Ok(label) => {
                    let name = label.name.as_str();
                    if self.model.label(label.index).is_some() || self.model.label_named(name).is_some() {
                        self.findings.problem(entry.line, &about, "its name or index is another label's too");
                        continue;
                    }
                    let label = self.gray(label, entry.line);
                    self.model.put_label(Arc::new(label));
                }
                Err(reason) => self.findings.problem(entry.line, &about, reason),
            }
        }
        for (index, (name, colour)) in (1..).zip(BUILT_IN) {
            let index = LabelIndex::built_in(index);
            let free = self.model.label(index).is_none() && self.model.label_named(name).is_none();
            if let (true, Ok(name), Ok(colour)) = (free, name.parse(), colour.parse()) {
                self.model.put_label(Arc::new(Label { index, name, colour }));
                if entries.is_some() {
                    let about =
                        format!("label {:?}", BUILT_IN.get(index.get() as usize - 1).map_or("", |b| b.0));
                    self.findings.note(0, &about, "built in and not in the file, added");
                }
            }
        }
    }

    /// Old releases had another gray.
    fn gray(&mut self, mut label: Label, line: u32) -> Label {
        let old = label.index.get() == 5 && label.colour.as_str() == "0x555753";
        if let (true, Ok(gray)) = (old, "0x555555".parse()) {
            label.colour = gray;
            self.findings.note(line, "label \"gray\"", "colour 0x555753 of older releases made 0x555555");
        }
        label
    }

    pub(super) fn pools(&mut self, entries: Option<&[PoolEntry]>) {
        let Some(entries) = entries else {
            for pool in &self.place.pools {
                self.model.put_pool(pool.clone());
            }
            self.findings.note(0, "pools", "not in the file; those of a first start are used");
            return;
        };
        for (position, entry) in (1..).zip(entries) {
            let about = format!("pool {:?}", entry.name);
            let name = match entry.name.parse() {
                Ok(name) => name,
                Err(error) => {
                    self.findings.problem(entry.line, &about, format!("{error}"));
                    continue;
                }
            };
            if self.model.pool(&entry.name).is_some() {
                self.findings.problem(entry.line, &about, "a pool of this name comes before it");
                continue;
            }
            let options = entry.options.iter();
            let pool = Pool {
                name,
                driver: entry.driver.as_str().into(),
                options: options.map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect(),
                position,
            };
            if let Some(reason) = unusable(&pool) {
                self.findings.note(entry.line, &about, format!("taken, but cannot be used here: {reason}"));
            }
            self.model.put_pool(Arc::new(pool));
        }
    }
}

/// Why no volume of the pool can be used.
fn unusable(pool: &Pool) -> Option<String> {
    let kind = match pool.driver.parse::<DriverKind>() {
        Ok(kind) => kind,
        Err(_) => return Some(format!("there is no driver {:?}", pool.driver)),
    };
    let options = pool.options.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    kind.open(&pool.name, &options, Tuning::default()).err().map(|error| error.report())
}

fn label(entry: &LabelEntry) -> Result<Label, String> {
    let index = entry.id.strip_prefix("label-").and_then(|number| number.parse().ok());
    let index = index.and_then(LabelIndex::new);
    Ok(Label {
        index: index.ok_or_else(|| format!("its id {:?} is not label-NUMBER", entry.id))?,
        name: entry.name.parse().map_err(|error| format!("{error}"))?,
        colour: entry.color.parse().map_err(|error| format!("{error}: {:?}", entry.color))?,
    })
}
