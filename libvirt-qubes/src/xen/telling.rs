//! Which of the lines that libxl logs tells a person what went wrong, and what of it is worth showing. Pure.
//!
//! Measured on 15 kinds of failure: the first error is the telling one, but for a disk's hotplug program, where
//! it only gives an exit status and the program's own words come in a later line, after `script: `.

/// The telling one of the errors of an operation, in the order in which they were logged.
pub(super) fn telling_line<'a>(lines: impl IntoIterator<Item = &'a str> + Clone) -> Option<&'a str> {
    let words_of_a_script = lines.clone().into_iter().find_map(|line| line.split_once("script: "));
    if let Some((_, words)) = words_of_a_script {
        return Some(words.trim());
    }
    lines.clone().into_iter().find(|line| !only_a_status(line)).or_else(|| lines.into_iter().next())
}

fn only_a_status(line: &str) -> bool {
    line.contains(" exited with error status ") || line.contains(" died due to fatal signal ")
}

/// A line without what only libxl's authors need: source file, line, function, `Domain N:`, line ends.
pub(super) fn strip(message: &str) -> &str {
    let mut rest = message.trim();
    rest = rest.strip_prefix("panic: ").unwrap_or(rest);
    if let Some(after) = after_place(rest) {
        rest = after;
    }
    if let Some(after) =
        rest.strip_prefix("Domain ").map(|text| text.trim_start_matches(|c: char| c.is_ascii_digit()))
        && let Some(after) = after.strip_prefix(':')
    {
        rest = after;
    }
    rest.trim()
}

/// What follows `libxl_dom.c:123:libxl__build_pre: ` or `xg_dom_boot.c:119: xc_dom_boot_mem_init: `.
fn after_place(message: &str) -> Option<&str> {
    let (file, rest) = message.split_once(':')?;
    if !file.ends_with(".c") || file.contains(char::is_whitespace) {
        return None;
    }
    let (line, rest) = rest.split_once(':')?;
    if line.is_empty() || !line.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let rest = rest.trim_start();
    let function = rest.split_once(": ").or_else(|| rest.strip_suffix(':').map(|name| (name, "")));
    match function {
        Some((name, words)) if name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') => Some(words),
        _ => Some(rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_the_source_and_domain_numbers_are_left_out() {
        for (message, shown) in [
            (
                "libxl_device.c:1330:device_hotplug_child_death_cb: Domain 12:script: no such file",
                "script: no such file",
            ),
            (
                "libxl_create.c:693:libxl__domain_make: Domain with name \"x\" already exists.\n",
                "Domain with name \"x\" already exists.",
            ),
            (
                "panic: xg_dom_boot.c:119: xc_dom_boot_mem_init: can't allocate low memory for domain",
                "can't allocate low memory for domain",
            ),
            ("xc: words: with colons", "xc: words: with colons"),
            ("Domain 7:gone", "gone"),
            ("", ""),
            ("a.c:b:c", "a.c:b:c"),
        ] {
            assert_eq!(strip(message), shown, "{message}");
        }
    }

    #[test]
    fn the_words_of_the_hotplug_program_win_over_its_exit_status() {
        let lines = [
            "/usr/libexec/mgmt/mgmt-block add [717] exited with error status 1",
            "script: /srv/root.img: No such file or directory",
            "unable to add disk devices",
        ];
        assert_eq!(telling_line(lines), Some("/srv/root.img: No such file or directory"));
    }

    #[test]
    fn else_the_first_line_tells_unless_it_is_only_a_status() {
        assert_eq!(
            telling_line(["failed to open file '/k'", "cannot (re-)build domain: -3"]),
            Some("failed to open file '/k'")
        );
        let status = "/x add [1] exited with error status 1";
        assert_eq!(telling_line([status, "unable to add disk devices"]), Some("unable to add disk devices"));
        assert_eq!(telling_line([status]), Some(status));
        assert_eq!(telling_line([]), None);
    }
}
