//! Labels.

use std::collections::BTreeMap;

use super::{Answer, Oracle, refused};

const BUILT_IN: [(&str, &str); 8] = [
    ("red", "0xcc0000"),
    ("orange", "0xf57900"),
    ("yellow", "0xedd400"),
    ("green", "0x73d216"),
    ("gray", "0x555555"),
    ("blue", "0x3465a4"),
    ("purple", "0x75507b"),
    ("black", "0x000000"),
];

pub fn built_in() -> BTreeMap<u32, (String, String)> {
    (1..).zip(BUILT_IN.map(|(name, colour)| (name.to_owned(), colour.to_owned()))).collect()
}

impl Oracle {
    pub(super) fn label(&mut self, verb: &str, argument: &str, payload: &str) -> Answer {
        match verb {
            "List" => Ok(self.labels.values().map(|(name, _)| format!("{name}\n")).collect()),
            "Get" => self.find_label(argument).map(|index| self.labels[&index].1.clone()),
            "Index" => self.find_label(argument).map(|index| index.to_string()),
            "Create" => {
                if argument.bytes().all(|b| b.is_ascii_digit()) {
                    return refused("QubesInvalidLabelError", "Label must not be a digit");
                }
                let colour = payload.trim();
                if colour.len() != 8 {
                    return refused("QubesInvalidLabelValueError", "Label value must have length of 8");
                }
                if !colour.starts_with("0x") {
                    return refused("QubesInvalidLabelValueError", "Label value must start with: 0x");
                }
                if !colour[2..].bytes().all(|b| b.is_ascii_hexdigit()) {
                    let text = "Label value must only contain hexadecimal digits after prefix: 0123456789abcdefABCDEF";
                    return refused("QubesInvalidLabelValueError", text);
                }
                if self.labels.values().any(|(name, _)| name == argument) {
                    return refused("QubesLabelInUseError", format!("Label is still in use: '{argument}'"));
                }
                let index = self.labels.keys().max().map_or(8, |most| (*most).max(8)) + 1;
                self.labels.insert(index, (argument.into(), colour.into()));
                Ok(String::new())
            }
            "Remove" => {
                let index = self.find_label(argument)?;
                if index <= 8 {
                    return refused("ProtocolError", "Can only remove custom labels");
                }
                if self.vms.values().any(|vm| vm.label == index) {
                    let name = &self.labels[&index].0;
                    return refused("QubesLabelInUseError", format!("Label is still in use: '{name}'"));
                }
                self.labels.remove(&index);
                Ok(String::new())
            }
            verb => panic!("label.{verb}"),
        }
    }
}
