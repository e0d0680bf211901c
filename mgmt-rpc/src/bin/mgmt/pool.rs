//! `mgmt pool …`

use clap::{Subcommand, ValueEnum};
use mgmt_rpc::client::Call;

use crate::output::{Exit, Shell};

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// List the pools
    List,
    /// List the drivers, with the options that a pool of each may have
    Drivers,
    /// Configuration and figures of a pool
    Info {
        /// The pool
        pool: String,
    },
    /// Space of a pool in bytes, metadata apart where they are
    Usage {
        /// The pool
        pool: String,
    },
    /// Add a pool
    Add {
        /// The new pool's name
        pool: String,
        /// Its driver
        driver: String,
        /// Its options (see `drivers`)
        #[arg(value_name = "OPTION=VALUE")]
        options: Vec<String>,
    },
    /// Remove a pool that nothing uses; its data stays
    Remove {
        /// The pool
        pool: String,
    },
    /// Change an option of a pool
    Set {
        /// The pool
        pool: String,
        /// The option
        option: Setting,
        /// Its new value
        #[arg(allow_hyphen_values = true)]
        value: String,
    },
}

/// What can be changed of a pool.
#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Setting {
    /// Revisions that are kept of volumes which have no number of their own; -1: none can be made
    RevisionsToKeep,
    /// Whether volatile volumes are encrypted with a key that nobody keeps
    EphemeralVolatile,
}

pub(crate) async fn run(shell: &Shell, verb: Verb) -> Result<(), Exit> {
    match verb {
        Verb::List => shell.lines(&shell.ask(Call::new("mgmt.pool.List", "dom0"), b"").await?),
        Verb::Drivers => {
            let drivers = shell.ask(Call::new("mgmt.pool.ListDrivers", "dom0"), b"").await?;
            let row = |line: &str| {
                let (driver, options) = line.split_once(' ').unwrap_or((line, ""));
                vec![driver.to_owned(), options.to_owned()]
            };
            shell.rows(&["driver", "options"], &drivers.lines().map(row).collect::<Vec<_>>())
        }
        Verb::Info { pool } => {
            shell.pairs(&shell.ask(Call::new("mgmt.pool.Info", "dom0").with(&pool), b"").await?)
        }
        Verb::Usage { pool } => {
            shell.pairs(&shell.ask(Call::new("mgmt.pool.UsageDetails", "dom0").with(&pool), b"").await?)
        }
        Verb::Add { pool, driver, options } => {
            let lines: String = options.iter().map(|option| format!("{option}\n")).collect();
            let payload = format!("name={pool}\n{lines}");
            shell.tell(Call::new("mgmt.pool.Add", "dom0").with(&driver), payload.as_bytes()).await
        }
        Verb::Remove { pool } => shell.tell(Call::new("mgmt.pool.Remove", "dom0").with(&pool), b"").await,
        Verb::Set { pool, option, value } => {
            let method = match option {
                Setting::RevisionsToKeep => "mgmt.pool.Set.revisions_to_keep",
                Setting::EphemeralVolatile => "mgmt.pool.Set.ephemeral_volatile",
            };
            shell.tell(Call::new(method, "dom0").with(&pool), value.as_bytes()).await
        }
    }
}
