//! `mgmt property …`: properties of the system; `mgmt vm property …`: properties of a VM.

use std::ffi::OsStr;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, Args, Command, Subcommand};
use libvirt_qubes::qubes::global::Global;
use libvirt_qubes::qubes::property::Property;
use mgmt_rpc::client::Call;

use crate::output::{Exit, Shell, print};

/// Of the system.
#[derive(Subcommand)]
#[command(disable_help_subcommand = true)]
pub(crate) enum SystemVerb {
    /// List the properties of the system
    List,
    /// Print the value of a property
    Get(OfSystem),
    /// Print every property with its value
    GetAll,
    /// Print the value that a property has where none is set
    GetDefault(OfSystem),
    /// Set a property; an empty value is none
    Set {
        #[command(flatten)]
        of: OfSystem,
        /// The value
        #[arg(allow_hyphen_values = true)]
        value: String,
    },
    /// Go back to a property's default
    Reset(OfSystem),
    /// Print what a property means
    Help {
        #[command(flatten)]
        of: OfSystem,
        /// Print it as reStructuredText
        #[arg(long)]
        rst: bool,
    },
}

/// Of a VM.
#[derive(Subcommand)]
#[command(disable_help_subcommand = true)]
pub(crate) enum VmVerb {
    /// List the properties that a VM has
    List {
        /// The VM
        vm: String,
    },
    /// Print the value of a property
    Get(OfVm),
    /// Print every property of a VM with its value
    GetAll {
        /// The VM
        vm: String,
    },
    /// Print the value that a property has where none is set
    GetDefault(OfVm),
    /// Set a property; an empty value is none
    Set {
        #[command(flatten)]
        of: OfVm,
        /// The value
        #[arg(allow_hyphen_values = true)]
        value: String,
    },
    /// Go back to a property's default
    Reset(OfVm),
    /// Print what a property means
    Help {
        #[command(flatten)]
        of: OfVm,
        /// Print it as reStructuredText
        #[arg(long)]
        rst: bool,
    },
}

#[derive(Args)]
pub(crate) struct OfSystem {
    /// The property
    #[arg(value_parser = Names(of_system), hide_possible_values = true)]
    property: String,
}

#[derive(Args)]
pub(crate) struct OfVm {
    /// The VM
    vm: String,
    /// The property
    #[arg(value_parser = Names(of_vms), hide_possible_values = true)]
    property: String,
}

/// Names that a shell may complete. Any other is taken too: the daemon decides what there is.
#[derive(Clone)]
struct Names(fn() -> Vec<&'static str>);

fn of_system() -> Vec<&'static str> {
    Global::ALL.iter().map(|global| global.name()).collect()
}

fn of_vms() -> Vec<&'static str> {
    let mut names: Vec<_> = Property::ALL.iter().map(|property| property.name()).collect();
    names.sort_unstable();
    names
}

impl TypedValueParser for Names {
    type Value = String;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &OsStr,
    ) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new((self.0)().into_iter().map(PossibleValue::new)))
    }
}

/// What is asked of either, with names as given.
enum Verb {
    List,
    Get(String),
    GetAll,
    GetDefault(String),
    Set(String, String),
    Reset(String),
    Help { property: String, rst: bool },
}

pub(crate) async fn of_the_system(shell: &Shell, verb: SystemVerb) -> Result<(), Exit> {
    let verb = match verb {
        SystemVerb::List => Verb::List,
        SystemVerb::Get(of) => Verb::Get(of.property),
        SystemVerb::GetAll => Verb::GetAll,
        SystemVerb::GetDefault(of) => Verb::GetDefault(of.property),
        SystemVerb::Set { of, value } => Verb::Set(of.property, value),
        SystemVerb::Reset(of) => Verb::Reset(of.property),
        SystemVerb::Help { of, rst } => Verb::Help { property: of.property, rst },
    };
    verb.run(shell, "mgmt.property", "dom0").await
}

