//! `mgmt call METHOD DEST [ARG] < payload`

use std::io::{self, IsTerminal, Write};

use clap::Args;
use mgmt_rpc::client::Call;
use mgmt_rpc::wire::{Answer, EVENT, Event, OK};
use serde_json::json;

use crate::events;
use crate::output::{Exit, Format, Shell, print};

#[derive(Args)]
pub(crate) struct Arguments {
    /// The method, such as mgmt.vm.List
    method: String,
    /// The VM that the call is about
    #[arg(value_name = "DEST")]
    destination: String,
    /// The argument
    #[arg(value_name = "ARG", default_value = "")]
    argument: String,
}

pub(crate) async fn run(shell: &Shell, arguments: &Arguments) -> Result<(), Exit> {
    let Arguments { method, destination, argument } = arguments;
    let call = Call { method, argument, destination };
    let mut printer = Printer { format: shell.format, begun: Vec::new(), kind: Kind::Unknown };
    let take = |part: &[u8]| printer.take(part);
    // A terminal is nobody's payload.
    if io::stdin().is_terminal() {
        shell.client.exchange(call, tokio::io::empty(), take).await?;
    } else {
        shell.client.exchange(call, tokio::io::stdin(), take).await?;
    }
    printer.finish()
}

/// Prints content and events as they come, and keeps what can only be told when it is whole.
struct Printer {
    format: Format,
    begun: Vec<u8>,
    kind: Kind,
}

/// What has begun to arrive.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unknown,
    Content,
    Events,
}

impl Printer {
    fn take(&mut self, part: &[u8]) -> io::Result<()> {
        if self.kind == Kind::Content {
            return io::stdout().write_all(part);
        }
        self.begun.extend_from_slice(part);
        match self.begun.as_slice() {
            [OK, 0, content @ ..] if self.format == Format::Text => {
                self.kind = Kind::Content;
                io::stdout().write_all(content)
            }
            [EVENT, ..] => {
                self.kind = Kind::Events;
                while let Some((event, length)) = Event::decode(&self.begun).map_err(io::Error::other)? {
                    self.begun.drain(..length);
                    writeln!(io::stdout(), "{}", events::line(&event, self.format))?;
                }
                io::stdout().flush()
            }
            _ => Ok(()),
        }
    }

    fn finish(self) -> Result<(), Exit> {
        match self.kind {
            Kind::Content => return io::stdout().flush().map_err(|error| Exit::output(&error)),
            Kind::Events if self.begun.is_empty() => return Ok(()),
            Kind::Events => {
                return Err(Exit::Failed("the stream ended in the middle of an event".to_owned()));
            }
            Kind::Unknown => {}
        }
        match Answer::decode(self.begun).map_err(|error| Exit::failed(&error))? {
            Answer::Ok(content) => {
                let content = String::from_utf8_lossy(&content);
                print(&format!("{}\n", json!({ "content": content })))
            }
            Answer::Exception(exception) => Err(Exit::Exception(exception)),
            Answer::Nothing => Err(Exit::Silence),
        }
    }
}
