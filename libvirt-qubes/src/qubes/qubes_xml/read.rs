//! From bytes to a document.

use std::borrow::Cow;

use encoding_rs::Encoding;
use quick_xml::XmlVersion;
use quick_xml::escape::resolve_xml_entity;
use quick_xml::events::{BytesRef, BytesStart, Event};
use quick_xml::reader::Reader;

use super::finding::{Finding, Findings};
use super::{DeviceEntry, Document, Domain, Entry, Form, LabelEntry, PoolEntry, VolumeEntry};

/// No part of the format lies deeper.
const DEEPEST: usize = 16;

/// A file that is no document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct NotXml {
    /// Where reading ended.
    pub line: u32,
    /// Why.
    pub reason: String,
}

/// An element with what is in it. Only one domain at a time is held in this form.
#[derive(Debug, Default)]
struct Element {
    line: u32,
    name: String,
    attributes: Vec<(String, String)>,
    text: String,
    children: Vec<Element>,
}

impl Element {
    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.attributes.iter().position(|(known, _)| known == name)?;
        Some(self.attributes.remove(at).1)
    }
}

/// Reads a document. Any encoding that the file declares, or shows by its first bytes, is understood.
///
/// Parts that the format does not have are left out, and a finding each tells of it.
///
/// # Errors
/// It is not well-formed XML, or not a `qubes.xml`; it has a document type, which could define entities.
pub fn read(bytes: &[u8]) -> Result<(Document, Vec<Finding>), NotXml> {
    let text = decode(bytes)?;
    Reading { reader: Reader::from_str(&text), text: &text, line: 1, counted: 0 }.document()
}

/// The text of a file, whatever its encoding.
fn decode(bytes: &[u8]) -> Result<Cow<'_, str>, NotXml> {
    let bad = |reason: String| NotXml { line: 1, reason };
    let (encoding, skip) = match Encoding::for_bom(bytes) {
        Some(found) => found,
        None => (declared(bytes).map_err(bad)?, 0),
    };
    let body = bytes.get(skip..).unwrap_or_default();
    let text = encoding.decode_without_bom_handling_and_without_replacement(body);
    text.ok_or_else(|| {
        let whole = std::str::from_utf8(body).err().map_or(0, |error| error.valid_up_to());
        let before = body.get(..whole).unwrap_or_default();
        NotXml { line: lines(before).saturating_add(1), reason: format!("not {}", encoding.name()) }
    })
}

/// The encoding that the first line declares; UTF-8 without one.
fn declared(bytes: &[u8]) -> Result<&'static Encoding, String> {
    let head = bytes.get(..bytes.len().min(256)).unwrap_or_default();
    let head: String = head.iter().map(|byte| char::from(*byte)).collect();
    let declaration = head.strip_prefix("<?xml").and_then(|rest| rest.split_once("?>")).map(|(d, _)| d);
    let Some((_, rest)) = declaration.and_then(|d| d.split_once("encoding")) else {
        return Ok(encoding_rs::UTF_8);
    };
    let quoted = rest.trim_start().strip_prefix('=').map(str::trim_start).unwrap_or_default();
    let label = quoted.split(['"', '\'']).nth(1).unwrap_or_default();
    Encoding::for_label(label.as_bytes()).ok_or_else(|| format!("unknown encoding {label:?}"))
}

fn lines(bytes: &[u8]) -> u32 {
    let count = bytes.iter().filter(|byte| **byte == b'\n').count();
    u32::try_from(count).unwrap_or(u32::MAX)
}

struct Reading<'a> {
    reader: Reader<&'a [u8]>,
    text: &'a str,
    line: u32,
    counted: usize,
}

