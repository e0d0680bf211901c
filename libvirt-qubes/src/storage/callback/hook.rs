//! The commands: when each is run, and what it is.

use std::fmt;
use std::os::unix::process::CommandExt;
use std::process;

/// A moment at which a command is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    PreSinit,
    PreSetup,
    PostDestroy,
    PreVolumeCreate,
    PostVolumeCreate,
    PostVolumeRemove,
    PreVolumeResize,
    PreVolumeStart,
    PostVolumeStart,
    PostVolumeStop,
    PreVolumeImport,
    PostVolumeImport,
    PreVolumeImportData,
    PostVolumeImportDataEnd,
    PreVolumeExport,
    PostVolumeExportEnd,
}

impl Hook {
    pub(super) const ALL: [Hook; 16] = [
        Self::PreSinit,
        Self::PreSetup,
        Self::PostDestroy,
        Self::PreVolumeCreate,
        Self::PostVolumeCreate,
        Self::PostVolumeRemove,
        Self::PreVolumeResize,
        Self::PreVolumeStart,
        Self::PostVolumeStart,
        Self::PostVolumeStop,
        Self::PreVolumeImport,
        Self::PostVolumeImport,
        Self::PreVolumeImportData,
        Self::PostVolumeImportDataEnd,
        Self::PreVolumeExport,
        Self::PostVolumeExportEnd,
    ];

    /// Its name in the configuration, and what the generic command is told.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::PreSinit => "pre_sinit",
            Self::PreSetup => "pre_setup",
            Self::PostDestroy => "post_destroy",
            Self::PreVolumeCreate => "pre_volume_create",
            Self::PostVolumeCreate => "post_volume_create",
            Self::PostVolumeRemove => "post_volume_remove",
            Self::PreVolumeResize => "pre_volume_resize",
            Self::PreVolumeStart => "pre_volume_start",
            Self::PostVolumeStart => "post_volume_start",
            Self::PostVolumeStop => "post_volume_stop",
            Self::PreVolumeImport => "pre_volume_import",
            Self::PostVolumeImport => "post_volume_import",
            Self::PreVolumeImportData => "pre_volume_import_data",
            Self::PostVolumeImportDataEnd => "post_volume_import_data_end",
            Self::PreVolumeExport => "pre_volume_export",
            Self::PostVolumeExportEnd => "post_volume_export_end",
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A program with the words that it is always given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Command {
    program: String,
    words: Vec<String>,
}

impl Command {
    /// Splits a line into words by a shell's rules for quotes and backslashes. What only a shell could do with it is
    /// refused: it would go unnoticed to the program as a word.
    pub(super) fn parse(line: &str) -> Result<Self, String> {
        if let Some(special) = needs_shell(line) {
            return Err(format!(
                "needs a shell for '{}': quote it, or name the shell, as in bash -c '...'",
                special.escape_debug()
            ));
        }
        let mut words = shlex::split(line).ok_or("has an open quote")?.into_iter();
        let program = words.next().filter(|program| !program.is_empty()).ok_or("names no program")?;
        Ok(Self { program, words: words.collect() })
    }

    /// Ready to run: in a process group of its own, at the root, with the daemon's environment.
    pub(super) fn to_process<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> process::Command {
        let mut command = process::Command::new(&self.program);
        command.args(&self.words).args(arguments).process_group(0).current_dir("/");
        // It is the daemon that tells systemd how it is.
        command.env_remove("NOTIFY_SOCKET");
        command
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = std::iter::once(&self.program).chain(&self.words);
        let quoted = shlex::try_join(words.map(String::as_str));
        f.write_str(quoted.as_deref().unwrap_or(&self.program))
    }
}

/// The first character that would mean something to a shell and nothing to us.
fn needs_shell(line: &str) -> Option<char> {
    let mut quote = None;
    let mut starts_word = true;
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        let special = match (quote, c) {
            (None, '\\') | (Some('"'), '\\') => {
                characters.next();
                false
            }
            (None, '\'' | '"') => {
                quote = Some(c);
                false
            }
            (Some(open), _) if open == c => {
                quote = None;
                false
            }
            (Some('\''), _) => false,
            (Some(_), _) => matches!(c, '$' | '`'),
            (None, '#' | '~') => starts_word,
            (None, _) => ";&|<>()$`*?[{\n".contains(c),
        };
        if special {
            return Some(c);
        }
        starts_word = quote.is_none() && c.is_whitespace();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_split_as_a_shell_does() {
        let parsed = Command::parse(r#"/usr/bin/log "a b" c\ d 'e"f' '$x && y' a~b#c"#).unwrap();
        assert_eq!(parsed.program, "/usr/bin/log");
        assert_eq!(parsed.words, ["a b", "c d", "e\"f", "$x && y", "a~b#c"]);
        assert_eq!(Command::parse(&parsed.to_string()).unwrap(), parsed);
    }

    #[test]
    fn what_needs_a_shell_is_refused_and_named() {
        for (line, why) in [
            ("a && b", "for '&'"),
            ("a; b", "for ';'"),
            ("echo $HOME", "for '$'"),
            ("echo \"$HOME\"", "for '$'"),
            ("a > /tmp/x", "for '>'"),
            ("a `b`", "for '`'"),
            ("ls *", "for '*'"),
            ("ls ~", "for '~'"),
            ("a # b", "for '#'"),
            ("a\nb", r"for '\n'"),
            ("a 'b", "has an open quote"),
            ("  ", "names no program"),
            ("'' a", "names no program"),
        ] {
            let refused = Command::parse(line).unwrap_err();
            assert!(refused.contains(why), "{line}: {refused}");
        }
    }
}
