//! `mgmt`: the management API on the command line.
//!
//! Exit codes: 0 done, also where nobody reads the output any more; 1 the daemon answered with an exception, or refused
//! without a word; 2 usage, or something on this side: the payload cannot be read, the output cannot be written; 3 the
//! daemon could not be reached, or the connection failed on the way.
#![forbid(unsafe_code)]

mod call;
mod completions;
mod device;
mod events;
mod feature;
mod firewall;
mod info;
mod label;
mod notes;
mod output;
mod pool;
mod property;
mod tag;
mod vm;
mod volume;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use mgmt_rpc::client::Client;
use mgmt_rpc::config::client_socket;

use self::output::{Exit, Format, Shell};

/// Manages the VMs of a Qubes-style system.
#[derive(Parser)]
#[command(name = "mgmt", version, subcommand_required = true)]
struct Arguments {
    /// The daemon's socket; else MGMT_SOCKET of the environment, else /run/mgmtd/mgmtd.sock
    #[arg(long, value_name = "PATH", global = true)]
    socket: Option<PathBuf>,
    /// The VM to call as
    #[arg(long, value_name = "VM", global = true, default_value = "dom0")]
    source: String,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    noun: Noun,
}

#[derive(Subcommand)]
enum Noun {
    /// Make any call; the payload is read from standard input, the answer's content goes to standard output
    Call(call::Arguments),
    /// VMs and their lives
    #[command(subcommand)]
    Vm(vm::Verb),
    /// Properties of the system; those of VMs: vm property
    #[command(subcommand)]
    Property(property::SystemVerb),
    /// Features of VMs
    #[command(subcommand)]
    Feature(feature::Verb),
    /// Tags of VMs
    #[command(subcommand)]
    Tag(tag::Verb),
    /// Labels
    #[command(subcommand)]
    Label(label::Verb),
    /// Block devices of VMs
    #[command(subcommand)]
    Device(device::Verb),
    /// Volumes of VMs
    #[command(subcommand)]
    Volume(volume::Verb),
    /// Storage pools
    #[command(subcommand)]
    Pool(pool::Verb),
    /// Print events as they happen
    Events(events::Arguments),
    /// What the daemon is and what it runs on
    Info,
    /// Print a script that completes command lines in a shell
    Completions(completions::Arguments),
}

fn main() {
    let arguments = Arguments::parse();
    let shell = Shell {
        client: Client::new(arguments.socket.unwrap_or_else(client_socket)).with_source(arguments.source),
        format: if arguments.json { Format::Json } else { Format::Text },
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let exit = match runtime {
        Ok(runtime) => runtime.block_on(async {
            match run(&shell, arguments.noun).await {
                // Silence is a refusal only of a daemon that lives.
                Err(Exit::Silence) if !shell.client.reaches().await => {
                    Err(Exit::Failed("the daemon ended before it answered".to_owned()))
                }
                exit => exit,
            }
        }),
        Err(error) => Err(Exit::Local(error.to_string())),
    };
    let code = match exit {
        Ok(()) => 0,
        Err(exit) => exit.report(),
    };
    // Not by returning: a read of standard input that nobody waits for any more would be waited for.
    std::process::exit(code);
}

async fn run(shell: &Shell, noun: Noun) -> Result<(), Exit> {
    match noun {
        Noun::Call(arguments) => call::run(shell, &arguments).await,
        Noun::Vm(verb) => vm::run(shell, verb).await,
        Noun::Property(verb) => property::of_the_system(shell, verb).await,
        Noun::Feature(verb) => feature::run(shell, verb).await,
        Noun::Tag(verb) => tag::run(shell, verb).await,
        Noun::Label(verb) => label::run(shell, verb).await,
        Noun::Device(verb) => device::run(shell, verb).await,
        Noun::Volume(verb) => volume::run(shell, verb).await,
        Noun::Pool(verb) => pool::run(shell, verb).await,
        Noun::Events(arguments) => events::run(shell, &arguments).await,
        Noun::Info => info::run(shell).await,
        Noun::Completions(arguments) => completions::run::<Arguments>(&arguments),
    }
}