impl Reading<'_> {
    /// The line of what was read last. Each byte is looked at once.
    fn line(&mut self) -> u32 {
        let here = usize::try_from(self.reader.buffer_position()).unwrap_or(usize::MAX).min(self.text.len());
        let between = self.text.as_bytes().get(self.counted..here).unwrap_or_default();
        self.line = self.line.saturating_add(lines(between));
        self.counted = here.max(self.counted);
        self.line
    }

    fn bad(&mut self, reason: impl Into<String>) -> NotXml {
        NotXml { line: self.line(), reason: reason.into() }
    }

    fn document(mut self) -> Result<(Document, Vec<Finding>), NotXml> {
        let mut document = Document::default();
        let mut findings = Findings::default();
        // The elements that are open. What is closed goes into the one around it; an item of a section is
        // taken out at once.
        let mut open: Vec<Element> = Vec::new();
        let mut seen_root = false;
        loop {
            // An element's line is that of its `<`: what came before was counted up to there.
            let line = self.line();
            let event = match self.reader.read_event() {
                Ok(event) => event,
                Err(error) => return Err(self.bad(error.to_string())),
            };
            match event {
                Event::Start(start) => {
                    let element = self.element(&start, line)?;
                    self.opened(&open, &element, &mut seen_root, &mut document)?;
                    open.push(element);
                }
                Event::Empty(start) => {
                    let element = self.element(&start, line)?;
                    self.opened(&open, &element, &mut seen_root, &mut document)?;
                    closed(&mut open, element, &mut document, &mut findings);
                }
                Event::End(_) => {
                    if let Some(element) = open.pop() {
                        closed(&mut open, element, &mut document, &mut findings);
                    }
                }
                Event::Text(text) => add(&mut open, &text.xml_content(XmlVersion::Implicit1_0)),
                Event::CData(text) => add(&mut open, &text.xml_content(XmlVersion::Implicit1_0)),
                Event::GeneralRef(reference) => {
                    let text = self.resolve(&reference)?;
                    add(&mut open, &text);
                }
                Event::DocType(_) => return Err(self.bad("a document type is not allowed here")),
                Event::Decl(_) | Event::PI(_) | Event::Comment(_) => {}
                Event::Eof => break,
            }
        }
        match open.last() {
            Some(element) => {
                let reason = format!("the file ends inside <{}>", element.name);
                Err(self.bad(reason))
            }
            None if !seen_root => Err(self.bad("there is no element <qubes>")),
            None => Ok((document, findings.0)),
        }
    }

    fn opened(
        &mut self,
        open: &[Element],
        element: &Element,
        seen_root: &mut bool,
        document: &mut Document,
    ) -> Result<(), NotXml> {
        match open.len() {
            0 if element.name != "qubes" => Err(self.bad(format!("<{}> is no <qubes>", element.name))),
            0 if std::mem::replace(seen_root, true) => Err(self.bad("a second <qubes>")),
            1 => {
                match element.name.as_str() {
                    "labels" => drop(document.labels.get_or_insert_default()),
                    "pools" => drop(document.pools.get_or_insert_default()),
                    _ => {}
                }
                Ok(())
            }
            DEEPEST.. => Err(self.bad("elements are nested too deeply")),
            _ => Ok(()),
        }
    }

    fn element(&mut self, start: &BytesStart<'_>, line: u32) -> Result<Element, NotXml> {
        let mut attributes = Vec::new();
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|error| self.bad(error.to_string()))?;
            let value = attribute.normalized_value(XmlVersion::Implicit1_0);
            let value = value.map_err(|error| self.bad(error.to_string()))?;
            attributes.push((attribute.key.as_ref().to_owned(), value.into_owned()));
        }
        let name = start.name().as_ref().to_owned();
        Ok(Element { line, name, attributes, ..Element::default() })
    }

    fn resolve(&mut self, reference: &BytesRef<'_>) -> Result<Cow<'static, str>, NotXml> {
        match reference.resolve_char_ref() {
            Ok(Some(character)) => return Ok(Cow::Owned(character.to_string())),
            Ok(None) => {}
            Err(error) => return Err(self.bad(error.to_string())),
        }
        let name = reference.xml_content(XmlVersion::Implicit1_0);
        match resolve_xml_entity(&name) {
            Some(text) => Ok(Cow::Borrowed(text)),
            None => Err(self.bad(format!("unknown entity &{name};"))),
        }
    }
}

