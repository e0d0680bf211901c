//! The call table: one [`Row`] per call says everything that is the same for all who make it – its names,
//! destination, argument, payload, scope – and which function carries it out. Dispatch, help, policy and
//! the lists of calls are made from it.
//!
//! A call that is in the table twice does not compile: [`distinct`] is checked in a `const`.

use std::collections::HashMap;

use crate::BoxFuture;
use crate::cx::{Cx, Dialect};
use crate::failure::Failure;
use crate::reply::{Encoder, Reply};
use crate::request::Request;
use crate::untrusted::Untrusted;
use crate::wire::Exception;

/// Which kind of the daemon's sockets a call comes in by. A call answers at one kind alone; at the others there is no
/// such method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Door {
    /// The main ones: `mgmt.*` and `admin.*`.
    Main,
    /// That of dom0's own components: `internal.*`.
    Internal,
}

/// Under which prefixes a row answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// Under both.
    Both(Name),
    /// As `mgmt.*` alone.
    Mgmt(Name),
    /// As `admin.*` alone.
    Admin(Name),
    /// As `internal.*`, at the internal socket; it speaks as `admin` does.
    Internal(Name),
}

impl Names {
    /// Where calls of these names come in.
    pub const fn door(&self) -> Door {
        match self {
            Self::Both(_) | Self::Mgmt(_) | Self::Admin(_) => Door::Main,
            Self::Internal(_) => Door::Internal,
        }
    }
}

/// A name without its prefix. A family of calls has a class in its name: `vm.Create.` + class, or
/// `vm.device.` + class + `.Attach`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name {
    before: &'static str,
    classes: &'static [&'static str],
    after: &'static str,
}

impl Name {
    /// The name of one call.
    pub const fn one(name: &'static str) -> Self {
        Self { before: name, classes: &[""], after: "" }
    }

    /// One name per class, the class standing between the two texts.
    pub const fn family(before: &'static str, classes: &'static [&'static str], after: &'static str) -> Self {
        Self { before, classes, after }
    }

    const fn len(&self, class: usize) -> usize {
        self.before.len() + self.classes[class].len() + self.after.len()
    }

    const fn byte(&self, class: usize, at: usize) -> u8 {
        let (before, middle, after) =
            (self.before.as_bytes(), self.classes[class].as_bytes(), self.after.as_bytes());
        if at < before.len() {
            before[at]
        } else if at < before.len() + middle.len() {
            middle[at - before.len()]
        } else {
            after[at - before.len() - middle.len()]
        }
    }
}

/// The destination that a call must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// dom0 alone.
    Dom0,
    /// Any VM but dom0.
    Vm,
    /// Either.
    Any,
}

/// The argument that a call must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantArgument {
    /// None.
    None,
    /// One.
    Required,
    /// One or none.
    Optional,
}

/// The payload that a call must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantPayload {
    /// None.
    Empty,
    /// None, or up to the limit of a request.
    Optional,
    /// At least one byte, and up to that limit.
    Required,
    /// Any length; the handler reads it as it arrives.
    Stream,
}

/// Whether a call is about one VM or about the system: the first half of its place in the default policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// About its destination.
    Local,
    /// About the system as a whole.
    Global,
}

/// Whether a call changes anything: the second half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It changes nothing.
    Read,
    /// It does.
    Write,
}

/// What becomes of a call whose client leaves before the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancel {
    /// It runs to its end. A close ends a payload that streams, as a half-close does.
    Never,
    /// A close before the end of a payload that streams breaks that off; after it, the call runs to its end.
    InPayload,
    /// It is cancelled through [`Cx::cancelled`].
    OnHangUp,
}

/// Carries out a call.
pub type Handler<H> = for<'a> fn(&'a Cx<H>, Request) -> BoxFuture<'a, Result<Reply, Failure>>;

/// One call, or one family of calls. Made by [`row!`](crate::row).
pub struct Row<H: 'static> {
    /// Its names.
    pub names: Names,
    /// Its destination.
    pub destination: Destination,
    /// Its scope.
    pub scope: Scope,
    /// Whether it changes anything.
    pub access: Access,
    /// Whether it has an argument.
    pub argument: WantArgument,
    /// Whether it has a payload.
    pub payload: WantPayload,
    /// What a client's close does.
    pub cancel: Cancel,
    /// The bytes of its answer as `mgmt.*`, and as `admin.*`.
    pub encoders: (Encoder, Encoder),
    /// The grammar of its argument.
    pub check_argument: fn(Untrusted<'_>) -> Result<(), Exception>,
    /// What it does.
    pub handler: Handler<H>,
}

impl<H> Row<H> {
    /// The bytes of its content in that dialect.
    pub fn encoder(&self, dialect: Dialect) -> Encoder {
        match dialect {
            Dialect::Mgmt => self.encoders.0,
            Dialect::Admin => self.encoders.1,
        }
    }

