//! What a call answers, as data, and the bytes that this has in either dialect.
//!
//! Handlers return a [`Reply`] and know no byte. Lists and `key=value` answers have a newline after each line;
//! single values have none.

use std::borrow::Cow;
use std::fmt;

use libvirt_qubes::ids::VmName;
use uuid::Uuid;

use crate::BoxFuture;
use crate::wire::Event;

/// The result of a call that was carried out.
pub enum Reply {
    /// An OK message.
    Content(Content),
    /// Event messages until the stream ends or the client leaves.
    Events(Box<dyn EventStream>),
}

/// Events for one subscriber, in order.
///
/// What a slow subscriber makes pile up is the implementation's to bound; it then yields [`Event::lost`].
pub trait EventStream: Send {
    /// The next event; `None` when there will be no more. Dropping the future loses no event.
    fn next(&mut self) -> BoxFuture<'_, Option<Event>>;
}

/// The content of an OK message, before its encoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Nothing.
    Empty,
    /// A single value, as it is.
    Value(String),
    /// One item per line.
    Lines(Vec<String>),
    /// `key=value` lines.
    Pairs(Vec<(Cow<'static, str>, String)>),
    /// Lines of VMs.
    Vms(Vec<VmLine>),
    /// The value of a property.
    Property(PropertyValue),
    /// The values of properties, each on a line with its name.
    Properties(Vec<(&'static str, PropertyValue)>),
    /// What is known of a volume.
    Volume(Box<VolumeLines>),
    /// The default of a property.
    PropertyDefault {
        /// Its type, as [`PropertyValue::kind`].
        kind: &'static str,
        /// The default as text; empty for none.
        text: String,
    },
}

/// One line of `vm.List`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmLine {
    /// The VM's name.
    pub name: VmName,
    /// Its class, as clients know it.
    pub class: &'static str,
    /// Its power state, as clients know it.
    pub state: &'static str,
    /// Its UUID; `admin` alone shows it.
    pub uuid: Uuid,
}

/// What is known of a volume, of which each document has its own choice.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the keys of the answer; docs/calls.md says what they are")]
#[expect(clippy::struct_excessive_bools, reason = "as above")]
pub struct VolumeLines {
    pub pool: String,
    pub vid: String,
    pub size: u64,
    pub usage: u64,
    pub rw: bool,
    pub internal: bool,
    pub source: String,
    pub path: String,
    pub save_on_stop: bool,
    pub snap_on_start: bool,
    pub revisions_to_keep: i64,
    pub ephemeral: bool,
    pub is_outdated: Option<bool>,
}

impl VolumeLines {
    fn deployed(&self) -> String {
        let mut pairs = vec![
            ("pool", self.pool.clone()),
            ("vid", self.vid.clone()),
            ("size", self.size.to_string()),
            ("usage", self.usage.to_string()),
            ("rw", true_false(self.rw)),
            ("source", self.source.clone()),
            ("path", self.path.clone()),
            ("save_on_stop", true_false(self.save_on_stop)),
            ("snap_on_start", true_false(self.snap_on_start)),
            ("revisions_to_keep", self.revisions_to_keep.to_string()),
            ("ephemeral", true_false(self.ephemeral)),
        ];
        pairs.extend(self.is_outdated.map(|outdated| ("is_outdated", true_false(outdated))));
        lines_of(&pairs)
    }

    fn seed(&self) -> String {
        lines_of(&[
            ("pool", self.pool.clone()),
            ("vid", self.vid.clone()),
            ("size", self.size.to_string()),
            ("usage", self.usage.to_string()),
            ("rw", true_false(self.rw)),
            ("internal", true_false(self.internal)),
            ("source", self.source.clone()),
            ("save_on_stop", true_false(self.save_on_stop)),
            ("snap_on_start", true_false(self.snap_on_start)),
        ])
    }
}

fn true_false(flag: bool) -> String {
    if flag { "True" } else { "False" }.to_owned()
}

fn lines_of(pairs: &[(&str, String)]) -> String {
    pairs.iter().map(|(key, value)| format!("{key}={value}\n")).collect()
}

/// What `property.Get` answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PropertyValue {
    /// Whether the value was set, or follows from something else.
    pub origin: Origin,
    /// `str`, `int`, `bool`, `vm` or `label`.
    pub kind: &'static str,
    /// The value as text; empty for none.
    pub text: String,
}

/// Where a property's value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It was set explicitly.
    Set,
    /// It is the default, inherited or computed.
    Default,
}

impl From<Content> for Reply {
    fn from(content: Content) -> Self {
        Self::Content(content)
    }
}

impl Reply {
    /// An OK message without content.
    pub fn empty() -> Self {
        Self::Content(Content::Empty)
    }

    /// A single value, as it is.
    pub fn value(value: impl Into<String>) -> Self {
        Self::Content(Content::Value(value.into()))
    }

    /// One item per line.
    pub fn lines<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> Self {
        Self::Content(Content::Lines(items.into_iter().map(|item| item.to_string()).collect()))
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Content(content) => content.fmt(f),
            Self::Events(_) => f.write_str("Events"),
        }
    }
}

/// Makes the bytes of a content. A row has one, or one per dialect.
pub type Encoder = fn(&Content) -> Vec<u8>;