/// Text counts where something is open to hold it; what stands between elements is white space.
fn add(open: &mut [Element], text: &str) {
    if let Some(element) = open.last_mut() {
        element.text.push_str(text);
    }
}

/// Puts an element that is whole where it belongs.
fn closed(open: &mut [Element], element: Element, document: &mut Document, findings: &mut Findings) {
    match open {
        [_, section] => item(&section.name, element, document, findings),
        [.., around] => around.children.push(element),
        [] => {}
    }
}

/// An item of a section.
fn item(section: &str, mut element: Element, document: &mut Document, findings: &mut Findings) {
    match (section, element.name.as_str()) {
        ("labels", "label") => document.labels.get_or_insert_default().push(LabelEntry {
            line: element.line,
            id: element.take("id").unwrap_or_default(),
            color: element.take("color").unwrap_or_default(),
            name: element.text,
        }),
        ("pools", "pool") => document.pools.get_or_insert_default().push(PoolEntry {
            line: element.line,
            name: element.take("name").unwrap_or_default(),
            driver: element.take("driver").unwrap_or_default(),
            options: element.attributes,
        }),
        ("properties", "property") => document.properties.push(entry(element)),
        ("domains", "domain") => document.domains.push(domain(element, findings)),
        (section, _) => unknown(&element, section, findings),
    }
}

fn unknown(element: &Element, around: &str, findings: &mut Findings) {
    findings.note(element.line, &format!("<{}> in <{around}>", element.name), "unknown, left out");
}

fn entry(mut element: Element) -> Entry {
    let name = element.take("name").unwrap_or_default();
    let (value, form) = match element.take("ref") {
        Some(value) => (value, Form::Ref),
        None => (element.text, Form::Text),
    };
    Entry { line: element.line, name, value, form }
}

fn domain(mut element: Element, findings: &mut Findings) -> Domain {
    let mut domain = Domain {
        line: element.line,
        id: element.take("id").unwrap_or_default(),
        class: element.take("class").unwrap_or_default(),
        ..Domain::default()
    };
    for mut part in element.children {
        let class = part.take("class").unwrap_or_default();
        let part_name = part.name;
        for child in part.children {
            match (part_name.as_str(), child.name.as_str()) {
                ("properties", "property") => domain.properties.push(entry(child)),
                ("features", "feature") => domain.features.push(entry(child)),
                ("tags", "tag") => domain.tags.push(entry(child)),
                ("devices", "device") => domain.devices.push(device(&class, child, findings)),
                ("volume-config", "volume") => domain.volumes.push(volume(child)),
                (part, _) => unknown(&child, part, findings),
            }
        }
    }
    domain
}

fn device(class: &str, mut element: Element, findings: &mut Findings) -> DeviceEntry {
    let mut options = Vec::new();
    for child in std::mem::take(&mut element.children) {
        match child.name.as_str() {
            "option" => options.push(entry(child)),
            _ => unknown(&child, "device", findings),
        }
    }
    DeviceEntry {
        line: element.line,
        class: class.to_owned(),
        backend: element.take("backend-domain"),
        port: element.take("id"),
        identity: element.take("identity"),
        mode: element.take("mode"),
        required: element.take("required"),
        options,
    }
}

