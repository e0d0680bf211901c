//! What commands have in common: calls with their failures as exit codes, and how results are printed.

use std::error::Error;
use std::io::{self, IsTerminal, Write};
use std::path::Path;

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use mgmt_rpc::client::{Call, Client, ClientError};
use mgmt_rpc::failure::chain;
use mgmt_rpc::wire::{Answer, Exception};
use serde_json::{Map, Value};
use tokio::io::AsyncRead;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Tables on a terminal, fields separated by tabs elsewhere.
    Text,
    /// JSON.
    Json,
}

/// Why a command was not carried out.
#[derive(Debug)]
pub(crate) enum Exit {
    /// The daemon said no.
    Exception(Exception),
    /// The daemon said nothing.
    Silence,
    /// The command line cannot be meant.
    Usage(String),
    /// Something on this side failed: the payload cannot be read, the result cannot be written.
    Local(String),
    /// The daemon cannot be reached, or the connection to it failed.
    Failed(String),
    /// Nobody reads standard output any more.
    OutputClosed,
}

impl Exit {
    /// The connection failed.
    pub(crate) fn failed(error: &(dyn Error + 'static)) -> Self {
        Self::Failed(chain(error))
    }

    /// Standard output failed.
    pub(crate) fn output(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::OutputClosed;
        }
        Self::Local(format!("cannot write to standard output: {error}"))
    }

    /// Says why in one line on standard error, and gives the code to exit with.
    pub(crate) fn report(&self) -> i32 {
        let (line, code) = match self {
            Self::Exception(exception) => (exception.to_string(), 1),
            Self::Silence => ("the daemon refused without an answer".to_owned(), 1),
            Self::Usage(message) | Self::Local(message) => (message.clone(), 2),
            Self::Failed(message) => (message.clone(), 3),
            Self::OutputClosed => return 0,
        };
        let line = format!("mgmt: {}\n", line.replace(['\n', '\r'], " "));
        // Nobody hears it: the code tells.
        io::stderr().write_all(line.as_bytes()).ok();
        code
    }
}

impl From<ClientError> for Exit {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused(exception) => Self::Exception(exception),
            ClientError::Unsendable(_) => Self::Usage(error.to_string()),
            ClientError::Output(error) => Self::output(&error),
            ClientError::Payload(_) => Self::Local(chain(&error)),
            ClientError::Connect { .. }
            | ClientError::Connection(_)
            | ClientError::BadAnswer(_)
            | ClientError::BadEvent(_) => Self::failed(&error),
        }
    }
}

/// Where a command's calls go, and how its results look.
pub(crate) struct Shell {
    pub(crate) client: Client,
    pub(crate) format: Format,
}

impl Shell {
    /// The content that a call answers.
    pub(crate) async fn ask(&self, call: Call<'_>, payload: &[u8]) -> Result<String, Exit> {
        self.send(call, payload).await
    }

    /// The same for a payload that is read as it is sent.
    pub(crate) async fn send(&self, call: Call<'_>, payload: impl AsyncRead) -> Result<String, Exit> {
        match self.client.call_streaming(call, payload).await? {
            Answer::Ok(content) => Ok(String::from_utf8_lossy(&content).into_owned()),
            Answer::Exception(exception) => Err(Exit::Exception(exception)),
            Answer::Nothing => Err(Exit::Silence),
        }
    }

    /// The same for the content of a file, or standard input where none is given.
    pub(crate) async fn send_file(&self, call: Call<'_>, file: Option<&Path>) -> Result<String, Exit> {
        let Some(path) = file else { return self.send(call, tokio::io::stdin()).await };
        let file = tokio::fs::File::open(path).await;
        let file = file.map_err(|error| Exit::Usage(format!("{}: {error}", path.display())))?;
        self.send(call, file).await
    }

    /// Makes a call that answers nothing.
    pub(crate) async fn tell(&self, call: Call<'_>, payload: &[u8]) -> Result<(), Exit> {
        self.ask(call, payload).await.map(drop)
    }

    /// Prints rows of a table: each a JSON object, or a line.
    pub(crate) fn rows(&self, columns: &[&str], rows: &[Vec<String>]) -> Result<(), Exit> {
        let text = match self.format {
            Format::Json => {
                let object = |row: &Vec<String>| -> Value {
                    let pairs = columns.iter().zip(row);
                    pairs
                        .map(|(column, cell)| ((*column).to_owned(), Value::from(cell.as_str())))
                        .collect::<Map<_, _>>()
                        .into()
                };
                format!("{}\n", Value::Array(rows.iter().map(object).collect()))
            }
            Format::Text if io::stdout().is_terminal() => {
                let mut table = Table::new();
                table.load_style(NOTHING).set_header(columns.iter().map(|column| column.to_uppercase()));
                table.add_rows(rows);
                format!("{}\n", table.trim_fmt())
            }
            Format::Text => rows.iter().map(|row| row.join("\t") + "\n").collect(),
        };
        print(&text)
    }

    /// Prints `key=value` lines: a JSON object, or a table.
    pub(crate) fn pairs(&self, lines: &str) -> Result<(), Exit> {
        let pairs = lines.lines().filter_map(|line| line.split_once('='));
        match self.format {
            Format::Json => {
                let object: Map<_, _> =
                    pairs.map(|(key, value)| (key.to_owned(), Value::from(value))).collect();
                print(&format!("{}\n", Value::Object(object)))
            }
            Format::Text => {
                let rows: Vec<_> = pairs.map(|(key, value)| vec![key.to_owned(), value.to_owned()]).collect();
                self.rows(&["key", "value"], &rows)
            }
        }
    }

    /// Prints lines: a JSON array, or the lines.
    pub(crate) fn lines(&self, lines: &str) -> Result<(), Exit> {
        match self.format {
            Format::Json => print(&format!("{}\n", Value::Array(lines.lines().map(Value::from).collect()))),
            Format::Text => print(lines),
        }
    }
}

/// Writes to standard output at once.
pub(crate) fn print(text: &str) -> Result<(), Exit> {
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes()).and_then(|()| output.flush()).map_err(|error| Exit::output(&error))
}