/// The bytes as the deployed daemon has them: `uuid=` in lists of VMs, `default=True`, `type=`.
pub fn deployed(content: &Content) -> Vec<u8> {
    let mut text = String::new();
    match content {
        Content::Empty => {}
        Content::Value(value) => text.push_str(value),
        Content::Lines(lines) => {
            for line in lines {
                text.push_str(line);
                text.push('\n');
            }
        }
        Content::Pairs(pairs) => {
            for (key, value) in pairs {
                text.push_str(&format!("{key}={value}\n"));
            }
        }
        Content::Vms(vms) => {
            for VmLine { name, class, state, uuid } in vms {
                text.push_str(&format!("{name} class={class} state={state} uuid={uuid}\n"));
            }
        }
        Content::Property(value) => text.push_str(&typed(value)),
        Content::Properties(properties) => {
            for (name, value) in properties {
                let value = typed(value).replace('\\', "\\\\").replace('\n', "\\n");
                text.push_str(&format!("{name} {value}\n"));
            }
        }
        Content::Volume(volume) => text.push_str(&volume.deployed()),
        Content::PropertyDefault { kind, text: value } => text.push_str(&format!("type={kind} {value}")),
    }
    text.into_bytes()
}

fn typed(PropertyValue { origin, kind, text }: &PropertyValue) -> String {
    let default = match origin {
        Origin::Set => "False",
        Origin::Default => "True",
    };
    format!("default={default} type={kind} {text}")
}

/// The bytes as the draft has them: no `uuid=`, and `default=yes`.
pub fn seed(content: &Content) -> Vec<u8> {
    match content {
        Content::Vms(vms) => {
            let line = |vm: &VmLine| format!("{} class={} state={}\n", vm.name, vm.class, vm.state);
            vms.iter().map(line).collect::<String>().into_bytes()
        }
        Content::Volume(volume) => volume.seed().into_bytes(),
        Content::Property(value) => {
            format!("default={} type={} {}", yes_no(value.origin), value.kind, value.text).into_bytes()
        }
        Content::Empty
        | Content::Value(_)
        | Content::Lines(_)
        | Content::Pairs(_)
        | Content::Properties(_)
        | Content::PropertyDefault { .. } => deployed(content),
    }
}

/// The bytes of the draft's `vm.property.Get`, which gives no type.
pub fn seed_untyped(content: &Content) -> Vec<u8> {
    match content {
        Content::Property(value) => format!("default={} {}", yes_no(value.origin), value.text).into_bytes(),
        Content::Empty
        | Content::Value(_)
        | Content::Lines(_)
        | Content::Pairs(_)
        | Content::Vms(_)
        | Content::Volume(_)
        | Content::Properties(_)
        | Content::PropertyDefault { .. } => seed(content),
    }
}

fn yes_no(origin: Origin) -> &'static str {
    match origin {
        Origin::Set => "no",
        Origin::Default => "yes",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_have_the_bytes_of_their_dialect() {
        let vms = Content::Vms(vec![VmLine {
            name: "work".parse().unwrap(),
            class: "AppVM",
            state: "Halted",
            uuid: Uuid::from_u128(0x0a1b),
        }]);
        let netvm =
            Content::Property(PropertyValue { origin: Origin::Default, kind: "vm", text: "sys-net".into() });
        let none = Content::Property(PropertyValue { origin: Origin::Set, kind: "vm", text: String::new() });
        let raw = PropertyValue { origin: Origin::Set, kind: "str", text: "opt1\nopt2\\x".into() };
        let empty = PropertyValue { origin: Origin::Default, kind: "vm", text: String::new() };
        let all = Content::Properties(vec![("kernelopts", raw), ("netvm", empty)]);
        let default = Content::PropertyDefault { kind: "int", text: "400".into() };
        for (content, encoder, bytes) in [
            (&Content::Empty, seed as Encoder, ""),
            (&Content::Value("1".into()), seed, "1"),
            (&Content::Lines(vec!["a".into(), "b".into()]), seed, "a\nb\n"),
            (&Content::Lines(Vec::new()), deployed, ""),
            (&Content::Pairs(vec![("size".into(), "1".into())]), seed, "size=1\n"),
            (&vms, seed, "work class=AppVM state=Halted\n"),
            (&vms, deployed, "work class=AppVM state=Halted uuid=00000000-0000-0000-0000-000000000a1b\n"),
            (&netvm, deployed, "default=True type=vm sys-net"),
            (&netvm, seed, "default=yes type=vm sys-net"),
            (&netvm, seed_untyped, "default=yes sys-net"),
            (&none, deployed, "default=False type=vm "),
            (&none, seed_untyped, "default=no "),
            (
                &all,
                deployed,
                "kernelopts default=False type=str opt1\\nopt2\\\\x\nnetvm default=True type=vm \n",
            ),
            (&all, seed, "kernelopts default=False type=str opt1\\nopt2\\\\x\nnetvm default=True type=vm \n"),
            (&default, deployed, "type=int 400"),
            (&default, seed, "type=int 400"),
        ] {
            assert_eq!(String::from_utf8(encoder(content)).unwrap(), bytes);
        }
    }
}
