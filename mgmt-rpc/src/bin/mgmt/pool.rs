//! `mgmt pool …`

use clap::Subcommand;
use mgmt_rpc::client::Call;

use crate::output::{Exit, Shell};

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// List the pools
    List,
    /// Configuration and figures of a pool
    Info {
        /// The pool
        pool: String,
    },
}

pub(crate) async fn run(shell: &Shell, verb: Verb) -> Result<(), Exit> {
    match verb {
        Verb::List => shell.lines(&shell.ask(Call::new("mgmt.pool.List", "dom0"), b"").await?),
        Verb::Info { pool } => {
            shell.pairs(&shell.ask(Call::new("mgmt.pool.Info", "dom0").with(&pool), b"").await?)
        }
    }
}
