//! Firewall rules. What a rule is in its canonical form is looked up, not computed: these are all that are sent.

use super::{Answer, Class, Oracle, Refused, refused};

/// Rules that are sent, and their canonical form; `None` is none.
pub const RULES: &[(&str, Option<&str>)] = &[
    ("action=accept", Some("action=accept")),
    ("action=drop", Some("action=drop")),
    ("action=accept specialtarget=dns", Some("action=accept specialtarget=dns")),
    (
        "action=accept dsthost=1.2.3.0/24 proto=tcp dstports=443 comment=web only",
        Some("action=accept dst4=1.2.3.0/24 proto=tcp dstports=443-443 comment=web only"),
    ),
    ("proto=icmp icmptype=8 action=drop", Some("action=drop proto=icmp icmptype=8")),
    ("action=accept dst4=2001:db8::1", Some("action=accept dst6=2001:db8::1/128")),
    ("action=accept dstname=example.com", Some("action=accept dsthost=example.com")),
    ("action=drop expire=4102444800", Some("action=drop expire=4102444800")),
    ("action=allow", None),
    ("proto=tcp", None),
    ("action=accept dstports=80", None),
    ("action=accept proto=tcp dstports=9-8", None),
    ("action=accept  proto=tcp", None),
];

fn canonical(rule: &str) -> Result<String, Refused> {
    let known = RULES.iter().find(|(sent, _)| *sent == rule);
    match known.and_then(|(_, canonical)| *canonical) {
        Some(canonical) => Ok(canonical.into()),
        // What is wrong with it follows, in words that no document fixes.
        None => refused("QubesValueError", "Invalid firewall rule: …"),
    }
}

impl Oracle {
    pub(super) fn firewall(
        &mut self,
        verb: &str,
        name: &str,
        argument: &str,
        payload: &str,
        events: &mut Vec<String>,
    ) -> Answer {
        // The grammar of a payload is looked at before anything else.
        let rule = if verb == "InsertRule" { canonical(payload)? } else { String::new() };
        let rules: Result<Vec<String>, Refused> = match verb {
            "Set" => payload.lines().map(canonical).collect(),
            _ => Ok(Vec::new()),
        };
        let rules = rules?;
        let vm = self.vm_mut(name);
        if vm.class == Class::Remote {
            return refused("QubesVMError", "Not possible for a VM of class RemoteVM: …");
        }
        let changed = format!("{name} firewall-changed");
        match verb {
            "List" => return Ok(vm.rules.iter().map(|(id, rule)| format!("{id} {rule}\n")).collect()),
            "Get" => return Ok(vm.rules.iter().map(|(_, rule)| format!("{rule}\n")).collect()),
            "Reload" => {}
            "Flush" => vm.rules.clear(),
            "RemoveRule" => {
                let at = find(&vm.rules, argument)?;
                vm.rules.remove(at);
            }
            "InsertRule" => {
                let at = if argument == "END" { vm.rules.len() } else { find(&vm.rules, argument)? };
                let id = vm.next_rule;
                vm.next_rule += 1;
                vm.rules.insert(at, (id, rule));
                events.push(changed);
                return Ok(id.to_string());
            }
            "Set" => {
                let mut old = std::mem::take(&mut vm.rules);
                old.sort();
                for rule in rules {
                    let same = old.iter().position(|(_, old)| *old == rule);
                    let id = match same {
                        Some(at) => old.remove(at).0,
                        None => {
                            vm.next_rule += 1;
                            vm.next_rule - 1
                        }
                    };
                    vm.rules.push((id, rule));
                }
            }
            verb => panic!("vm.firewall.{verb}"),
        }
        events.push(changed);
        Ok(String::new())
    }
}

fn find(rules: &[(u64, String)], id: &str) -> Result<usize, Refused> {
    match rules.iter().position(|(known, _)| known.to_string() == id) {
        Some(at) => Ok(at),
        None => refused("QubesValueError", format!("No such firewall rule: {id}")),
    }
}
