//! The payload of `vm.Create.*` and `vm.CreateInPool.*`: `KEY=VALUE` tokens separated by one space.

use libvirt_qubes::ids::VmName;

use crate::untrusted::{Parse, ascii};
use crate::wire::{Class, Exception};

/// The volumes whose pool can be chosen.
const VOLUMES: [&str; 4] = ["root", "private", "volatile", "kernel"];

/// What names of labels and pools are made of, in the words of the deployed daemon.
pub(super) const SAFE_CHARACTERS: &str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";

/// The payload of `vm.Create.*`, which knows no pools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Create(pub NewVm);

/// The payload of `vm.CreateInPool.*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateInPool(pub NewVm);

/// What a new VM is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVm {
    /// Its name; whether it is taken is not known yet.
    pub name: VmName,
    /// Its label's name; whether there is one is not known yet.
    pub label: String,
    /// Where its volumes go.
    pub pools: Pools,
}

/// Where the volumes of a new VM go. Names of pools are as they were sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pools {
    /// Each to its default.
    Default,
    /// All that can be placed, to one.
    All(String),
    /// Some to one of their own, in the order in which they were named.
    Some(Vec<VolumePool>),
}

/// A volume and the pool that it goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumePool {
    /// `root`, `private`, `volatile` or `kernel`.
    pub volume: &'static str,
    /// The pool's name as it was sent.
    pub pool: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum PoolKeys {
    Allowed,
    Refused,
}

impl Parse for Create {
    fn parse(bytes: &[u8]) -> Result<Self, Exception> {
        parse(bytes, PoolKeys::Refused).map(Self)
    }
}

impl Parse for CreateInPool {
    fn parse(bytes: &[u8]) -> Result<Self, Exception> {
        parse(bytes, PoolKeys::Allowed).map(Self)
    }
}

pub(super) fn protocol(message: impl Into<String>) -> Exception {
    Exception::plain(Class::ProtocolError, message)
}

fn parse(bytes: &[u8], pool_keys: PoolKeys) -> Result<NewVm, Exception> {
    let (mut name, mut label, mut pool) = (None, None, None);
    let mut pools: Vec<VolumePool> = Vec::new();
    for parameter in parameters(bytes)? {
        let (key, value) = parameter?;
        let volume = key.strip_prefix("pool:");
        if pool_keys == PoolKeys::Refused && (key == "pool" || volume.is_some()) {
            return Err(protocol("Pool option specified but 'allow_pool' is False"));
        }
        match (key, volume) {
            ("name", _) => once(&mut name, vm_name(value)?, "Options must be unique")?,
            ("label", _) => once(&mut label, label_name(value)?, "Options must be unique")?,
            ("pool", _) => once(&mut pool, value.to_owned(), "Option 'pool' must be unique")?,
            (_, Some(volume)) => {
                let volume = VOLUMES
                    .into_iter()
                    .find(|known| *known == volume)
                    .ok_or_else(|| protocol("Volume must be one of: root, private, volatile, kernel"))?;
                if pools.iter().any(|before| before.volume == volume) {
                    return Err(protocol(format!("Option 'pool:{volume}' must be unique")));
                }
                pools.push(VolumePool { volume, pool: value.to_owned() });
            }
            (_, None) => return Err(protocol("Options does not match: name, label, pool, pool:")),
        }
    }
    let missing = |key: &str| protocol(format!("Creation requested without key: {key}"));
    let (name, label) = (name.ok_or_else(|| missing("name"))?, label.ok_or_else(|| missing("label"))?);
    let pools = match (pool, pools.is_empty()) {
        (None, true) => Pools::Default,
        (Some(pool), true) => Pools::All(pool),
        (None, false) => Pools::Some(pools),
        (Some(_), false) => return Err(protocol("Conflicting options specified: 'pool=', 'pool:volume='")),
    };
    Ok(NewVm { name, label, pools })
}

/// The keys and values, each or what is wrong with it.
pub(super) fn parameters(
    bytes: &[u8],
) -> Result<impl Iterator<Item = Result<(&str, &str), Exception>>, Exception> {
    let text = ascii(bytes).ok_or_else(|| protocol("Parameters contains non-ASCII characters"))?;
    Ok(text.split(' ').map(|token| {
        let form = || protocol("Parameters must be KEY=VALUE, separated by one space");
        token.split_once('=').ok_or_else(form)
    }))
}

pub(super) fn once<T>(place: &mut Option<T>, value: T, repeated: &str) -> Result<(), Exception> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(protocol(repeated)),
    }
}

pub(super) fn vm_name(text: &str) -> Result<VmName, Exception> {
    text.parse()
        .map_err(|bad: libvirt_qubes::ids::BadId| Exception::plain(Class::QubesValueError, bad.reason()))
}

