//! What is fed with bytes of unknown origin: one entry for each grammar, and one for the whole way of a call.
//!
//! An entry panics where a rule is broken: nothing else may make it panic. `cargo xtask fuzz` runs them under
//! libFuzzer, from `tests/fuzz`; `tests/fuzz_entries.rs` runs the same with proptest. What every grammar promises is
//! that what it accepted prints as something that it accepts as the same value.

mod dispatch;

use std::fmt::{Debug, Display};
use std::path::PathBuf;
use std::str::FromStr;

use libvirt_qubes::ids::{KernelVersion, PoolName, Vdev, VmName, VolumeName};
use libvirt_qubes::qubes::firewall::{Rule, xml};
use libvirt_qubes::qubes::ids::{Colour, FeatureName, FeatureValue, LabelName, Tag};
use libvirt_qubes::qubes::notes::NotesText;
use libvirt_qubes::qubes::qubes_xml::{Document, print, read};
use mgmt_rpc::args::{
    Create, CreateInPool, Device, DisposableAnswer, Flag, NewClone, NewVm, PoolOptions, PoolRevisions,
    Preload, PropertyText, RuleLine, RuleLines, ShutdownOptions,
};
use mgmt_rpc::untrusted::{Parse, Text};
use mgmt_rpc::wire::{Answer, Event, Exception, Header, VmRef};

/// One entry.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Its name, and that of its fuzz target.
    pub name: &'static str,
    /// Takes any bytes.
    pub run: fn(&[u8]),
    /// Inputs to begin with: good ones, which are then changed.
    pub seeds: &'static [&'static str],
}

impl Entry {
    /// Puts the seeds into the folder that libFuzzer was told to begin with: the first that its arguments name.
    pub fn plant(&self) {
        let Some(folder) = std::env::args_os().skip(1).map(PathBuf::from).find(|path| path.is_dir()) else {
            return;
        };
        for (number, seed) in self.seeds.iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number}")), seed).unwrap();
        }
    }
}

macro_rules! entries {
    ($($name:ident: $run:expr, [$($seed:expr),+ $(,)?];)+) => {
        /// All entries.
        pub const ENTRIES: &[Entry] = &[$(Entry {
            name: stringify!($name),
            run: $run,
            seeds: &[$($seed),+],
        }),+];
    };
}

