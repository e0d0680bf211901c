//! The configuration file: which commands go around which driver.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Map, Value};

use super::hook::{Command, Hook};
use crate::error::{At, Error, Kind, Op, Result};
use crate::storage::DriverKind;

/// Options that every pool has: what the driver in the middle may be given beside its own.
const BASE: [&str; 2] = ["revisions_to_keep", "ephemeral_volatile"];

/// What the file says under one name.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) conf_id: String,
    /// The driver in the middle, and its options.
    pub(super) bdriver: DriverKind,
    pub(super) arguments: BTreeMap<String, String>,
    /// All of it as it is told to the generic command.
    pub(super) json: String,
    pub(super) signal_back: bool,
    own: BTreeMap<&'static str, Option<Command>>,
    generic: Option<Command>,
}

/// The command of a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Configured<'a> {
    /// Its own: it is given no arguments.
    Own(&'a Command),
    /// The one for all hooks: it is told which hook it is, and of what.
    Generic(&'a Command),
}

impl Config {
    pub(super) fn read(file: &Path, conf_id: &str) -> Result<Self> {
        let refuse = |why: String| Error::new(Kind::Invalid, Op::SetupPool, "callback").because(why);
        let mut opened = File::open(file).at(Op::SetupPool, file.display())?;
        let mode = opened.metadata().at(Op::SetupPool, file.display())?.permissions().mode();
        if mode & 0o002 != 0 {
            return Err(refuse(format!(
                "everybody may write to {}, and its commands are executed",
                file.display()
            )));
        }
        let mut text = String::new();
        opened.read_to_string(&mut text).at(Op::SetupPool, file.display())?;
        let all: Value =
            serde_json::from_str(&text).map_err(|e| refuse(format!("{} is no JSON: {e}", file.display())))?;
        let Value::Object(all) = all else {
            return Err(refuse(format!("The file {} is supposed to define a dict.", file.display())));
        };
        let Some(given) = all.get(conf_id) else {
            let file = file.display();
            return Err(refuse(format!("The specified conf_id {conf_id} could not be found inside {file}.")));
        };
        Self::parse(given, conf_id, file).map_err(refuse)
    }

    fn parse(given: &Value, conf_id: &str, file: &Path) -> std::result::Result<Self, String> {
        let within = format!("for the conf_id {conf_id} inside {}", file.display());
        let Value::Object(fields) = given else {
            return Err(format!("What stands {within} is no dict."));
        };
        let bdriver = match fields.get("bdriver") {
            Some(Value::String(name)) => name,
            _ => return Err(format!("Missing bdriver {within}.")),
        };
        let bdriver =
            bdriver.parse().map_err(|_| format!("The driver {bdriver} was not found on your system."))?;
        if matches!(bdriver, DriverKind::Callback | DriverKind::LinuxKernel) {
            return Err(format!("The driver {bdriver} cannot have commands around it, {within}."));
        }
        let text = |key: &str| match fields.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
            Some(_) => Err(format!("{key} is no text, {within}.")),
        };
        let command = |text: &str, key: &str| match text {
            "-" => Ok(None),
            line => Command::parse(line).map(Some).map_err(|why| format!("{key} {why}, {within}.")),
        };
        let mut own = BTreeMap::new();
        for hook in Hook::ALL {
            if let Some(line) = text(hook.as_str())? {
                own.insert(hook.as_str(), command(line, hook.as_str())?);
            }
        }
        let generic = text("cmd")?.map_or(Ok(None), |line| command(line, "cmd"))?;
        Ok(Self {
            conf_id: conf_id.to_owned(),
            bdriver,
            arguments: arguments(fields, bdriver, &within)?,
            json: ascii(&serde_json::to_string_pretty(given).map_err(|e| e.to_string())?),
            // As deployed: nothing but `true` is true.
            signal_back: fields.get("signal_back") == Some(&Value::Bool(true)),
            own,
            generic,
        })
    }

    /// A hook's own command wins; `-` for one, or for all, is none.
    pub(super) fn command(&self, hook: Hook) -> Option<Configured<'_>> {
        match self.own.get(hook.as_str()) {
            Some(own) => own.as_ref().map(Configured::Own),
            None => self.generic.as_ref().map(Configured::Generic),
        }
    }
}

/// The options of the driver in the middle, as texts.
fn arguments(
    fields: &Map<String, Value>,
    bdriver: DriverKind,
    within: &str,
) -> std::result::Result<BTreeMap<String, String>, String> {
    let given = match fields.get("bdriver_args") {
        None => return Ok(BTreeMap::new()),
        Some(Value::Object(given)) => given,
        Some(_) => return Err(format!("bdriver_args is no dict, {within}.")),
    };
    let mut arguments = BTreeMap::new();
    for (key, value) in given {
        let is_known = bdriver.options().iter().any(|option| option.name == key);
        if !is_known && !BASE.contains(&key.as_str()) {
            return Err(format!("The driver {bdriver} has no option {key}, {within}."));
        }
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Bool(true) => "True".to_owned(),
            Value::Bool(false) => "False".to_owned(),
            Value::Null | Value::Array(_) | Value::Object(_) => {
                return Err(format!("{key} is no text, {within}."));
            }
        };
        if key == "dir_path" && !Path::new(&value).is_absolute() {
            return Err(format!("dir_path must be an absolute path, {within}."));
        }
        arguments.insert(key.clone(), value);
    }
    Ok(arguments)
}