fn label_name(text: &str) -> Result<String, Exception> {
    let invalid = |message: String| Err(Exception::plain(Class::QubesInvalidLabelError, message));
    if text.is_empty() {
        return invalid("Label name must be set".to_owned());
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return invalid("Label must not be a digit".to_owned());
    }
    if !text.chars().all(|c| SAFE_CHARACTERS.contains(c)) {
        return invalid(format!("Label must be in safe set: {SAFE_CHARACTERS}"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn new_vm(pools: Pools) -> NewVm {
        NewVm { name: "work".parse().unwrap(), label: "red".into(), pools }
    }

    fn volume(volume: &'static str, pool: &str) -> VolumePool {
        VolumePool { volume, pool: pool.into() }
    }

    #[test]
    fn parameters_are_taken_in_any_order() {
        for text in ["name=work label=red", "label=red name=work"] {
            assert_eq!(Create::parse(text.as_bytes()), Ok(Create(new_vm(Pools::Default))));
            assert_eq!(CreateInPool::parse(text.as_bytes()), Ok(CreateInPool(new_vm(Pools::Default))));
        }
        for (text, pools) in [
            ("name=work pool=big label=red", Pools::All("big".into())),
            ("name=work label=red pool=", Pools::All(String::new())),
            (
                "pool:root=a=b name=work label=red pool:private=c",
                Pools::Some(vec![volume("root", "a=b"), volume("private", "c")]),
            ),
        ] {
            assert_eq!(CreateInPool::parse(text.as_bytes()), Ok(CreateInPool(new_vm(pools))), "{text}");
        }
    }

    #[test]
    fn the_first_parameter_that_is_wrong_is_told_in_the_deployed_words() {
        let form = "Parameters must be KEY=VALUE, separated by one space";
        let safe = format!("Label must be in safe set: {SAFE_CHARACTERS}");
        for (text, class, message) in [
            ("", Class::ProtocolError, form),
            ("name=work  label=red", Class::ProtocolError, form),
            ("name=work label=red ", Class::ProtocolError, form),
            ("name", Class::ProtocolError, form),
            ("name=w\u{f6}rk", Class::ProtocolError, "Parameters contains non-ASCII characters"),
            ("name=a name=b label=red", Class::ProtocolError, "Options must be unique"),
            ("label=a label=b name=c", Class::ProtocolError, "Options must be unique"),
            ("name=a colour=red", Class::ProtocolError, "Options does not match: name, label, pool, pool:"),
            ("name=a pools=b", Class::ProtocolError, "Options does not match: name, label, pool, pool:"),
            ("label=red", Class::ProtocolError, "Creation requested without key: name"),
            ("name=a", Class::ProtocolError, "Creation requested without key: label"),
            ("name=a-dm label=red", Class::QubesValueError, "VM name cannot end with -dm"),
            ("name= label=red", Class::QubesValueError, "VM name contains illegal characters"),
            ("name=a label=", Class::QubesInvalidLabelError, "Label name must be set"),
            ("name=a label=1", Class::QubesInvalidLabelError, "Label must not be a digit"),
            ("name=a label=r/d", Class::QubesInvalidLabelError, &safe),
        ] {
            for result in [
                Create::parse(text.as_bytes()).map(|vm| vm.0),
                CreateInPool::parse(text.as_bytes()).map(|vm| vm.0),
            ] {
                assert_eq!(result, Err(Exception::plain(class, message)), "{text}");
            }
        }
        assert_eq!(SAFE_CHARACTERS.len(), 65);
    }

    #[test]
    fn pools_are_taken_where_they_may_be_chosen_and_refused_elsewhere() {
        for text in ["pool=a", "name=a label=red pool:root=b", "pool:x=y"] {
            let refused = protocol("Pool option specified but 'allow_pool' is False");
            assert_eq!(Create::parse(text.as_bytes()), Err(refused), "{text}");
        }
        for (text, message) in [
            ("pool=a pool=b", "Option 'pool' must be unique"),
            ("pool:root=a pool:root=b", "Option 'pool:root' must be unique"),
            ("pool:home=a", "Volume must be one of: root, private, volatile, kernel"),
            ("pool:=a", "Volume must be one of: root, private, volatile, kernel"),
            ("name=a label=red pool=a pool:root=b", "Conflicting options specified: 'pool=', 'pool:volume='"),
        ] {
            assert_eq!(CreateInPool::parse(text.as_bytes()), Err(protocol(message)), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_payload_parses_or_is_refused(text in "((name|label|pool|pool:root|x)=?[a-z0-9=\u{f6}-]{0,4}[ ]?){0,5}") {
            let with_pools = CreateInPool::parse(text.as_bytes());
            if let Ok(plain) = Create::parse(text.as_bytes()) {
                prop_assert_eq!(with_pools, Ok(CreateInPool(plain.0)));
            }
        }
    }
}
