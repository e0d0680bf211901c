//! Help as plain text, made of the reStructuredText in the tables.

/// The text without its marks: ``` ``literal`` ```, `*emphasis*` and `**strong**` become what they mark, and white
/// space between words becomes one space.
pub fn plain(rst: &str) -> String {
    let mut text = String::with_capacity(rst.len());
    for word in rst.split_whitespace() {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(word);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some((before, marked, after)) = next_marked(rest) {
        out.push_str(before);
        // A mark inside a literal is part of it.
        out.push_str(marked);
        rest = after;
    }
    out.push_str(rest);
    out
}

/// What is before the first marked piece, the piece, and what is after it.
fn next_marked(text: &str) -> Option<(&str, &str, &str)> {
    let pieces = ["``", "**", "*"].into_iter().filter_map(|mark| {
        let (before, rest) = text.split_once(mark)?;
        let (marked, after) = rest.split_once(mark)?;
        (!marked.is_empty()).then_some((before, marked, after))
    });
    // Of two that begin at the same place, the first in the list is taken: the longer mark.
    pieces.min_by_key(|(before, ..)| before.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_go_and_white_space_collapses() {
        for (rst, expected) in [
            ("", ""),
            ("Plain  text\n  over lines.", "Plain text over lines."),
            (
                "The feature ``a-b``, else *this*; **that** is ``*``.",
                "The feature a-b, else this; that is *.",
            ),
            ("``*`` or ``b*``", "* or b*"),
            ("2 * 3 and `x`", "2 * 3 and `x`"),
        ] {
            assert_eq!(plain(rst), expected, "{rst:?}");
        }
    }

    #[test]
    fn no_help_in_the_tables_has_marks_left() {
        for property in super::super::Property::ALL {
            let help = plain(property.row().help);
            assert!(!help.contains('`') && !help.contains("  "), "{property}: {help}");
        }
    }
}