    /// The name that the row has in that dialect, and what it begins with.
    fn name_in(&self, dialect: Dialect) -> Option<(&'static str, &Name)> {
        match (&self.names, dialect) {
            (Names::Both(name), Dialect::Mgmt | Dialect::Admin)
            | (Names::Mgmt(name), Dialect::Mgmt)
            | (Names::Admin(name), Dialect::Admin) => Some((dialect.prefix(), name)),
            (Names::Internal(name), Dialect::Admin) => Some(("internal.", name)),
            (Names::Mgmt(_), Dialect::Admin) | (Names::Admin(_) | Names::Internal(_), Dialect::Mgmt) => None,
        }
    }
}

/// Whether no name stands for two rows. For a `const` assertion beside the table.
pub const fn distinct<H>(families: &[&[Row<H>]]) -> bool {
    let mut f = 0;
    while f < families.len() {
        let mut r = 0;
        while r < families[f].len() {
            let mut g = f;
            while g < families.len() {
                let mut s = if g == f { r } else { 0 };
                while s < families[g].len() {
                    let same_row = f == g && r == s;
                    if clash(&families[f][r].names, &families[g][s].names, same_row) {
                        return false;
                    }
                    s += 1;
                }
                g += 1;
            }
            r += 1;
        }
        f += 1;
    }
    true
}

/// Whether the two share a full name; in one row, whether one class stands there twice.
const fn clash(a: &Names, b: &Names, same_row: bool) -> bool {
    let (a, b) = match (a, b) {
        (Names::Mgmt(_), Names::Admin(_)) | (Names::Admin(_), Names::Mgmt(_)) => return false,
        (Names::Internal(a), Names::Internal(b))
        | (
            Names::Both(a) | Names::Mgmt(a) | Names::Admin(a),
            Names::Both(b) | Names::Mgmt(b) | Names::Admin(b),
        ) => (a, b),
        (Names::Internal(_), Names::Both(_) | Names::Mgmt(_) | Names::Admin(_))
        | (Names::Both(_) | Names::Mgmt(_) | Names::Admin(_), Names::Internal(_)) => return false,
    };
    let mut i = 0;
    while i < a.classes.len() {
        let mut j = if same_row { i + 1 } else { 0 };
        while j < b.classes.len() {
            if same_name(a, i, b, j) {
                return true;
            }
            j += 1;
        }
        i += 1;
    }
    false
}

const fn same_name(a: &Name, i: usize, b: &Name, j: usize) -> bool {
    let length = a.len(i);
    if length != b.len(j) {
        return false;
    }
    let mut at = 0;
    while at < length {
        if a.byte(i, at) != b.byte(j, at) {
            return false;
        }
        at += 1;
    }
    true
}

/// A row that a method's name stands for.
pub struct Found<H: 'static> {
    /// The row.
    pub row: &'static Row<H>,
    /// The dialect of the name.
    pub dialect: Dialect,
    /// The class in the name; empty where the row is no family.
    pub class: &'static str,
}

impl<H> Clone for Found<H> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<H> Copy for Found<H> {}

/// All rows, found by name.
pub struct Table<H: 'static> {
    by_name: HashMap<String, Found<H>>,
}

impl<H> Table<H> {
    /// The table of these rows. That their names are [`distinct`] is checked where they are written.
    pub fn new(families: &'static [&'static [Row<H>]]) -> Self {
        let mut by_name = HashMap::new();
        for row in families.iter().copied().flatten() {
            for dialect in Dialect::ALL {
                let Some((prefix, name)) = row.name_in(dialect) else { continue };
                for class in name.classes {
                    let full = [prefix, name.before, class, name.after].concat();
                    by_name.insert(full, Found { row, dialect, class });
                }
            }
        }
        Self { by_name }
    }

    /// The row of a method that came in by a door, by its full name.
    pub fn find(&self, door: Door, method: &str) -> Option<Found<H>> {
        self.by_name.get(method).copied().filter(|found| found.row.names.door() == door)
    }

    /// All full names with their rows, sorted.
    pub fn names(&self) -> Vec<(&str, Found<H>)> {
        let mut names: Vec<_> = self.by_name.iter().map(|(name, found)| (name.as_str(), *found)).collect();
        names.sort_unstable_by_key(|(name, _)| *name);
        names
    }
}

