//! Labels: the colours that tell how far a VM is trusted.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::diff::{Diff, Refused};
use super::host::Host;
use super::ids::{Colour, LabelIndex, LabelName};
use super::model::Model;
use super::refusal::{HostError, Refusal};
use super::snapshot::Snapshot;
use super::write::Write;
use crate::ids::VmName;

/// A label. Its index never changes; 1 to 8 are built in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Its place in the list.
    pub index: LabelIndex,
    /// Its name.
    pub name: LabelName,
    /// Its colour.
    pub colour: Colour,
}

/// The last index that is built in: these labels cannot be removed.
pub const LAST_BUILT_IN: LabelIndex = LabelIndex::built_in(8);

/// Names and colours of the built-in labels, in the order of their indexes from 1.
pub(crate) const BUILT_IN: [(&str, &str); 8] = [
    ("red", "0xcc0000"),
    ("orange", "0xf57900"),
    ("yellow", "0xedd400"),
    ("green", "0x73d216"),
    ("gray", "0x555555"),
    ("blue", "0x3465a4"),
    ("purple", "0x75507b"),
    ("black", "0x000000"),
];

impl Model {
    /// The label that a client names: by its index in decimal, or by its name.
    ///
    /// # Errors
    /// [`Refusal::LabelNotFound`].
    pub fn find_label(&self, text: &str) -> Result<&Arc<Label>, Refusal> {
        let by_index = || {
            let canonical = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            canonical.then(|| text.parse().ok().and_then(LabelIndex::new)).flatten()
        };
        let found = match by_index() {
            Some(index) => self.label(index),
            None => self.label_named(text),
        };
        found.ok_or_else(|| Refusal::LabelNotFound { label: text.to_owned() })
    }
}

/// Adds a label. Its index is the one after the highest.
///
/// # Errors
/// [`Refusal::LabelExists`]; [`Refusal::NoFreeLabelIndex`].
pub fn create(snapshot: &Snapshot, name: &LabelName, colour: &Colour) -> Result<Diff<LabelIndex>, Refused> {
    let model = &snapshot.model;
    // What was set aside keeps its name and its index.
    let set_aside = || model.set_aside().filter(|row| row.table == "label");
    if model.label_named(name.as_str()).is_some() || set_aside().any(|row| row.name == name.as_str()) {
        return Err(Refusal::LabelExists { label: name.clone() }.into());
    }
    let taken = model.labels().map(|label| label.index).chain(set_aside().filter_map(|row| row.label));
    let highest = taken.max().unwrap_or(LAST_BUILT_IN).max(LAST_BUILT_IN);
    let next = highest.get().checked_add(1).and_then(LabelIndex::new);
    let index = next.ok_or(Refusal::NoFreeLabelIndex)?;
    let label = Label { index, name: name.clone(), colour: colour.clone() };
    Ok(Diff::new(index).write(Write::AddLabel(Arc::new(label))))
}

/// Removes a label that a client names.
///
/// # Errors
/// [`Refusal::LabelNotFound`]; [`Refusal::LabelBuiltIn`]; [`Refusal::LabelInUse`], also where a VM that was set
/// aside has it.
pub fn remove(snapshot: &Snapshot, label: &str) -> Result<Diff<()>, Refused> {
    let model = &snapshot.model;
    let label = model.find_label(label)?;
    if label.index <= LAST_BUILT_IN {
        return Err(Refusal::LabelBuiltIn { label: label.name.clone() }.into());
    }
    let set_aside = || model.set_aside().filter(|row| row.table == "vm" && row.label == Some(label.index));
    let mut by: BTreeSet<VmName> = model.vms_labelled(label.index).map(|vm| vm.name.clone()).collect();
    by.extend(set_aside().filter_map(|row| row.name.parse().ok()));
    if !by.is_empty() || set_aside().next().is_some() {
        return Err(Refusal::LabelInUse { label: label.name.clone(), by }.into());
    }
    Ok(Diff::new(()).write(Write::RemoveLabel(label.index)))
}

