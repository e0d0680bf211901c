//! Names of VMs.

use super::{Refused, refused};

pub fn check(name: &str) -> Result<(), Refused> {
    let why = match name {
        name if name.len() > 31 => "VM name must be shorter than 32 characters",
        name if name.starts_with(|c: char| c.is_ascii_digit() || "_.-".contains(c)) => {
            "VM name cannot start with hyphen, underscore, dot or numbers"
        }
        name if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c)) => {
            "VM name contains illegal characters"
        }
        "Domain-0" => "VM name cannot be 'Domain-0'",
        "none" | "default" => "VM name cannot be 'none' nor 'default'",
        name if name.ends_with("-dm") => "VM name cannot end with -dm",
        _ => return Ok(()),
    };
    refused("QubesValueError", why)
}
