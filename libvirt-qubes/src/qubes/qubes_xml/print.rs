//! From a document to bytes.

use std::borrow::Cow;
use std::io::{self, Write};

use quick_xml::events::attributes::Attribute;
use quick_xml::events::{BytesDecl, BytesEnd, BytesStart, BytesText, Event};
use quick_xml::name::QName;
use quick_xml::writer::Writer;

use super::{DeviceEntry, Document, Domain, Entry, Form, LabelEntry, PoolEntry, VolumeEntry};

/// Writes a document: UTF-8, indented by two blanks. What is read from it is the same document.
///
/// # Errors
/// What `out` says.
pub fn print(document: &Document, out: impl Write) -> io::Result<()> {
    let mut printing = Printing { out: Writer::new_with_indent(out, b' ', 2) };
    printing.out.write_event(Event::Decl(BytesDecl::new("1.0", Some("utf-8"), None)))?;
    printing.within("qubes", &[], |p| p.sections(document))?;
    printing.out.into_inner().write_all(b"\n")
}

struct Printing<W: Write> {
    out: Writer<W>,
}

type Pairs<'a> = &'a [(&'a str, &'a str)];

/// Escaped so that readers, which make line ends and tabs into other white space, give it back as it was.
fn escape(text: &str, in_attribute: bool) -> Cow<'_, str> {
    let escaped = quick_xml::escape::escape(text);
    if !escaped.contains(['\r', '\n', '\t']) {
        return escaped;
    }
    let escaped = escaped.replace('\r', "&#13;");
    Cow::Owned(match in_attribute {
        true => escaped.replace('\n', "&#10;").replace('\t', "&#9;"),
        false => escaped,
    })
}

fn start<'a>(name: &'a str, attributes: Pairs<'a>) -> BytesStart<'a> {
    let mut start = BytesStart::new(name);
    for (key, value) in attributes {
        start.push_attribute(Attribute { key: QName(key), value: escape(value, true) });
    }
    start
}

impl<W: Write> Printing<W> {
    fn within(
        &mut self,
        name: &str,
        attributes: Pairs<'_>,
        content: impl FnOnce(&mut Self) -> io::Result<()>,
    ) -> io::Result<()> {
        self.out.write_event(Event::Start(start(name, attributes)))?;
        content(self)?;
        self.out.write_event(Event::End(BytesEnd::new(name)))
    }

    /// An element with text; an empty one where there is none.
    fn leaf(&mut self, name: &str, attributes: Pairs<'_>, text: &str) -> io::Result<()> {
        if text.is_empty() {
            return self.out.write_event(Event::Empty(start(name, attributes)));
        }
        self.out.write_event(Event::Start(start(name, attributes)))?;
        self.out.write_event(Event::Text(BytesText::from_escaped(escape(text, false))))?;
        self.out.write_event(Event::End(BytesEnd::new(name)))
    }

    fn sections(&mut self, document: &Document) -> io::Result<()> {
        if let Some(labels) = &document.labels {
            self.within("labels", &[], |p| labels.iter().try_for_each(|label| p.label(label)))?;
        }
        if let Some(pools) = &document.pools {
            self.within("pools", &[], |p| pools.iter().try_for_each(|pool| p.pool(pool)))?;
        }
        self.entries("properties", "property", &document.properties)?;
        self.within("domains", &[], |p| document.domains.iter().try_for_each(|domain| p.domain(domain)))
    }

    fn label(&mut self, label: &LabelEntry) -> io::Result<()> {
        self.leaf("label", &[("id", &label.id), ("color", &label.color)], &label.name)
    }

    fn pool(&mut self, pool: &PoolEntry) -> io::Result<()> {
        let own = [("name", pool.name.as_str()), ("driver", pool.driver.as_str())];
        let options = pool.options.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let attributes: Vec<_> = own.into_iter().chain(options).collect();
        self.leaf("pool", &attributes, "")
    }

    fn entries(&mut self, around: &str, name: &str, entries: &[Entry]) -> io::Result<()> {
        self.within(around, &[], |p| entries.iter().try_for_each(|entry| p.entry(name, entry)))
    }

    fn entry(&mut self, name: &str, entry: &Entry) -> io::Result<()> {
        match entry.form {
            Form::Text => self.leaf(name, &[("name", &entry.name)], &entry.value),
            Form::Ref => self.leaf(name, &[("name", &entry.name), ("ref", &entry.value)], ""),
        }
    }

    fn domain(&mut self, domain: &Domain) -> io::Result<()> {
        self.within("domain", &[("id", &domain.id), ("class", &domain.class)], |p| {
            p.entries("properties", "property", &domain.properties)?;
            p.entries("features", "feature", &domain.features)?;
            p.entries("tags", "tag", &domain.tags)?;
            for devices in domain.devices.chunk_by(|a, b| a.class == b.class) {
                let class = devices.first().map_or("", |device| device.class.as_str());
                p.within("devices", &[("class", class)], |p| devices.iter().try_for_each(|d| p.device(d)))?;
            }
            p.within("volume-config", &[], |p| domain.volumes.iter().try_for_each(|volume| p.volume(volume)))
        })
    }

    fn device(&mut self, device: &DeviceEntry) -> io::Result<()> {
        let attributes = [
            ("backend-domain", &device.backend),
            ("id", &device.port),
            ("mode", &device.mode),
            ("required", &device.required),
            ("identity", &device.identity),
        ];
        let given = attributes.iter().filter_map(|(key, value)| Some((*key, value.as_deref()?)));
        let given: Vec<_> = given.collect();
        if device.options.is_empty() {
            return self.leaf("device", &given, "");
        }
        self.within("device", &given, |p| {
            device.options.iter().try_for_each(|option| p.entry("option", option))
        })
    }

    fn volume(&mut self, volume: &VolumeEntry) -> io::Result<()> {
        let attributes = volume.attributes.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let attributes: Vec<_> = std::iter::once(("name", volume.name.as_str())).chain(attributes).collect();
        self.leaf("volume", &attributes, "")
    }
}
