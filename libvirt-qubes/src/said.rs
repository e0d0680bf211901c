//! What other people's programs say, made fit for an error and for a line of the log.

/// A text without what a terminal would obey, or hide: a blank in the place of white space, `_` in that of control characters and
/// of those that turn or join others.
pub(crate) fn shown(text: &str) -> String {
    let shown = |c: char| match c {
        _ if c.is_whitespace() => ' ',
        _ if c.is_control() => '_',
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' => '_',
        '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}' => '_',
        _ => c,
    };
    text.chars().map(shown).collect()
}

/// The lines of an output that tell something, in one line.
pub(crate) fn in_one_line(output: &[u8], is_noise: impl Fn(&str) -> bool) -> String {
    let text = String::from_utf8_lossy(output);
    // A carriage return would have the rest of the line written over what is before it.
    let lines = text.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty() && !is_noise(line));
    lines.map(shown).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_one_line_that_no_terminal_obeys() {
        let said = b"\x1b[2J\x1b]0;title\x07no key\t\xe2\x80\xae\xff\x00\x9b\n\n  noise\r\nre\xc3\xa9el\xc2\x85\x7f\rover";
        let line = in_one_line(said, |line| line == "noise");
        assert_eq!(line, "_[2J_]0;title_no key _\u{fffd}_\u{fffd}; reéel _; over");
        assert_eq!(shown("plain (ü) 中"), "plain (ü) 中");
    }
}
