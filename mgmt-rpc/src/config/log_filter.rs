//! What is logged.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// A filter of `tracing`: levels, or `TARGET=LEVEL`, separated by commas.
///
/// `tracing` itself takes a word that is no level for a target of which everything is logged; here it is a mistake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LogFilter(String);

/// A text that is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadLogFilter {
    /// A part of it is neither a level nor says which level a target has.
    #[error(
        "log filter {filter:?}: {part:?} is neither a level (off, error, warn, info, debug, trace) nor TARGET=LEVEL"
    )]
    NoLevel {
        /// All of it.
        filter: String,
        /// That part.
        part: String,
    },
    /// `tracing` does not understand it.
    #[error("log filter {filter:?}: {why}")]
    NotUnderstood {
        /// All of it.
        filter: String,
        /// Why.
        why: String,
    },
}

impl LogFilter {
    /// The filter for `tracing`.
    ///
    /// # Errors
    /// `tracing` does not understand it.
    pub fn filter(&self) -> Result<EnvFilter, BadLogFilter> {
        EnvFilter::try_new(&self.0)
            .map_err(|error| BadLogFilter::NotUnderstood { filter: self.0.clone(), why: error.to_string() })
    }

    /// As it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for LogFilter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl FromStr for LogFilter {
    type Err = BadLogFilter;

    fn from_str(text: &str) -> Result<Self, BadLogFilter> {
        let names_a_level = |part: &&str| part.contains('=') || part.parse::<LevelFilter>().is_ok();
        if let Some(part) = text.split(',').map(str::trim).find(|part| !names_a_level(part)) {
            return Err(BadLogFilter::NoLevel { filter: text.to_owned(), part: part.to_owned() });
        }
        let filter = Self(text.to_owned());
        filter.filter()?;
        Ok(filter)
    }
}

impl TryFrom<String> for LogFilter {
    type Error = BadLogFilter;

    fn try_from(text: String) -> Result<Self, BadLogFilter> {
        text.parse()
    }
}

impl From<LogFilter> for String {
    fn from(filter: LogFilter) -> Self {
        filter.0
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_names_levels() {
        for good in
            ["info", "off", "mgmt_rpc=debug,info", "libxl=trace, warn", "WARN", "a[span{field=1}]=debug"]
        {
            let filter: LogFilter = good.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(filter.as_str(), good);
        }
        for (bad, named) in [("nope", "\"nope\""), ("info,nope", "\"nope\""), ("libxl=loud", "libxl=loud")] {
            let error = bad.parse::<LogFilter>().unwrap_err().to_string();
            assert!(error.starts_with("log filter ") && error.contains(named), "{error}");
        }
    }
}