/// Writes a [`Row`]: names, destination, scope and access, `(argument, payload) => function`.
///
/// Argument and payload are [`Empty`](crate::request::Empty), [`Required`](crate::request::Required),
/// [`Optional`](crate::request::Optional), and for the payload [`Stream`](crate::request::Stream); what is
/// `Empty` is no parameter of the function. After it may follow `encode: MGMT, ADMIN` (two
/// [`Encoder`](crate::reply::Encoder)s) and `cancel: OnHangUp`.
///
/// ```
/// use mgmt_rpc::{cx::Cx, failure::Failure, reply::Reply, row, table::{Row, distinct}, untrusted::Text};
///
/// struct Host;
/// async fn get(_cx: &Cx<Host>, name: Text) -> Result<Reply, Failure> {
///     Ok(Reply::value(name.0))
/// }
/// async fn attach(cx: &Cx<Host>, _device: Text, _options: Text) -> Result<Reply, Failure> {
///     Ok(Reply::value(cx.class))
/// }
///
/// const CLASSES: &[&str] = &["block", "pci"];
/// const ROWS: &[Row<Host>] = &[
///     row!(Both("vm.property.Get"), Any, Local Read, (Required<Text>, Empty) => get),
///     row!(
///         Both("vm.device.", CLASSES, ".Attach"), Vm, Local Write, (Required<Text>, Optional<Text>) => attach
///     ),
/// ];
/// const _: () = assert!(distinct(&[ROWS]));
/// ```
///
/// A name that is there twice does not compile:
///
/// ```compile_fail,E0080
/// # use mgmt_rpc::{cx::Cx, failure::Failure, reply::Reply, row, table::{Row, distinct}};
/// # struct Host;
/// # async fn start(_cx: &Cx<Host>) -> Result<Reply, Failure> { Ok(Reply::empty()) }
/// const ROWS: &[Row<Host>] = &[
///     row!(Both("vm.Start"), Vm, Local Write, (Empty, Empty) => start),
///     row!(Mgmt("vm.", &["Stop", "Start"], ""), Vm, Local Write, (Empty, Empty) => start),
/// ];
/// const _: () = assert!(distinct(&[ROWS]));
/// ```
#[macro_export]
macro_rules! row {
    (@name $one:literal) => { $crate::table::Name::one($one) };
    (@name $before:literal, $classes:expr, $after:literal) => {
        $crate::table::Name::family($before, $classes, $after)
    };
    (@cancel) => { $crate::table::Cancel::Never };
    (@cancel $cancel:ident) => { $crate::table::Cancel::$cancel };
    (@encode) => { ($crate::reply::seed, $crate::reply::deployed) };
    (@encode $mgmt:path, $admin:path) => { ($mgmt, $admin) };
    (@handler Empty, $payload:ty, $function:path) => {
        |cx, request| ::std::boxed::Box::pin(async move {
            let payload = <$payload as $crate::request::PayloadSlot>::take(request.payload)?;
            $function(cx, payload).await
        })
    };
    (@handler $argument:ty, Empty, $function:path) => {
        |cx, request| ::std::boxed::Box::pin(async move {
            let argument = $crate::untrusted::Untrusted::new(request.argument.as_bytes());
            let argument = <$argument as $crate::request::ArgumentSlot>::read(argument)?;
            $function(cx, argument).await
        })
    };
    (@handler $argument:ty, $payload:ty, $function:path) => {
        |cx, request| ::std::boxed::Box::pin(async move {
            let argument = $crate::untrusted::Untrusted::new(request.argument.as_bytes());
            let argument = <$argument as $crate::request::ArgumentSlot>::read(argument)?;
            let payload = <$payload as $crate::request::PayloadSlot>::take(request.payload)?;
            $function(cx, argument, payload).await
        })
    };
    (
        $names:ident($($name:tt)+), $destination:ident, $scope:ident $access:ident,
        ($argument:ident $(< $of_argument:ty >)?, $payload:ident $(< $of_payload:ty >)?) => $function:path
        $(, encode: $mgmt:path, $admin:path)? $(, cancel: $cancel:ident)?
    ) => {
        $crate::table::Row {
            names: $crate::table::Names::$names($crate::row!(@name $($name)+)),
            destination: $crate::table::Destination::$destination,
            scope: $crate::table::Scope::$scope,
            access: $crate::table::Access::$access,
            argument:
                <$crate::request::$argument $(< $of_argument >)? as $crate::request::ArgumentSlot>::WANT,
            payload: <$crate::request::$payload $(< $of_payload >)? as $crate::request::PayloadSlot>::WANT,
            cancel: $crate::row!(@cancel $($cancel)?),
            encoders: $crate::row!(@encode $($mgmt, $admin)?),
            check_argument: |argument| {
                <$crate::request::$argument $(< $of_argument >)? as $crate::request::ArgumentSlot>::read(argument)
                    .map(drop)
            },
            handler: $crate::row!(
                @slots [$argument $(< $of_argument >)?] [$payload $(< $of_payload >)?] $function
            ),
        }
    };
    (@slots [Empty] [Empty] $function:path) => {
        |cx, _request| ::std::boxed::Box::pin($function(cx))
    };
    (@slots [Empty] [$payload:ident $(< $of:ty >)?] $function:path) => {
        $crate::row!(@handler Empty, $crate::request::$payload $(< $of >)?, $function)
    };
    (@slots [$argument:ident $(< $of:ty >)?] [Empty] $function:path) => {
        $crate::row!(@handler $crate::request::$argument $(< $of >)?, Empty, $function)
    };
    (@slots [$argument:ident $(< $a:ty >)?] [$payload:ident $(< $p:ty >)?] $function:path) => {
        $crate::row!(
            @handler $crate::request::$argument $(< $a >)?, $crate::request::$payload $(< $p >)?, $function
        )
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    async fn nothing(_: &Cx<()>) -> Result<Reply, Failure> {
        Ok(Reply::empty())
    }

    const fn row(names: Names) -> Row<()> {
        Row { names, ..row!(Both(""), Any, Local Read, (Empty, Empty) => nothing) }
    }

    const fn name(name: &'static str) -> Name {
        Name::one(name)
    }

    #[test]
    fn a_name_that_stands_for_two_rows_is_found() {
        use Names::{Admin, Both, Internal, Mgmt};
        const AB: &[&str] = &["a", "b"];
        for (one, other, expected) in [
            (Both(name("x")), Both(name("y")), true),
            (Both(name("x")), Both(name("x")), false),
            (Both(name("x")), Mgmt(name("x")), false),
            (Admin(name("x")), Both(name("x")), false),
            (Admin(name("x")), Mgmt(name("x")), true),
            (Internal(name("x")), Both(name("x")), true),
            (Internal(name("x")), Admin(name("x")), true),
            (Internal(name("x")), Internal(name("x")), false),
            (Admin(name("x")), Admin(name("xx")), true),
            (Both(Name::family("x.", AB, ".y")), Both(name("x.b.y")), false),
            (Both(Name::family("x.", AB, ".y")), Both(name("x.c.y")), true),
            (Both(Name::family("x.", AB, "")), Both(Name::family("x", &[".c", ".b"], "")), false),
            (Both(Name::family("x.", &["a", "a"], "")), Both(name("y")), false),
        ] {
            assert_eq!(distinct(&[&[row(one)], &[row(other)]]), expected, "{one:?} {other:?}");
            assert_eq!(distinct(&[&[row(other), row(one)]]), expected, "{other:?} {one:?}");
        }
        assert!(distinct::<()>(&[]));
    }

    #[test]
    fn a_row_is_found_under_each_of_its_names_and_no_other() {
        const ROWS: &[&[Row<()>]] = &[&[
            row(Names::Both(Name::family("vm.Create.", &["AppVM", "DispVM"], ""))),
            row(Names::Mgmt(name("vm.Get"))),
            row(Names::Admin(name("vm.Get"))),
            row(Names::Internal(name("Get"))),
        ]];
        let table = Table::new(ROWS);
        let names: Vec<_> = table.names().into_iter().map(|(name, found)| (name, found.class)).collect();
        let expected = [
            ("admin.vm.Create.AppVM", "AppVM"),
            ("admin.vm.Create.DispVM", "DispVM"),
            ("admin.vm.Get", ""),
            ("internal.Get", ""),
            ("mgmt.vm.Create.AppVM", "AppVM"),
            ("mgmt.vm.Create.DispVM", "DispVM"),
            ("mgmt.vm.Get", ""),
        ];
        assert_eq!(names, expected);
        for method in ["vm.Get", "mgmt.vm.Create.", "mgmt.vm.Create.AppVM ", "MGMT.vm.Get", ""] {
            assert!(table.find(Door::Main, method).is_none(), "{method}");
        }
        let found = |door, method| table.find(door, method).map(|found| found.row.names);
        assert_eq!(found(Door::Main, "admin.vm.Get"), Some(Names::Admin(name("vm.Get"))));
        assert_eq!(found(Door::Internal, "admin.vm.Get"), None);
        assert_eq!(found(Door::Internal, "internal.Get"), Some(Names::Internal(name("Get"))));
        assert_eq!(found(Door::Main, "internal.Get"), None);
    }

    proptest! {
        #[test]
        fn names_are_compared_as_the_texts_that_they_make(parts in "[ab]{0,2}", cut in 0usize..3, other in "[ab]{0,3}") {
            // The same text, cut at any place, is the same name.
            let cut = cut.min(parts.len());
            let leak = |text: &str| -> &'static str { Box::leak(text.to_owned().into_boxed_str()) };
            let (before, after) = parts.split_at(cut);
            let classes: &'static [&'static str] = Box::leak(Box::new([leak(after)]));
            let family = Name::family(leak(before), classes, "");
            prop_assert_eq!(same_name(&family, 0, &Name::one(leak(&other)), 0), parts == other);
        }
    }
}
