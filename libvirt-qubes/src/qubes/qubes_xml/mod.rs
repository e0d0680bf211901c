//! `qubes.xml`: the form in which a deployed system keeps what this project keeps in its store.
//!
//! Reading goes in two steps, so that each can be wrong in its own way: [`read`](read::read) turns bytes into
//! a [`Document`], one element at a time, and knows XML alone; [`resolve`](resolve::resolve) turns a document into rows of the
//! model, and knows its rules, among them what older releases wrote. Writing goes the same way back:
//! [`describe`](describe::describe), then [`print`](print::print).

pub mod describe;
pub mod finding;
pub mod print;
pub mod read;
pub mod resolve;

/// What a file says, unjudged, each part with the line that it begins on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Document {
    /// `labels`; `None` where the file has no such part.
    pub labels: Option<Vec<LabelEntry>>,
    /// `pools`; `None` where the file has no such part.
    pub pools: Option<Vec<PoolEntry>>,
    /// The system's `properties`.
    pub properties: Vec<Entry>,
    /// `domains`.
    pub domains: Vec<Domain>,
}

/// A label.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelEntry {
    /// Where.
    pub line: u32,
    /// `id`: `label-N`.
    pub id: String,
    /// `color`.
    pub color: String,
    /// Its name.
    pub name: String,
}

/// A pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolEntry {
    /// Where.
    pub line: u32,
    /// `name`.
    pub name: String,
    /// `driver`.
    pub driver: String,
    /// The driver's options: every other attribute.
    pub options: Vec<(String, String)>,
}

/// A property, feature, tag or option: a name, and the text where there is one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// Where.
    pub line: u32,
    /// `name`.
    pub name: String,
    /// The text, or what `ref` says.
    pub value: String,
    /// Whether the value stands in `ref`.
    pub form: Form,
}

/// Where the value of a property stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Form {
    /// As text.
    #[default]
    Text,
    /// In the attribute `ref`.
    Ref,
}

/// A domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Domain {
    /// Where.
    pub line: u32,
    /// `id`: `domain-QID`.
    pub id: String,
    /// `class`.
    pub class: String,
    /// Its properties.
    pub properties: Vec<Entry>,
    /// Its features, in order.
    pub features: Vec<Entry>,
    /// Its tags; they have no value.
    pub tags: Vec<Entry>,
    /// The devices assigned to it.
    pub devices: Vec<DeviceEntry>,
    /// Its volumes.
    pub volumes: Vec<VolumeEntry>,
}

/// An assigned device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceEntry {
    /// Where.
    pub line: u32,
    /// The class that the devices around it have.
    pub class: String,
    /// `backend-domain`.
    pub backend: Option<String>,
    /// `id`: its port.
    pub port: Option<String>,
    /// `identity`: what it is.
    pub identity: Option<String>,
    /// `mode`.
    pub mode: Option<String>,
    /// `required`, of older files.
    pub required: Option<String>,
    /// Its options.
    pub options: Vec<Entry>,
}

/// A volume: its attributes, `name` among them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumeEntry {
    /// Where.
    pub line: u32,
    /// `name`.
    pub name: String,
    /// Every other attribute.
    pub attributes: Vec<(String, String)>,
}

impl VolumeEntry {
    /// The value of an attribute.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

impl Domain {
    /// The text of a property; the last one counts.
    pub fn property(&self, name: &str) -> Option<&Entry> {
        self.properties.iter().rev().find(|entry| entry.name == name)
    }
}