impl Host {
    /// Adds a label.
    ///
    /// # Errors
    /// As [`create`]; the store cannot be written.
    pub async fn create_label(&self, name: LabelName, colour: Colour) -> Result<LabelIndex, HostError> {
        self.committer.commit(move |seen| create(seen, &name, &colour)).await
    }

    /// Removes a label, named as for [`Model::find_label`].
    ///
    /// # Errors
    /// As [`remove`]; the store cannot be written.
    pub async fn remove_label(&self, label: &str) -> Result<(), HostError> {
        let label = label.to_owned();
        self.committer.commit(move |seen| remove(seen, &label)).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::SetAside;
    use super::super::testing::{apply, set, small_model};
    use super::*;

    fn add(snapshot: &mut Snapshot, name: &str) -> u32 {
        let diff = create(snapshot, &name.parse().unwrap(), &"0xFFc0cb".parse().unwrap()).unwrap();
        let (index, events) = apply(snapshot, diff);
        assert_eq!(events, [], "labels have no events");
        index.get()
    }

    fn aside(table: &'static str, name: &str, index: u32) -> SetAside {
        SetAside {
            table,
            name: name.to_owned(),
            uuid: None,
            qid: None,
            position: None,
            label: LabelIndex::new(index),
            dispid: None,
            volumes: Vec::new(),
            pools: Vec::new(),
            references: Vec::new(),
            reason: "bad".to_owned(),
        }
    }

    #[test]
    fn a_new_label_comes_after_the_highest() {
        let mut snapshot = small_model();
        assert_eq!([add(&mut snapshot, "pink"), add(&mut snapshot, "mauve")], [9, 10]);
        let diff = remove(&snapshot, "pink").unwrap();
        apply(&mut snapshot, diff);
        assert_eq!(add(&mut snapshot, "pink"), 11);
        assert_eq!(snapshot.model.find_label("11").unwrap().colour.as_str(), "0xFFc0cb");
        snapshot.model.put_set_aside(aside("label", "teal", 20));
        assert_eq!(add(&mut snapshot, "cyan"), 21);
        let again = |name: &str| create(&snapshot, &name.parse().unwrap(), &"0x000000".parse().unwrap());
        for name in ["pink", "red", "teal"] {
            let exists = Refusal::LabelExists { label: name.parse().unwrap() };
            assert_eq!(again(name).unwrap_err().refusal, exists);
        }
        snapshot.model.put_set_aside(aside("label", "last", u32::MAX));
        let refused = create(&snapshot, &"new".parse().unwrap(), &"0x000000".parse().unwrap()).unwrap_err();
        assert_eq!(refused.refusal, Refusal::NoFreeLabelIndex);
    }

    #[test]
    fn a_label_goes_only_if_it_is_not_built_in_and_nobody_has_it() {
        let mut snapshot = small_model();
        add(&mut snapshot, "pink");
        let why = |snapshot: &Snapshot, label: &str| remove(snapshot, label).unwrap_err().refusal;
        assert_eq!(why(&snapshot, "8"), Refusal::LabelBuiltIn { label: "black".parse().unwrap() });
        assert_eq!(why(&snapshot, "none"), Refusal::LabelNotFound { label: "none".to_owned() });
        set(&mut snapshot, "work", "label", "pink").unwrap();
        let pink = || "pink".parse().unwrap();
        let by = BTreeSet::from(["work".parse().unwrap()]);
        assert_eq!(why(&snapshot, "pink"), Refusal::LabelInUse { label: pink(), by });
        set(&mut snapshot, "work", "label", "red").unwrap();
        assert!(remove(&snapshot, "9").is_ok());
        snapshot.model.put_set_aside(aside("vm", "a bad name", 9));
        assert_eq!(why(&snapshot, "9"), Refusal::LabelInUse { label: pink(), by: BTreeSet::new() });
    }
}
