//! Which characters are safe to show.

use unicode_bidi::{BidiClass, bidi_class};
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};
use unicode_script::{Script, UnicodeScript};

/// Whether a character can be shown to people without risk: it is not invisible, does not act on its neighbours, and
/// needs no complex rendering. The rule of Qubes' own `libqubes-pure`: letters, digits, punctuation, mathematical and
/// currency signs of scripts that are written from left to right, letter by letter; of ASCII all that prints.
///
/// Tabs and newlines are not.
pub fn is_safe(character: char) -> bool {
    if character.is_ascii() {
        return matches!(character, ' '..='~');
    }
    category(character) && direction(character) && script(character)
}

fn category(character: char) -> bool {
    match character.general_category() {
        GeneralCategory::UppercaseLetter
        | GeneralCategory::LowercaseLetter
        | GeneralCategory::TitlecaseLetter
        | GeneralCategory::ModifierLetter
        | GeneralCategory::OtherLetter
        | GeneralCategory::DecimalNumber
        | GeneralCategory::LetterNumber
        | GeneralCategory::OtherNumber
        | GeneralCategory::ConnectorPunctuation
        | GeneralCategory::DashPunctuation
        | GeneralCategory::OpenPunctuation
        | GeneralCategory::ClosePunctuation
        | GeneralCategory::InitialPunctuation
        | GeneralCategory::FinalPunctuation
        | GeneralCategory::OtherPunctuation
        | GeneralCategory::MathSymbol
        | GeneralCategory::CurrencySymbol => true,
        GeneralCategory::NonspacingMark
        | GeneralCategory::SpacingMark
        | GeneralCategory::EnclosingMark
        | GeneralCategory::ModifierSymbol
        | GeneralCategory::OtherSymbol
        | GeneralCategory::SpaceSeparator
        | GeneralCategory::LineSeparator
        | GeneralCategory::ParagraphSeparator
        | GeneralCategory::Control
        | GeneralCategory::Format
        | GeneralCategory::Surrogate
        | GeneralCategory::PrivateUse
        | GeneralCategory::Unassigned => false,
    }
}

fn direction(character: char) -> bool {
    matches!(
        bidi_class(character),
        BidiClass::L
            | BidiClass::EN
            | BidiClass::ES
            | BidiClass::ET
            | BidiClass::CS
            | BidiClass::WS
            | BidiClass::ON
    )
}

fn script(character: char) -> bool {
    matches!(
        character.script(),
        Script::Common
            | Script::Inherited
            | Script::Latin
            | Script::Greek
            | Script::Cyrillic
            | Script::Han
            | Script::Hangul
            | Script::Bopomofo
            | Script::Hiragana
            | Script::Katakana
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_of_simple_scripts_are_safe() {
        for character in (' '..='~').chain("äßçŁβЖ中日本語かカ한ㄅ€£±→…“”«»†§½①ﬁ".chars())
        {
            assert!(is_safe(character), "{character:?}");
        }
        for (first, last) in [('\u{3400}', '\u{4dbf}'), ('\u{4e00}', '\u{9ffc}'), ('\u{20000}', '\u{2a6dd}')]
        {
            assert!((first..=last).all(is_safe));
        }
    }

    #[test]
    fn what_is_invisible_complex_or_turns_text_around_is_not() {
        for (first, last) in [
            ('\0', '\u{1f}'),
            ('\u{7f}', '\u{a0}'),
            ('\u{300}', '\u{36f}'),
            ('\u{590}', '\u{60b}'),
            ('\u{2000}', '\u{200f}'),
            ('\u{2028}', '\u{202f}'),
            ('\u{205f}', '\u{206f}'),
            ('\u{e000}', '\u{f8ff}'),
            ('\u{fdd0}', '\u{fdef}'),
            ('\u{fe00}', '\u{fe0f}'),
            ('\u{1f300}', '\u{1f64f}'),
            ('\u{40000}', '\u{10ffff}'),
        ] {
            for character in first..=last {
                assert!(!is_safe(character), "{character:?}");
            }
        }
        for character in "\u{ad}\u{640}\u{61f}\u{feff}\u{fffd}\u{378}אبहกᏣ𒀀⠿\u{26a0}\u{1f3f3}".chars()
        {
            assert!(!is_safe(character), "{character:?}");
        }
    }
}
