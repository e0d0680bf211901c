//! The names of a volume's files, which are all the state that there is.
//!
//! | file | meaning |
//! |---|---|
//! | `V.img` | clean: the committed state; of a started snapshot, a hard link to what it was copied from |
//! | `V-dirty.img` | what the running VM writes |
//! | `V-dirty-cow.img` | what the running VM writes, as the store of a device over what the clean image's name is a link to |
//! | `V-precache.img` | a copy of clean with its modification time, so that a start is a rename |
//! | `V-import.img` | an import under way |
//! | `V.img.N@YYYY-MM-DDTHH:MM:SSZ` | revision `N`, made by a commit |
//! | `V-keep.N.img` | revision `sN`, made on request |
//! | any of these, then `~` and letters | not yet whole; it was to get the name before the `~` |
//!
//! All but `V-keep.N.img` and `V-dirty-cow.img` are the names of the Qubes driver `file-reflink`. `V-cow.img` and `V-cow.img.old` are of the
//! Qubes driver `file`, and mean nothing here.

use crate::ids::VolumeName;
use crate::storage::RevisionId;

/// A file of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Image {
    Clean,
    Dirty,
    Cow,
    Precache,
    Import,
    Revision(Automatic),
    Kept { number: u64 },
}

/// A revision that a commit made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Automatic {
    pub(super) number: u64,
    /// Seconds since 1970: when the state was committed.
    pub(super) time: i64,
}

/// What a file name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Named {
    Whole(Image),
    Unfinished,
}

impl Image {
    pub(super) fn file_name(&self, volume: &VolumeName) -> String {
        match self {
            Self::Clean => format!("{volume}.img"),
            Self::Dirty => format!("{volume}-dirty.img"),
            Self::Cow => format!("{volume}-dirty-cow.img"),
            Self::Precache => format!("{volume}-precache.img"),
            Self::Import => format!("{volume}-import.img"),
            Self::Revision(r) => format!("{volume}.img.{}@{}", r.number, format_time(r.time)),
            Self::Kept { number } => format!("{volume}-keep.{number}.img"),
        }
    }

    fn from_suffix(suffix: &str) -> Option<Self> {
        match suffix {
            ".img" => return Some(Self::Clean),
            "-dirty.img" => return Some(Self::Dirty),
            "-dirty-cow.img" => return Some(Self::Cow),
            "-precache.img" => return Some(Self::Precache),
            "-import.img" => return Some(Self::Import),
            _ => {}
        }
        if let Some(number) = suffix.strip_prefix("-keep.").and_then(|s| s.strip_suffix(".img")) {
            return Some(Self::Kept { number: parse_number(number)? });
        }
        let (number, time) = suffix.strip_prefix(".img.")?.split_once('@')?;
        Some(Self::Revision(Automatic { number: parse_number(number)?, time: parse_time(time)? }))
    }
}

/// What `name` is to `volume`; `None` if it is none of its files.
pub(super) fn parse(volume: &VolumeName, name: &str) -> Option<Named> {
    let (whole, unfinished) = split_unfinished(name);
    let image = Image::from_suffix(whole.strip_prefix(volume.as_str())?)?;
    Some(if unfinished { Named::Unfinished } else { Named::Whole(image) })
}

/// Whose file `name` is; `None` if it is none of a volume.
pub(super) fn volume_of(name: &str) -> Option<VolumeName> {
    let (whole, _) = split_unfinished(name);
    // The longest suffix wins: `root-dirty.img` is root's, not the clean image of a volume `root-dirty`.
    let volume: VolumeName =
        whole.char_indices().filter(|(_, c)| matches!(c, '-' | '.')).find_map(|(at, _)| {
            let (volume, suffix) = whole.split_at_checked(at)?;
            Image::from_suffix(suffix)?;
            volume.parse().ok()
        })?;
    (!volume.as_str().ends_with("-cow")).then_some(volume)
}

/// Whether the files of a volume of this name could be taken for those of another, or for none of ours.
pub(super) fn is_ambiguous(volume: &VolumeName) -> bool {
    volume_of(&Image::Clean.file_name(volume)).as_ref() != Some(volume)
}

/// The name of a file that is to become `name`.
pub(super) fn unfinished(name: &str) -> String {
    let random = uuid::Uuid::new_v4().simple().to_string();
    format!("{name}~{}", random.get(..12).unwrap_or(&random))
}

fn split_unfinished(name: &str) -> (&str, bool) {
    match name.rsplit_once('~') {
        Some((whole, random))
            if !random.is_empty() && random.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') =>
        {
            (whole, true)
        }
        _ => (name, false),
    }
}

fn parse_number(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// Which revision a caller means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RevisionName {
    Automatic(u64),
    Kept(u64),
}

