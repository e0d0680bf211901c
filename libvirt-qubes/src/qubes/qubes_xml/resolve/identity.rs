//! Who a domain is.

use std::collections::HashSet;

use uuid::Uuid;

use super::super::super::class::VmClass;
use super::super::super::ids::Qid;
use super::super::super::vm::Vm;
use super::super::Domain;
use super::Resolving;
use crate::ids::VmName;

/// A domain with a name, a number and an identity of its own.
pub(super) struct Identity<'a> {
    pub(super) domain: &'a Domain,
    pub(super) uuid: Uuid,
    pub(super) qid: Qid,
    pub(super) name: VmName,
    /// `None` where it is none.
    pub(super) class: Option<VmClass>,
    /// What findings call it.
    pub(super) about: String,
}

/// What is taken already.
#[derive(Default)]
struct Taken {
    names: HashSet<VmName>,
    qids: HashSet<Qid>,
    uuids: HashSet<Uuid>,
}

impl Resolving<'_> {
    /// The domains that can be told apart; the others are left out.
    pub(super) fn identities<'d>(&mut self, domains: &'d [Domain]) -> Vec<Identity<'d>> {
        let mut taken = Taken::default();
        let mut identities = Vec::with_capacity(domains.len());
        for domain in domains {
            let admin = domain.class == VmClass::AdminVm.as_str();
            let fallback = if admin { VmName::DOM0 } else { "" };
            let shown = domain.property("name").map_or(fallback, |entry| entry.value.as_str());
            let about = match shown {
                "" => format!("domain {:?}", domain.id),
                name => format!("domain '{name}'"),
            };
            match self.identity(domain, shown, admin, about.clone(), &mut taken) {
                Ok(identity) => {
                    self.names.insert(shown.to_owned(), identity.uuid);
                    identities.push(identity);
                }
                Err(reason) => self.findings.problem(domain.line, &about, format!("left out: {reason}")),
            }
        }
        identities
    }

    fn identity<'d>(
        &mut self,
        domain: &'d Domain,
        name: &str,
        admin: bool,
        about: String,
        taken: &mut Taken,
    ) -> Result<Identity<'d>, String> {
        let name: VmName = match name {
            "" => return Err("it has no name".to_owned()),
            name => name.parse().map_err(|error| format!("{error}"))?,
        };
        let qid = qid(domain)?;
        let uuid = match domain.property("uuid") {
            _ if admin => Vm::DOM0,
            Some(entry) => Uuid::try_parse(&entry.value).map_err(|error| format!("uuid: {error}"))?,
            None => Uuid::new_v4(),
        };
        let is_dom0 = [admin, name.is_dom0(), qid == Qid::DOM0, uuid == Vm::DOM0];
        if is_dom0 != [admin; 4] {
            return Err("dom0 alone has class AdminVM, number 0 and the identity of zeros".to_owned());
        }
        if taken.names.contains(&name) {
            return Err("a domain of this name comes before it".to_owned());
        }
        if !taken.qids.insert(qid) {
            return Err(format!("its number {qid} is that of a domain before it"));
        }
        if !taken.uuids.insert(uuid) {
            return Err(format!("its uuid {uuid} is that of a domain before it"));
        }
        taken.names.insert(name.clone());
        let class = domain.class.parse().ok();
        if let Some(stated) = domain.id.strip_prefix("domain-").filter(|stated| **stated != qid.to_string()) {
            self.findings.note(
                domain.line,
                &about,
                format!("its id says {stated}, its qid {qid}: that counts"),
            );
        }
        Ok(Identity { domain, uuid, qid, name, class, about })
    }
}

/// The number: property `qid`, or what `id` says.
fn qid(domain: &Domain) -> Result<Qid, String> {
    let text = match domain.property("qid") {
        Some(entry) => entry.value.as_str(),
        None => domain.id.strip_prefix("domain-").unwrap_or_default(),
    };
    if text.is_empty() {
        return Err("it has no number".to_owned());
    }
    let number = text.parse().ok().and_then(Qid::new);
    number.ok_or_else(|| format!("its number {text:?} is none of 0 to 10000"))
}
