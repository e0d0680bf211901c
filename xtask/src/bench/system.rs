//! A system as people have it, in the format of `qubes.xml`: a few templates, netvms, and the rest work.

use std::path::Path;

/// One template for so many VMs.
const PER_TEMPLATE: usize = 100;

/// The labels that every system has.
const LABELS: [(&str, &str); 8] = [
    ("0xcc0000", "red"),
    ("0xf57900", "orange"),
    ("0xedd400", "yellow"),
    ("0x73d216", "green"),
    ("0x555555", "gray"),
    ("0x3465a4", "blue"),
    ("0x75507b", "purple"),
    ("0x000000", "black"),
];

/// A VM of such a system that others do not follow.
pub(super) fn some_vm(size: usize) -> String {
    format!("work-{}", size - 1)
}

/// A system of that many VMs, dom0 among them, with its pools in a folder.
pub(super) fn qubes_xml(size: usize, folder: &Path) -> String {
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<qubes>\n  <labels>\n");
    let mut line = |text: String| {
        xml.push_str(&text);
        xml.push('\n');
    };
    for (index, (colour, name)) in (1..).zip(LABELS) {
        line(format!("    <label id=\"label-{index}\" color=\"{colour}\">{name}</label>"));
    }
    line("  </labels>\n  <pools>".into());
    let folder = folder.display();
    line(format!(
        "    <pool name=\"varlibqubes\" driver=\"file\" dir_path=\"{folder}/pool\" revisions_to_keep=\"1\"/>"
    ));
    line(format!("    <pool name=\"linux-kernel\" driver=\"linux-kernel\" dir_path=\"{folder}/kernels\"/>"));
    line("  </pools>\n  <properties>".into());
    line("    <property name=\"default_netvm\">net</property>".into());
    line("    <property name=\"default_template\">template-1</property>".into());
    line("  </properties>\n  <domains>".into());
    line("    <domain id=\"domain-0\" class=\"AdminVM\"><properties/><features/><tags/></domain>".into());
    for qid in 1..size {
        line(domain(qid));
    }
    line("  </domains>\n</qubes>".into());
    xml
}

fn domain(qid: usize) -> String {
    let template = (qid - 1) / PER_TEMPLATE * PER_TEMPLATE + 1;
    let (class, name) = match qid {
        _ if qid == template => ("TemplateVM", format!("template-{qid}")),
        2 => ("AppVM", "net".to_owned()),
        _ => ("AppVM", format!("work-{qid}")),
    };
    let mut properties = vec![("name", name), ("qid", qid.to_string()), ("label", "label-1".into())];
    properties.push(("uuid", format!("00000000-0000-4000-8000-{qid:012x}")));
    if class == "AppVM" {
        properties.push(("template", format!("template-{template}")));
    }
    if qid == 2 {
        properties.extend([("provides_network", "True".to_owned()), ("netvm", String::new())]);
    } else if qid.is_multiple_of(3) {
        properties.push(("memory", (400 + qid % 100).to_string()));
    }
    let mut xml = format!("    <domain id=\"domain-{qid}\" class=\"{class}\"><properties>");
    for (name, value) in properties {
        xml.push_str(&format!("<property name=\"{name}\">{value}</property>"));
    }
    xml.push_str("</properties><features><feature name=\"gui\">1</feature></features>");
    xml.push_str("<tags><tag name=\"created-by-dom0\"/></tags></domain>");
    xml
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_has_the_vms_that_were_asked_for_and_one_to_write_to() {
        for size in [10, 1000] {
            let xml = qubes_xml(size, Path::new("/srv"));
            assert_eq!(xml.matches("<domain ").count(), size);
            assert!(xml.contains(&format!("<property name=\"name\">{}</property>", some_vm(size))));
        }
    }
}
