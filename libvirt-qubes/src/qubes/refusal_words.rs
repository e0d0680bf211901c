//! What is wrong with a stored value, in words for people: what rules say of it that a Set would have broken.

use super::refusal::{Owner, Refusal};
use super::value::Value;

impl Refusal {
    /// In words, for those refusals that the rules of values give.
    #[expect(clippy::wildcard_enum_match_arm, reason = "no rule of a value gives the others")]
    pub(super) fn of_stored(&self) -> String {
        match self {
            Self::PropertyValue { text, .. } | Self::FeatureRule { text } | Self::PoolOption { text } => {
                text.to_string()
            }
            Self::VmRequired { .. } => "it may not be none".to_owned(),
            Self::WrongClass { vm, class, expected } => format!("'{vm}' is of class {class}, not {expected}"),
            Self::NotDisposableTemplate { template } | Self::TemplateNotDisposable { template } => {
                format!("'{template}' is no AppVM with template_for_dispvms")
            }
            Self::NotForDisposables { target, .. } => format!("'{target}' has no template_for_dispvms"),
            Self::ProvidesNoNetwork { netvm } => format!("'{netvm}' provides no network"),
            Self::NetworkLoop => "it closes a loop of netvms".to_owned(),
            Self::DefaultNetworkLoop { vm } => format!("it closes a loop of netvms at '{vm}'"),
            Self::NetworkStillUsed { by } => {
                let by: Vec<String> = by.iter().map(|vm| format!("'{vm}'")).collect();
                format!("it is the netvm of {}", by.join(", "))
            }
            Self::ReferenceNotFound { name, .. } => format!("there is no VM '{name}'"),
            Self::KernelNotInstalled { kernel } => format!("there is no kernel '{kernel}'"),
            Self::KernelWithoutImage { kernel } => format!("the kernel '{kernel}' has no 'vmlinuz'"),
            Self::NoSuchPool { pool } => format!("there is no pool '{pool}'"),
            Self::DisposableTemplateOfVms { by } => {
                let by = by.iter().filter_map(|user| match &user.owner {
                    Owner::Vm(vm) => Some(format!("'{vm}'")),
                    Owner::System => None,
                });
                format!("it is the base of disposables of {}", by.collect::<Vec<_>>().join(", "))
            }
            other => format!("{other:?}"),
        }
    }
}

impl Value {
    /// As it is stored, quoted where it is text.
    pub(super) fn quoted(&self) -> String {
        match self {
            Self::Str(text) => format!("{text:?}"),
            Self::Int(number) => number.to_string(),
            Self::Bool(true) => "True".to_owned(),
            Self::Bool(false) => "False".to_owned(),
            Self::Vm(None) => "none".to_owned(),
            Self::Vm(Some(vm)) => format!("VM {vm}"),
            Self::Label(index) => format!("label {index}"),
            Self::Pool(pool) => format!("pool '{pool}'"),
        }
    }
}