fn volume(mut element: Element) -> VolumeEntry {
    let name = element.take("name").unwrap_or_default();
    VolumeEntry { line: element.line, name, attributes: element.attributes }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str) -> Document {
        read(text.as_bytes()).unwrap_or_else(|error| panic!("{error}")).0
    }

    fn fails(text: &str) -> (u32, String) {
        let error = read(text.as_bytes()).unwrap_err();
        (error.line, error.reason)
    }

    #[test]
    fn texts_are_what_the_file_means_by_them() {
        let document = document(
            "<qubes><properties>\n<property name='a'>x &amp; y &#65;&#x42; <![CDATA[<&>]]><!-- no --> z</property>\n\
             <property name=\"b\"/><property name='c'> two \r\n lines </property>\
             <property name='d' ref='label-3'>gone</property><property name='e&quot;&#10;f\tg'></property>\
             </properties></qubes>",
        );
        let read: Vec<_> =
            document.properties.iter().map(|e| (e.line, e.name.as_str(), e.value.as_str())).collect();
        assert_eq!(
            read,
            [
                (2, "a", "x & y AB <&> z"),
                (3, "b", ""),
                (3, "c", " two \n lines "),
                (4, "d", "label-3"),
                (4, "e\"\nf g", ""),
            ]
        );
        assert_eq!(document.properties[3].form, Form::Ref);
        assert_eq!((document.labels, document.pools), (None, None));
    }

    #[test]
    fn encodings_are_read_as_declared_or_shown() {
        let text = |encoding: &str| {
            format!(
                "<?xml version='1.0' encoding='{encoding}'?><qubes><properties><property name='n'>\u{e9}</property></properties></qubes>"
            )
        };
        let value = |bytes: &[u8]| read(bytes).unwrap().0.properties[0].value.clone();
        assert_eq!(value(text("utf-8").as_bytes()), "\u{e9}");
        assert_eq!(value(format!("\u{feff}{}", text("UTF-8")).as_bytes()), "\u{e9}");
        let latin: Vec<u8> =
            text("iso-8859-1").chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
        assert_eq!(value(&latin), "\u{e9}");
        let mut utf16 = vec![0xff, 0xfe];
        utf16.extend(text("utf-16").encode_utf16().flat_map(u16::to_le_bytes));
        assert_eq!(value(&utf16), "\u{e9}");
        assert_eq!(fails(&text("klingon")).1, "unknown encoding \"klingon\"");
        let error = read(b"<qubes>\n\n\xff</qubes>").unwrap_err();
        assert_eq!((error.line, error.reason.as_str()), (3, "not UTF-8"));
    }

    #[test]
    fn what_is_no_document_is_refused_with_its_line() {
        for (text, line, words) in [
            ("", 1, "no element <qubes>"),
            ("<other/>", 1, "<other> is no <qubes>"),
            ("<qubes/>\n<qubes/>", 2, "a second <qubes>"),
            ("<qubes>\n<labels>\n", 3, "ends inside <labels>"),
            ("<qubes>\n<labels></pools></qubes>", 2, "labels"),
            ("<qubes>\n\n&evil;</qubes>", 3, "unknown entity &evil;"),
            ("<!DOCTYPE qubes [<!ENTITY a 'b'>]>\n<qubes/>", 1, "document type"),
            ("<qubes a='1' a='2'/>", 1, "a"),
            ("<qubes>\n&#0;</qubes>", 2, ""),
        ] {
            let (at, reason) = fails(text);
            assert!(at == line && reason.contains(words), "{text}: line {at}: {reason}");
        }
        let deep = format!("<qubes>{}", "<a>".repeat(100_000));
        assert!(fails(&deep).1.contains("too deeply"));
    }

    #[test]
    fn parts_that_the_format_has_not_are_told_and_left_out() {
        let (document, findings) = read(
            b"<qubes version='3'><labels>\n<label id='label-1' color='0xcc0000'>red</label><extra/></labels>\n<weather/>\
              <domains><domain id='domain-1' class='AppVM'><features><flag/></features>\n<moods><mood/></moods></domain></domains></qubes>",
        )
        .unwrap();
        assert_eq!(document.labels.unwrap().len(), 1);
        assert_eq!(document.domains.len(), 1);
        let told: Vec<_> = findings.iter().map(|f| (f.line.unwrap(), f.about.as_str())).collect();
        assert_eq!(told, [(2, "<extra> in <labels>"), (3, "<flag> in <features>"), (4, "<mood> in <moods>")]);
    }
}
