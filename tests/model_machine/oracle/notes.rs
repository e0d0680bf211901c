//! Notes. What is kept of them is looked up, not computed: these are all that are sent.

use super::{Answer, Oracle};

/// Notes that are sent, and what is kept of them: what is not safe to show becomes `_`.
pub const NOTES: &[(&str, &str)] = &[
    ("", ""),
    ("a note\n", "a note\n"),
    ("gr\u{fc}n\tund \u{2603}\u{202e}", "gr\u{fc}n\tund __"),
    ("%s \u{1b}[1m\r\n", "%s _[1m_\n"),
];

impl Oracle {
    pub(super) fn notes(&mut self, verb: &str, vm: &str, payload: &str) -> Answer {
        match verb {
            "Get" => Ok(self.vms[vm].notes.clone()),
            "Set" => {
                let (_, kept) = NOTES.iter().find(|(sent, _)| *sent == payload).unwrap();
                (*kept).clone_into(&mut self.vm_mut(vm).notes);
                Ok(String::new())
            }
            verb => panic!("vm.notes.{verb}"),
        }
    }
}
