//! `mgmt info`

use mgmt_rpc::client::Call;

use crate::output::{Exit, Shell};

pub(crate) async fn run(shell: &Shell) -> Result<(), Exit> {
    let content = shell.ask(Call::new("mgmt.Info", "dom0"), b"").await?;
    shell.pairs(&content)
}