pub(crate) async fn of_a_vm(shell: &Shell, verb: VmVerb) -> Result<(), Exit> {
    let (vm, verb) = match verb {
        VmVerb::List { vm } => (vm, Verb::List),
        VmVerb::Get(of) => (of.vm, Verb::Get(of.property)),
        VmVerb::GetAll { vm } => (vm, Verb::GetAll),
        VmVerb::GetDefault(of) => (of.vm, Verb::GetDefault(of.property)),
        VmVerb::Set { of, value } => (of.vm, Verb::Set(of.property, value)),
        VmVerb::Reset(of) => (of.vm, Verb::Reset(of.property)),
        VmVerb::Help { of, rst } => (of.vm, Verb::Help { property: of.property, rst }),
    };
    verb.run(shell, "mgmt.vm.property", &vm).await
}

impl Verb {
    async fn run(self, shell: &Shell, family: &str, destination: &str) -> Result<(), Exit> {
        let ask = async |verb: &str, property: &str, value: &str| {
            let method = format!("{family}.{verb}");
            shell.ask(Call::new(&method, destination).with(property), value.as_bytes()).await
        };
        match self {
            Self::List => shell.lines(&ask("List", "", "").await?),
            Self::Get(property) => {
                let content = ask("Get", &property, "").await?;
                let (_default, rest) = content.split_once(' ').unwrap_or((&content, ""));
                // Of a VM's property the draft gives no type.
                let typed = rest.starts_with("type=") && family == "mgmt.property";
                let text = if typed { rest.split_once(' ').map_or("", |(_kind, text)| text) } else { rest };
                print(&format!("{text}\n"))
            }
            Self::GetAll => {
                let content = ask("GetAll", "", "").await?;
                shell.rows(
                    &["property", "origin", "type", "value"],
                    &content.lines().map(row).collect::<Vec<_>>(),
                )
            }
            Self::GetDefault(property) => {
                let content = ask("GetDefault", &property, "").await?;
                let text = content.split_once(' ').map_or("", |(_kind, text)| text);
                print(&format!("{text}\n"))
            }
            Self::Set(property, value) => ask("Set", &property, &value).await.map(drop),
            Self::Reset(property) => ask("Reset", &property, "").await.map(drop),
            Self::Help { property, rst } => {
                let verb = if rst { "HelpRst" } else { "Help" };
                print(&format!("{}\n", ask(verb, &property, "").await?))
            }
        }
    }
}

/// `default={True|False} type=T VALUE`, taken apart.
struct Value<'a> {
    origin: &'static str,
    kind: &'a str,
    text: &'a str,
}

impl<'a> Value<'a> {
    fn of(content: &'a str) -> Self {
        let (default, rest) = content.split_once(' ').unwrap_or((content, ""));
        let (kind, text) = rest.split_once(' ').unwrap_or((rest, ""));
        let origin = if default == "default=True" { "default" } else { "set" };
        Self { origin, kind: kind.strip_prefix("type=").unwrap_or(kind), text }
    }
}

/// A line of GetAll: the name, then as Get has it, with `\\` and newlines escaped.
fn row(line: &str) -> Vec<String> {
    let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
    let value = Value::of(rest);
    [name, value.origin, value.kind, &unescaped(value.text)].map(str::to_owned).to_vec()
}

fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' => match rest.next() {
                Some('n') => out.push('\n'),
                Some(escaped) => out.push(escaped),
                None => out.push('\\'),
            },
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_apart_and_its_escapes_are_undone() {
        for (line, expected) in [
            ("debug default=True type=bool False", ["debug", "default", "bool", "False"]),
            ("netvm default=True type=vm ", ["netvm", "default", "vm", ""]),
            (r"kernelopts default=False type=str a b\nc\\d", ["kernelopts", "set", "str", "a b\nc\\d"]),
        ] {
            assert_eq!(row(line), expected);
        }
    }
}