entries! {
    header: header, ["mgmt.vm.List+ dom0 name dom0", "admin.vm.property.Set+a+b work keyword adminvm",
        "x dom0 name uuid:00000000-0000-0000-0000-000000000000"];
    event: event, ["1\0\0connection-established\0\0", "1\0work\0property-set:netvm\0name\0netvm\0newvalue\0\0\0"];
    answer: answer, ["0\0content", "2\0QubesException\0\0%s %% %d\0a\x001\0", ""];
    vm_name: printed::<VmName>, ["work", "a-dm", "Domain-0", "none", "sys.net_2-x"];
    vm_ref: printed::<VmRef>, ["work", "uuid:00000000-0000-0000-0000-000000000000"];
    label_name: printed::<LabelName>, ["red", "0x", "12", "a.b_c-d"];
    label_colour: printed::<Colour>, ["0xcc0000", "0XCC0000", "0xFFc0cb"];
    tag: printed::<Tag>, ["created-by-dom0", "a.b", "guivm-sys"];
    feature_name: printed::<FeatureName>, ["service.cups", "a b", "vm-config.x"];
    feature_value: printed::<FeatureValue>, ["", "1", "a b~", "\u{1}"];
    volume_name: printed::<VolumeName>, ["root", "private", "../x"];
    pool_name: printed::<PoolName>, ["varlibqubes", "a/b"];
    pool_options: pool_options, ["name=fast\ndir_path=/srv/fast\n", "name=a\nrevisions_to_keep=-1", "name=\nname=b\n"];
    pool_setting: pool_setting, ["-1", "007", "4294967296", "True"];
    kernel_version: printed::<KernelVersion>, ["6.1.62-1.fc37", "..", "a/b"];
    virtual_disk: printed::<Vdev>, ["xvda", "xvdzz", "sda1", "d16"];
    property_text: property_text, ["500", "a\nb", "\u{f6}"];
    creation: creation, ["name=work label=red", "name=w label=red pool=p", "name=w label=red pool:root=p pool:private=q"];
    clone: clone, ["name=copy", "name=1x", "name=a name=b"];
    disposable: disposable, ["", "preload", "uuid"];
    firewall_rule: printed::<Rule>, ["action=accept dst4=1.2.3.0/24 proto=tcp dstports=443-443 comment=web only",
        "action=drop expire=4102444800 dst6=2001:db8::/32", "action=accept dsthost=a.b proto=icmp icmptype=8",
        "action=accept specialtarget=dns"];
    firewall_rules: firewall_rules, ["action=accept\naction=drop\n", "action=accept proto=udp dstports=1-2\n", ""];
    firewall_xml: firewall_xml, [
        "<firewall version=\"2\"><rules><rule><properties><property name=\"action\">accept</property></properties></rule></rules></firewall>",
        "<QubesFirewallRules policy=\"deny\" dns=\"allow\" icmp=\"allow\"><rule address=\"1.2.3.4\" netmask=\"24\" proto=\"tcp\" port=\"443\"/></QubesFirewallRules>"];
    notes: notes, ["a note\n", "\u{202e}\u{7}x", ""];
    qubes_xml: qubes_xml, ["<?xml version=\"1.0\" encoding=\"utf-8\"?><qubes><labels><label id=\"label-1\" color=\"0xcc0000\">red</label></labels>\
        <properties><property name=\"default_netvm\" ref=\"x\"/></properties><domains><domain id=\"domain-1\" class=\"AppVM\"><properties>\
        <property name=\"name\">a &amp; b</property></properties><features><feature name=\"gui\"/></features><tags><tag name=\"t\"/></tags>\
        <devices class=\"pci\"><device backend-domain=\"dom0\" id=\"00_14.0\"><option name=\"o\">v</option></device></devices>\
        <volume-config><volume name=\"root\" pool=\"p\" rw=\"True\"/></volume-config></domain></domains></qubes>"];
    shutdown: shutdown, ["force", "force+wait", "wait+wait"];
    device: device, ["dom0+/var/tmp/x%20y", "sys-usb+2-1", "dom0+/a/../b"];
    call: dispatch::call, ["mgmt.vm.List+ dom0 name dom0\0", "admin.vm.property.Set+memory dom0 name work\x00500",
        "mgmt.vm.Create.RemoteVM+ dom0 name dom0\0name=far label=red", "admin.label.Get+red dom0 keyword adminvm\0",
        "admin.vm.property.Get+label work name dom0\0", "mgmt.vm.Remove+ dom0 name far\0",
        "mgmt.pool.volume.Revert+varlibqubes dom0 name dom0\0appvms/work/private s1",
        "mgmt.vm.volume.Set.revisions_to_keep+private dom0 name work\0-1"];
}

/// The entry of that name.
pub fn entry(name: &str) -> &'static Entry {
    ENTRIES.iter().find(|entry| entry.name == name).unwrap_or_else(|| panic!("no entry {name}"))
}

/// Gives up what entries keep from one input to the next.
pub fn end() {
    dispatch::end();
}

