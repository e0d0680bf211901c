//! The subcommands: what is done to a state while no daemon uses it.
//!
//! Exit code 0: done, with notes maybe; for `doctor`, all is in order. 1: not done, or something that was said is a
//! problem; for `doctor`, there are findings. 2: `doctor` could not look.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use libvirt_qubes::qubes::offline::{self, Bad, Examined, ImportError, ImportRequest, Mend};
use libvirt_qubes::qubes::qubes_xml::finding::{Finding, Weight};
use mgmt_rpc::config::{Config, Offline};
use serde_json::json;

/// In which form to report.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Json,
}

pub(crate) fn run(what: &Offline, config: &Config) -> anyhow::Result<ExitCode> {
    let form = |json: bool| if json { Form::Json } else { Form::Text };
    match what {
        Offline::Import { file, vm_dirs, set_aside, json } => {
            let request = ImportRequest {
                state: crate::absolute(config.state.clone()),
                storage_dir: crate::absolute(config.storage_dir()),
                file: file.clone(),
                vm_dirs: vm_dirs.clone(),
                bad: if *set_aside { Bad::SetAside } else { Bad::Refused },
            };
            told(form(*json), import(&request, form(*json)))
        }
        Offline::Doctor { repair, json } => {
            let mend = if *repair { Mend::Yes } else { Mend::No };
            doctor(config, mend, form(*json))
        }
        Offline::Export { dir, json } => {
            let exported = export(&crate::absolute(config.state.clone()), dir, form(*json));
            told(form(*json), exported)
        }
    }
}

/// As JSON, a failure too is one object on standard output.
fn told(form: Form, done: anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
    match (form, done) {
        (Form::Json, Err(error)) => {
            report(form, "failed", &format!("{error:#}"), &[])?;
            Ok(ExitCode::FAILURE)
        }
        (Form::Text | Form::Json, done) => done,
    }
}

fn import(request: &ImportRequest, form: Form) -> anyhow::Result<ExitCode> {
    let state = request.state.display();
    match offline::import(request) {
        Ok(imported) => {
            let summary = match imported.set_aside {
                0 => format!("{} VMs taken into {state}", imported.vms),
                bad => format!("{} VMs taken into {state}, {bad} rows set aside", imported.vms),
            };
            report(form, "imported", &summary, &imported.findings)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(ImportError::Problems(findings)) => {
            let file = request.file.display();
            let summary =
                format!("nothing was taken in: {file} has problems (--set-aside takes in the rest)");
            report(form, "refused", &summary, &findings)?;
            Ok(ExitCode::FAILURE)
        }
        Err(error @ (ImportError::NotEmpty(_) | ImportError::Failed(_))) => {
            Err(error).with_context(|| format!("importing into {state}"))
        }
        Err(error @ ImportError::NotXml(_)) => Err(error).with_context(|| request.file.display().to_string()),
    }
}

fn export(state: &Path, dir: &Path, form: Form) -> anyhow::Result<ExitCode> {
    let exported = offline::export(state, dir)
        .map_err(|error| anyhow::anyhow!("exporting {}: {}", state.display(), error.report()))?;
    let summary = format!("{} VMs written to {}", exported.vms, dir.display());
    report(form, "exported", &summary, &exported.findings)?;
    let whole = exported.findings.iter().all(|finding| finding.weight == Weight::Note);
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn doctor(config: &Config, mend: Mend, form: Form) -> anyhow::Result<ExitCode> {
    let state = &crate::absolute(config.state.clone());
    let examined = match offline::doctor(state, mend, &crate::tuning(config)) {
        Ok(examined) => examined,
        Err(error) => {
            let why = format!("examining {}: {}", state.display(), error.report());
            match form {
                Form::Json => report(form, "failed", &why, &[])?,
                Form::Text => eprintln!("mgmtd: {why}"),
            }
            return Ok(ExitCode::from(2));
        }
    };
    match form {
        Form::Json => match serde_json::to_string_pretty(&examined) {
            Ok(text) => println!("{text}"),
            Err(error) => {
                eprintln!("mgmtd: {error}");
                return Ok(ExitCode::from(2));
            }
        },
        Form::Text => tell(state, mend, &examined),
    }
    let undone = mend == Mend::No && !examined.repairs.is_empty();
    Ok(if examined.findings.is_empty() && !undone { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn tell(state: &Path, mend: Mend, examined: &Examined) {
    for finding in &examined.findings {
        println!("{}: {}: {}", finding.kind.as_str(), finding.about, finding.text);
    }
    if let Some(copy) = &examined.copy {
        println!("the database as it was: {}", copy.display());
    }
    for repair in &examined.repairs {
        match mend {
            Mend::Yes => println!("repaired: {repair}"),
            Mend::No => println!("--repair would do: {repair}"),
        }
    }
    let Examined { schema, known_schema, vms, findings, .. } = examined;
    println!(
        "{}: {vms} VMs, schema {schema} of {known_schema}, {} findings",
        state.display(),
        findings.len()
    );
}

/// Findings go to standard error, the summary to standard output; as JSON, all of it there.
fn report(form: Form, outcome: &str, summary: &str, findings: &[Finding]) -> anyhow::Result<()> {
    match form {
        Form::Json => {
            let report = json!({ "outcome": outcome, "summary": summary, "findings": findings });
            println!("{}", serde_json::to_string_pretty(&report)?);
        }
        Form::Text => {
            for finding in findings {
                let weight = match finding.weight {
                    Weight::Note => "note",
                    Weight::Problem => "problem",
                };
                eprintln!("{weight}: {finding}");
            }
            println!("{summary}");
        }
    }
    Ok(())
}
