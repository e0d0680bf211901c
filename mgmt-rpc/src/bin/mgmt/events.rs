//! `mgmt events [VM]`

use clap::Args;
use mgmt_rpc::client::Call;
use mgmt_rpc::wire::Event;
use serde_json::{Map, Value, json};

use crate::output::{Exit, Format, Shell, print};

#[derive(Args)]
pub(crate) struct Arguments {
    /// The VM whose events are wanted; dom0 for all
    #[arg(value_name = "VM", default_value = "dom0")]
    vm: String,
}

pub(crate) async fn run(shell: &Shell, arguments: &Arguments) -> Result<(), Exit> {
    stream(shell, Call::new("mgmt.Events", &arguments.vm)).await
}

/// Prints what a call streams, as it comes.
pub(crate) async fn stream(shell: &Shell, call: Call<'_>) -> Result<(), Exit> {
    let mut events = shell.client.events(call).await?;
    let mut any = false;
    while let Some(event) = events.next().await? {
        any = true;
        print(&format!("{}\n", line(&event, shell.format)))?;
    }
    match any {
        true => Err(Exit::Failed("the daemon closed the stream of events".to_owned())),
        false => Err(Exit::Silence),
    }
}

/// One event in one line: subject (`-` for the system), name, `key=value`.
pub(crate) fn line(event: &Event, format: Format) -> String {
    match format {
        Format::Json => {
            let pairs = event.pairs().iter();
            let keys: Map<_, _> =
                pairs.map(|(key, value)| (key.clone(), Value::from(value.as_str()))).collect();
            json!({ "subject": event.subject(), "event": event.name(), "keys": keys }).to_string()
        }
        Format::Text => {
            let subject = if event.subject().is_empty() { "-" } else { event.subject() };
            let mut line = format!("{subject} {}", event.name());
            for (key, value) in event.pairs() {
                line.push_str(&format!(" {key}={}", value.escape_debug()));
            }
            line
        }
    }
}