impl RevisionName {
    pub(super) fn parse(id: &RevisionId) -> Option<Self> {
        match id.as_str().strip_prefix('s') {
            Some(number) => parse_number(number).map(Self::Kept),
            None => parse_number(id.as_str()).map(Self::Automatic),
        }
    }

    /// `None` cannot happen: digits are legal. It spares a panic.
    pub(super) fn id(self) -> Option<RevisionId> {
        match self {
            Self::Automatic(number) => number.to_string().parse().ok(),
            Self::Kept(number) => format!("s{number}").parse().ok(),
        }
    }
}

/// `2024-02-29T12:00:00Z`. Years outside 0 to 9999 are written as the nearest of these.
fn format_time(seconds: i64) -> String {
    const LAST: i64 = 253_402_300_799;
    const FIRST: i64 = -62_167_219_200;
    let seconds = seconds.clamp(FIRST, LAST);
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

fn parse_time(text: &str) -> Option<i64> {
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = text.get(from..to)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let days = days_from_civil(number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let seconds = days * 86_400 + number(11, 13)? * 3600 + number(14, 16)? * 60 + number(17, 19)?;
    // Also refuses the 31st of February and wrong separators.
    (format_time(seconds) == text).then_some(seconds)
}

/// Days since 1970-01-01 to year, month, day of the Gregorian calendar, counted in eras of 400 years that begin in
/// March.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year) = (year.div_euclid(400), year.rem_euclid(400));
    let month = if month > 2 { month - 3 } else { month + 9 };
    era * 146_097 + year * 365 + year / 4 - year / 100 + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn volume(name: &str) -> VolumeName {
        name.parse().unwrap()
    }

    #[test]
    fn names_are_the_deployed_ones() {
        let root = volume("root");
        let time = 1_709_208_000;
        for (image, name) in [
            (Image::Clean, "root.img"),
            (Image::Dirty, "root-dirty.img"),
            (Image::Cow, "root-dirty-cow.img"),
            (Image::Precache, "root-precache.img"),
            (Image::Import, "root-import.img"),
            (Image::Revision(Automatic { number: 12, time }), "root.img.12@2024-02-29T12:00:00Z"),
            (Image::Kept { number: 3 }, "root-keep.3.img"),
        ] {
            assert_eq!(image.file_name(&root), name);
            assert_eq!(parse(&root, name), Some(Named::Whole(image)));
            assert_eq!(parse(&root, &unfinished(name)), Some(Named::Unfinished));
            assert_eq!(volume_of(name), Some(root.clone()));
        }
    }

    #[test]
    fn what_is_not_exactly_a_name_of_the_volume_is_left_alone() {
        for name in [
            "root.img~",
            "root.img.bak",
            "root.img.01@2024-02-29T12:00:00Z",
            "root.img.1@2023-02-29T12:00:00Z",
            "root.img.1@2024-02-29 12:00:00Z",
            "root.img.1",
            "root-cow.img",
            "root-keep.img",
            "root-keep.x.img",
            "root",
            "xroot.img",
            "ROOT.img",
            "root.img~a~",
            "root.img~a-b",
            "my-root.img",
        ] {
            assert_eq!(parse(&volume("root"), name), None, "{name}");
        }
    }

    #[test]
    fn a_volume_whose_files_look_like_those_of_another_is_ambiguous() {
        for name in
            ["root-dirty", "root-dirty-cow", "root-import", "root-precache", "root-keep.1", "root-cow"]
        {
            assert!(is_ambiguous(&volume(name)), "{name}");
        }
        for name in ["root", "private", "my-root", "dirty", "root.img", "root-keep", "keep.1", "a-b.c"] {
            assert!(!is_ambiguous(&volume(name)), "{name}");
        }
    }

    proptest! {
        #[test]
        fn times_parse_back(seconds in -62_167_219_200i64..=253_402_300_799) {
            prop_assert_eq!(parse_time(&format_time(seconds)), Some(seconds));
        }

        #[test]
        fn no_file_belongs_to_two_volumes(a in "[a-z][a-z.-]{0,8}", b in "[a-z][a-z.-]{0,8}", number in 0u64..12) {
            let (a, b) = (volume(&a), volume(&b));
            prop_assume!(a != b && !is_ambiguous(&a) && !is_ambiguous(&b));
            let time = 1_709_208_000;
            for image in [Image::Clean, Image::Dirty, Image::Cow, Image::Precache, Image::Import, Image::Kept { number },
                          Image::Revision(Automatic { number, time })] {
                let name = image.file_name(&a);
                prop_assert_eq!(parse(&b, &name), None);
                prop_assert_eq!(parse(&b, &unfinished(&name)), None);
                prop_assert_eq!(volume_of(&name), Some(a.clone()));
            }
        }
    }
}