/// JSON in ASCII, as the deployed driver writes it.
fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() && c != '\x7f' {
            text.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            text.push_str(&format!("\\u{unit:04x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, conf_id: &str) -> std::result::Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("conf.json");
        std::fs::write(&file, text).unwrap();
        let read = Config::read(&file, conf_id);
        read.map_err(|e| e.report().replace(&file.display().to_string(), "FILE"))
    }

    #[test]
    fn what_is_wrong_is_said_as_deployed() {
        let here = "for the conf_id x inside FILE.";
        for (text, reason) in [
            ("[]", "The file FILE is supposed to define a dict.".to_owned()),
            ("{}", "The specified conf_id x could not be found inside FILE.".to_owned()),
            (r#"{"x": {}}"#, format!("Missing bdriver {here}")),
            (r#"{"x": {"bdriver": 5}}"#, format!("Missing bdriver {here}")),
            (r#"{"x": {"bdriver": "nope"}}"#, "The driver nope was not found on your system.".to_owned()),
            (r#"{"x": []}"#, format!("What stands {here}").replace('.', " is no dict.")),
            (r#"{"x": {"bdriver": "callback"}}"#, "cannot have commands around it".to_owned()),
            (r#"{"x": {"bdriver": "linux-kernel"}}"#, "cannot have commands around it".to_owned()),
            (r#"{"x": {"bdriver": "file", "cmd": 5}}"#, "cmd is no text".to_owned()),
            (r#"{"x": {"bdriver": "file", "pre_setup": "a 'b"}}"#, "pre_setup has an open quote".to_owned()),
            (r#"{"x": {"bdriver": "file", "pre_setup": "a && b"}}"#, "needs a shell for '&'".to_owned()),
            (r#"{"x": {"bdriver": "file", "bdriver_args": 1}}"#, "bdriver_args is no dict".to_owned()),
            (
                r#"{"x": {"bdriver": "file", "bdriver_args": {"dir_path": "a"}}}"#,
                "dir_path must be an absolute path".to_owned(),
            ),
            (
                r#"{"x": {"bdriver": "file", "bdriver_args": {"conf_id": "a"}}}"#,
                "The driver file has no option conf_id".to_owned(),
            ),
            ("{", "FILE is no JSON".to_owned()),
        ] {
            let refused = read(text, "x").unwrap_err();
            assert!(refused.contains(&reason), "{text}: {refused}");
        }
    }

    #[test]
    fn a_file_that_everybody_may_write_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("conf.json");
        std::fs::write(&file, r#"{"x": {"bdriver": "file"}}"#).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(Config::read(&file, "x").unwrap_err().kind(), Kind::Invalid);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o664)).unwrap();
        Config::read(&file, "x").unwrap();
        assert_eq!(Config::read(&dir.path().join("none"), "x").unwrap_err().kind(), Kind::NotFound);
    }

    #[test]
    fn a_hooks_own_command_wins_and_a_dash_is_none() {
        let config = read(
            r#"{"x": {"bdriver": "file-reflink", "cmd": "all of", "pre_setup": "/bin/mine 'a b'", "post_destroy": "-",
                "pre_volume_start": "", "bdriver_args": {"dir_path": "/p", "revisions_to_keep": 2, "setup_check": false},
                "description": "unknown keys are ignored"}}"#,
            "x",
        )
        .unwrap();
        let own = Command::parse("/bin/mine 'a b'").unwrap();
        let generic = Command::parse("all of").unwrap();
        assert_eq!(config.command(Hook::PreSetup), Some(Configured::Own(&own)));
        assert_eq!(config.command(Hook::PostDestroy), None);
        assert_eq!(config.command(Hook::PreVolumeStart), Some(Configured::Generic(&generic)));
        let arguments: Vec<_> = config.arguments.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(arguments, ["dir_path=/p", "revisions_to_keep=2", "setup_check=False"]);
        assert!(!config.signal_back);
    }

    #[test]
    fn the_generic_command_is_told_the_configuration_as_python_writes_it() {
        let config = read(
            "{\"x\": {\"cmd\": \"-\", \"bdriver\": \"file\", \"b\": [1], \"a\": \"\u{e9}\u{1f600}\"}}",
            "x",
        )
        .unwrap();
        let expected = "{\n  \"a\": \"\\u00e9\\ud83d\\ude00\",\n  \"b\": [\n    1\n  ],\n  \"bdriver\": \"file\",\n  \"cmd\": \"-\"\n}";
        assert_eq!(config.json, expected);
        assert_eq!(config.command(Hook::PreSinit), None);
    }
}