/// A text that is accepted prints as a text that is accepted, as the same value.
fn printed<T>(bytes: &[u8])
where
    T: FromStr<Err: Display> + Display + PartialEq + Debug,
{
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match text.parse::<T>() {
        Ok(value) => match value.to_string().parse::<T>() {
            Ok(again) => assert_eq!(again, value),
            Err(error) => panic!("{value:?} prints as what is refused: {error}"),
        },
        // A refusal has words.
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn header(bytes: &[u8]) {
    match Header::decode(bytes) {
        Ok(header) => {
            let encoded = header.encode();
            let (end, before) = encoded.split_last().unwrap();
            assert_eq!(*end, 0);
            assert_eq!(Header::decode(before), Ok(header));
        }
        Err(bad) => refusal(&bad.exception()),
    }
}

fn event(bytes: &[u8]) {
    if let Ok(Some((event, length))) = Event::decode(bytes) {
        assert_eq!(event.encode(), &bytes[..length]);
        for cut in 0..length {
            assert_eq!(Event::decode(&bytes[..cut]), Ok(None), "a part of an event is no event");
        }
    }
}

fn answer(bytes: &[u8]) {
    if let Ok(Answer::Exception(exception)) = Answer::decode(bytes.to_vec()) {
        assert_eq!(exception.encode(), bytes);
        // Whatever the format, there is a text.
        let _text = exception.message();
    }
}

/// What a client is told can be read by it.
fn refusal(exception: &Exception) {
    assert_eq!(Answer::decode(exception.encode()), Ok(Answer::Exception(exception.clone())));
}

fn parsed<T: Parse>(bytes: &[u8]) -> Option<T> {
    match T::parse(bytes) {
        Ok(value) => Some(value),
        Err(exception) => {
            refusal(&exception);
            None
        }
    }
}

fn property_text(bytes: &[u8]) {
    if let Some(PropertyText(text)) = parsed(bytes) {
        assert!(text.is_ascii() && text.as_bytes() == bytes);
    }
    if let Some(Text(text)) = parsed(bytes) {
        assert!(text.is_ascii() && text.as_bytes() == bytes);
    }
}

fn creation(bytes: &[u8]) {
    let (plain, in_pool) = (parsed::<Create>(bytes), parsed::<CreateInPool>(bytes));
    let names = |NewVm { name, label, .. }: &NewVm| (name.to_string(), label.clone());
    if let Some(Create(new)) = &plain {
        let CreateInPool(same) = in_pool.as_ref().expect("what Create takes CreateInPool takes too");
        assert_eq!(names(new), names(same));
    }
    if let Some(CreateInPool(new)) = in_pool {
        let (name, label) = names(&new);
        let text = std::str::from_utf8(bytes).unwrap();
        assert!(text.split(' ').any(|word| word == format!("name={name}")));
        assert!(text.split(' ').any(|word| word == format!("label={label}")));
        assert_eq!(name.parse::<VmName>().as_ref(), Ok(&new.name));
    }
}

fn pool_options(bytes: &[u8]) {
    if let Some(PoolOptions { name, options }) = parsed(bytes) {
        let lines: String = options.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
        let again = PoolOptions::parse(format!("{lines}name={name}\n").as_bytes());
        assert_eq!(again, Ok(PoolOptions { name, options }));
    }
}

fn pool_setting(bytes: &[u8]) {
    if let Some(PoolRevisions(keep)) = parsed(bytes) {
        assert_eq!(PoolRevisions::parse(keep.to_string().as_bytes()), Ok(PoolRevisions(keep)));
    }
    if let Some(Flag(flag)) = parsed(bytes) {
        assert_eq!(Flag::parse(flag.to_string().as_bytes()), Ok(Flag(flag)));
    }
}

fn clone(bytes: &[u8]) {
    if let Some(NewClone { name, .. }) = parsed(bytes) {
        assert_eq!(format!("name={name}").as_bytes(), bytes);
    }
}

fn disposable(bytes: &[u8]) {
    if parsed::<Preload>(bytes).is_some() {
        assert!([&b""[..], b"preload"].contains(&bytes));
    }
    if parsed::<DisposableAnswer>(bytes).is_some() {
        assert!([&b""[..], b"uuid"].contains(&bytes));
    }
}

fn firewall_rules(bytes: &[u8]) {
    if let Some(RuleLine(rule)) = parsed(bytes) {
        let RuleLines(rules) = parsed(bytes).expect("one rule is a list");
        assert_eq!(rules, [rule]);
    }
    if let Some(RuleLines(rules)) = parsed::<RuleLines>(bytes) {
        let printed: String = rules.iter().map(|rule| format!("{rule}\n")).collect();
        let RuleLines(again) = parsed(printed.as_bytes()).expect("what is printed is accepted");
        assert_eq!(again, rules);
    }
}

fn firewall_xml(bytes: &[u8]) {
    if let Ok(rules) = xml::read(bytes) {
        assert_eq!(xml::read(xml::write(&rules).as_bytes()).expect("what is written is read"), rules);
    }
}

fn qubes_xml(bytes: &[u8]) {
    let printed = |document: &Document| {
        let mut text = Vec::new();
        print::print(document, &mut text).expect("memory takes it");
        text
    };
    if let Ok((document, _)) = read::read(bytes) {
        let text = printed(&document);
        let (again, _) = read::read(&text).expect("what is printed is read");
        // Lines are others; everything else is the same.
        assert_eq!(printed(&again), text);
    }
}

fn notes(bytes: &[u8]) {
    if let Ok(notes) = NotesText::sanitised(bytes) {
        assert_eq!(NotesText::sanitised(notes.as_str().as_bytes()), Ok(notes));
    }
}

fn shutdown(bytes: &[u8]) {
    if let Some(ShutdownOptions { force, wait }) = parsed(bytes) {
        let words = bytes.split(|byte| *byte == b'+').filter(|word| !word.is_empty()).count();
        assert_eq!(words, usize::from(force) + usize::from(wait));
    }
}

fn device(bytes: &[u8]) {
    if let Some(device) = parsed::<Device>(bytes) {
        assert_eq!(Device::parse(device.to_string().as_bytes()), Ok(device));
    }
}
