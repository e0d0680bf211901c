//! `docs/properties.md` is made of the tables of properties. After a change there, write it anew:
//!
//! ```text
//! UPDATE_DOCS=1 cargo test -p mgmt-tests --test properties_page
//! ```

use libvirt_qubes::qubes::VmClass;
use libvirt_qubes::qubes::global::{Global, GlobalSource};
use libvirt_qubes::qubes::property::{CloneRule, Property, Source};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/properties.md");

const INTRODUCTION: &str = "\
# Properties

Made of the tables in `libvirt-qubes/src/qubes/property/` and `libvirt-qubes/src/qubes/global/`; after a change there,
`UPDATE_DOCS=1 cargo test -p mgmt-tests --test properties_page` writes this page anew.

Whoever policy lets make the call may set a property: `vm.property.Set` on the VM, `property.Set` on dom0. A value that is not set
is the default, also when that changes; `Reset` goes back to it. Setting the value that holds is a change as any other and is
announced. On the command line: `mgmt vm property …` and `mgmt property …`.

";

const OF_VMS: &str = "\
## Of VMs

*Set* says when a new value counts for a VM that runs: `at once`, with the `next start`, or that it is refused until then
(`while halted`); `fixed` is computed, or chosen when the VM is made. *Clone* says whether a clone takes a value over that is set.

| property | type | classes | default | set | clone | meaning |
| --- | --- | --- | --- | --- | --- | --- |
";

const OF_THE_SYSTEM: &str = "
## Of the system

| property | type | default | meaning |
| --- | --- | --- | --- |
";

/// reStructuredText as in the tables, as Markdown.
fn markdown(rst: &str) -> String {
    assert!(!rst.contains('|') && !rst.contains('\n'), "it would break its cell: {rst}");
    rst.replace("``", "`")
}

fn classes(property: Property) -> String {
    let (with, without): (Vec<VmClass>, Vec<VmClass>) =
        VmClass::ALL.into_iter().partition(|class| property.applies_to(*class));
    let names = |classes: &[VmClass]| classes.iter().map(|class| class.as_str()).collect::<Vec<_>>();
    match without.len() {
        0 => "all".to_owned(),
        1 | 2 => format!("all but {}", names(&without).join(", ")),
        _ => names(&with).join(", "),
    }
}

fn page() -> String {
    let mut page = format!("{INTRODUCTION}{OF_VMS}");
    let mut properties = Property::ALL.to_vec();
    properties.sort_by_key(|property| property.name());
    for property in properties {
        let row = property.row();
        let default = match &row.source {
            Source::Computed(_) | Source::Identity(_) => "",
            Source::Stored(_) if row.default.is_empty() => "none",
            Source::Stored(_) => row.default,
        };
        let clone = match (&row.source, row.clone) {
            (Source::Stored(_), CloneRule::Copied) => "yes",
            (_, CloneRule::Copied | CloneRule::Own) => "no",
        };
        page.push_str(&format!(
            "| `{}` | {} | {} | {} | {} | {clone} | {} |\n",
            row.name,
            row.kind.as_str(),
            classes(property),
            markdown(default),
            row.takes_effect.as_str(),
            markdown(row.help),
        ));
    }
    page.push_str(OF_THE_SYSTEM);
    for global in Global::ALL {
        let row = global.row();
        let default = match &row.source {
            GlobalSource::Computed(_) => "computed",
            GlobalSource::Stored(_) if row.default.is_empty() => "none",
            GlobalSource::Stored(_) => row.default,
        };
        page.push_str(&format!(
            "| `{}` | {} | {} | {} |\n",
            row.name,
            row.kind.wire().as_str(),
            markdown(default),
            markdown(row.help),
        ));
    }
    page
}

#[test]
fn the_page_of_properties_is_what_the_tables_say() {
    let page = page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(PAGE, &page).unwrap();
    }
    let written = std::fs::read_to_string(PAGE).unwrap_or_default();
    assert!(
        written == page,
        "docs/properties.md is stale: UPDATE_DOCS=1 cargo test -p mgmt-tests --test properties_page"
    );
}
