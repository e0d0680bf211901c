//! Random calls: mostly such as work, and enough that do not.

use proptest::prelude::*;
use proptest::sample::select;

use crate::call::{A_DISPOSABLE, Call, Dialect};
use crate::oracle::{self, CLASSES};
use crate::support::{Fate, On};

/// What is done.
#[derive(Debug, Clone)]
pub enum Step {
    /// One call, and its answer.
    Call(Call),
    /// SIGTERM, and a new start.
    Restart,
    /// SIGKILL between two calls.
    Kill,
    /// SIGKILL while these are under way, at once: when the daemon does that to its database.
    KillDuring(Vec<Call>, On, u32, Fate),
}

/// Names of VMs: those that every run begins with, and others that may be made.
const VMS: &[&str] = &[
    "dom0",
    "base",
    "base2",
    "net",
    "fw",
    "work",
    "dvm",
    "solo",
    "far",
    "apart",
    "new",
    "new2",
    A_DISPOSABLE,
    "ghost",
];
const LABELS: &[&str] = &["red", "blue", "black", "pink", "3", "teal", "label-5", "12345"];
const FEATURES: &[&str] = &[
    "os",
    "gui",
    "qrexec",
    "service.cups",
    "servicevm",
    "internal",
    "preload-dispvm",
    "bad!name",
    "x_-.Y",
    "service.",
];
const TAGS: &[&str] =
    &["work", "created-by-dom0", "created-by-work", "managed-by-dom0", "backup-1", "bad.tag"];

fn vm() -> impl Strategy<Value = String> {
    select(VMS).prop_map(str::to_owned)
}

/// A value for a property, by its name: good ones and bad ones.
fn value(property: &'static str) -> BoxedStrategy<String> {
    let some = |values: &'static [&'static str]| select(values).prop_map(str::to_owned).boxed();
    match property {
        "netvm" => some(&["", "net", "fw", "net", "fw", "work", "dom0", "ghost", "1x"]),
        "template" => some(&["base", "base2", "dvm", "work", ""]),
        "default_dispvm" | "management_dispvm" => some(&["", "dvm", "dvm", "work", "base", "ghost"]),
        "clockvm" | "updatevm" | "default_netvm" | "default_template" | "guivm" | "audiovm" | "relayvm"
        | "default_guivm" | "default_audiovm" => some(&["", "net", "fw", "dom0", "base", "work", "ghost"]),
        "label" => select(LABELS).prop_map(str::to_owned).boxed(),
        "autostart"
        | "debug"
        | "installed_by_rpm"
        | "provides_network"
        | "template_for_dispvms"
        | "auto_cleanup"
        | "include_in_backups"
        | "check_updates_vm" => some(&["True", "False", "1", "0", "yes", "OFF", "maybe", ""]),
        "virt_mode" => some(&["pvh", "PV", "hvm", "xen"]),
        "kernel" | "default_kernel" => some(&["", "6.1", "6.1", "5.9", "a/b"]),
        "kernelopts" | "bootmode" => some(&["", "quiet", "a=b c", "a\u{1}", "\u{f6}"]),
        "default_user" => some(&["user", "alice", "a b"]),
        "ip" => some(&["10.0.0.1", "10.137.0.3", "nonsense"]),
        "ip6" => some(&["FD00::0:1", "::", "nonsense"]),
        "keyboard_layout" => some(&["de++", "cz+qwerty+a:b", "de", "1++"]),
        "devices_denied" => some(&["", "u******b******u******", "xxxxxxx", "b"]),
        "mac" => some(&["00:16:3E:aa:bb:cc", "00:16:3e:00:00:01", "nonsense"]),
        "default_pool"
        | "default_pool_kernel"
        | "default_pool_private"
        | "default_pool_root"
        | "default_pool_volatile" => {
            some(&["varlibqubes", "extra", "second", "linux-kernel", "kernels", "nowhere"])
        }
        _ => some(&["1", "500", " 1_000 ", "0", "-1", "many", ""]),
    }
}

fn property() -> impl Strategy<Value = &'static str> {
    // Those with rules across VMs more often than the rest.
    let with_rules = &[
        "netvm",
        "netvm",
        "provides_network",
        "template",
        "template_for_dispvms",
        "default_dispvm",
        "label",
    ];
    prop_oneof![3 => select(&with_rules[..]), 4 => select(oracle::property_names()), 1 => Just("nonsense")]
}

fn rule() -> impl Strategy<Value = String> {
    select(oracle::RULES).prop_map(|(rule, _)| rule.to_owned())
}

fn make(
    method: impl Strategy<Value = String> + 'static,
    vm: impl Strategy<Value = String> + 'static,
    argument: impl Strategy<Value = String> + 'static,
    payload: impl Strategy<Value = String> + 'static,
) -> BoxedStrategy<Call> {
    let dialect = prop_oneof![Just(Dialect::Mgmt), Just(Dialect::Admin)];
    (dialect, method, vm, argument, payload)
        .prop_map(|(dialect, method, vm, argument, payload)| Call { dialect, method, vm, argument, payload })
        .boxed()
}

fn one_of(methods: &'static [&'static str]) -> impl Strategy<Value = String> {
    select(methods).prop_map(str::to_owned)
}

fn nothing() -> Just<String> {
    Just(String::new())
}

fn dom0() -> Just<String> {
    Just("dom0".to_owned())
}

fn property_call() -> BoxedStrategy<Call> {
    let get = make(
        one_of(&["vm.property.Get", "vm.property.GetDefault"]),
        vm(),
        property().prop_map(str::to_owned),
        nothing(),
    );
    let reset = make(one_of(&["vm.property.Reset"]), vm(), property().prop_map(str::to_owned), nothing());
    let set = property().prop_flat_map(|property| {
        make(one_of(&["vm.property.Set"]), vm(), Just(property.to_owned()), value(property))
    });
    let all =
        make(one_of(&["vm.property.List", "vm.property.GetAll", "vm.List"]), vm(), nothing(), nothing());
    prop_oneof![6 => set, 2 => reset, 2 => get, 1 => all].boxed()
}

fn global_call() -> BoxedStrategy<Call> {
    let name = || select(oracle::global_names());
    let get = make(
        one_of(&["property.Get", "property.GetDefault", "property.Reset"]),
        dom0(),
        name().prop_map(str::to_owned),
        nothing(),
    );
    let set = name()
        .prop_flat_map(|name| make(one_of(&["property.Set"]), dom0(), Just(name.to_owned()), value(name)));
    let all = make(one_of(&["property.List", "property.GetAll"]), dom0(), nothing(), nothing());
    prop_oneof![4 => set, 2 => get, 1 => all].boxed()
}

fn feature_call() -> BoxedStrategy<Call> {
    let feature = || select(FEATURES).prop_map(str::to_owned);
    let set =
        make(one_of(&["vm.feature.Set"]), vm(), feature(), one_of(&["", "1", "Linux", "a b", "bad\u{1}"]));
    let others = make(
        one_of(&[
            "vm.feature.Get",
            "vm.feature.Remove",
            "vm.feature.CheckWithTemplate",
            "vm.feature.CheckWithNetvm",
            "vm.feature.CheckWithAdminVM",
            "vm.feature.CheckWithTemplateAndAdminVM",
        ]),
        vm(),
        feature(),
        nothing(),
    );
    let list = make(one_of(&["vm.feature.List"]), vm(), nothing(), nothing());
    prop_oneof![4 => set, 3 => others, 1 => list].boxed()
}

fn tag_call() -> BoxedStrategy<Call> {
    let tag = select(TAGS).prop_map(str::to_owned);
    let one =
        make(one_of(&["vm.tag.Set", "vm.tag.Set", "vm.tag.Remove", "vm.tag.Get"]), vm(), tag, nothing());
    prop_oneof![4 => one, 1 => make(one_of(&["vm.tag.List"]), vm(), nothing(), nothing())].boxed()
}

fn label_call() -> BoxedStrategy<Call> {
    let label = || select(LABELS).prop_map(str::to_owned);
    let create = make(
        one_of(&["label.Create"]),
        dom0(),
        label(),
        one_of(&["0xFFc0cb", "0x00ff00", "pink", "0xzzzzzz", "1x000000"]),
    );
    let others = make(one_of(&["label.Get", "label.Index", "label.Remove"]), dom0(), label(), nothing());
    let list = make(one_of(&["label.List"]), dom0(), nothing(), nothing());
    prop_oneof![2 => create, 3 => others, 1 => list].boxed()
}

fn firewall_call() -> BoxedStrategy<Call> {
    let id = || prop_oneof![4 => (1u32..8).prop_map(|id| id.to_string()), 2 => Just("END".to_owned()), 1 => Just("x".to_owned())];
    let insert = make(one_of(&["vm.firewall.InsertRule"]), vm(), id(), rule());
    let remove = make(one_of(&["vm.firewall.RemoveRule"]), vm(), id(), nothing());
    let plain = make(
        one_of(&["vm.firewall.List", "vm.firewall.Get", "vm.firewall.Flush", "vm.firewall.Reload"]),
        vm(),
        nothing(),
        nothing(),
    );
    let rules = proptest::collection::vec(rule(), 0..4)
        .prop_map(|rules| rules.into_iter().map(|rule| format!("{rule}\n")).collect());
    let set = make(one_of(&["vm.firewall.Set"]), vm(), nothing(), rules);
    prop_oneof![3 => insert, 2 => remove, 1 => plain, 2 => set].boxed()
}

fn notes_call() -> BoxedStrategy<Call> {
    let notes = select(oracle::NOTES).prop_map(|(sent, _)| sent.to_owned());
    let set = make(one_of(&["vm.notes.Set"]), vm(), nothing(), notes);
    prop_oneof![set, make(one_of(&["vm.notes.Get"]), vm(), nothing(), nothing())].boxed()
}

fn life_call() -> BoxedStrategy<Call> {
    let class = select(&CLASSES[..]).prop_map(|(_, name)| format!("vm.Create.{name}"));
    let template = prop_oneof![3 => one_of(&["base", "base2", "dvm"]), 1 => one_of(&["", "work", "ghost"])];
    let name = || one_of(&["new", "new2", "work", "solo", "base2", "far", "fw", "dvm", "none", "2x"]);
    let payload = (name(), one_of(&["red", "black", "pink", "mauve"]))
        .prop_map(|(name, label)| format!("name={name} label={label}"));
    let create = make(class, dom0(), template, payload);
    let app = make(
        one_of(&["vm.Create.AppVM", "vm.Create.StandaloneVM"]),
        dom0(),
        one_of(&["base", ""]),
        name().prop_map(|name| format!("name={name} label=red")),
    );
    let remove = make(one_of(&["vm.Remove"]), vm(), nothing(), nothing());
    let copy = make(one_of(&["vm.Clone"]), vm(), nothing(), name().prop_map(|name| format!("name={name}")));
    let pool = (
        name(),
        one_of(&["pool", "pool", "pool", "pool:private", "pool:root", "pool:volatile", "pool:kernel"]),
        one_of(&["extra", "extra", "second", "shared", "varlibqubes", "linux-kernel", "nowhere"]),
    );
    let in_pool = make(
        one_of(&["vm.CreateInPool.AppVM", "vm.CreateInPool.TemplateVM", "vm.CreateInPool.DispVM"]),
        dom0(),
        one_of(&["base", "", "dvm"]),
        pool.prop_map(|(name, key, pool)| format!("name={name} label=red {key}={pool}")),
    );
    let remote = make(
        one_of(&["vm.CreateInPool.RemoteVM"]),
        dom0(),
        nothing(),
        one_of(&["extra", "nowhere"]).prop_map(|pool| format!("name=far label=red pool={pool}")),
    );
    let disposable = make(
        one_of(&["vm.CreateDisposable"]),
        one_of(&["dvm", "dvm", "work", "dom0", "base"]),
        nothing(),
        nothing(),
    );
    prop_oneof![4 => create, 4 => app, 6 => remove, 4 => copy, 4 => in_pool, 1 => remote, 2 => disposable]
        .boxed()
}

/// VMs whose volumes are looked at and changed.
const WITH_VOLUMES: &[&str] = &["base", "base2", "work", "work", "dvm", "apart"];

fn with_volumes() -> impl Strategy<Value = String> {
    prop_oneof![8 => select(WITH_VOLUMES).prop_map(str::to_owned), 1 => vm()]
}

fn volume() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => Just("private".to_owned()),
        3 => Just("root".to_owned()),
        1 => one_of(&["volatile", "volatile", "kernel", "swap"]),
    ]
}

/// A verb that changes a volume, and what it is told.
fn volume_change() -> impl Strategy<Value = (String, String)> {
    let told =
        |verb: &'static str, said: BoxedStrategy<String>| said.prop_map(move |said| (verb.to_owned(), said));
    let former = || {
        let there = one_of(&["@oldest", "@newest", "@kept"]);
        prop_oneof![6 => there, 1 => one_of(&["s7", "0", "a/b", ""])].boxed()
    };
    let size = one_of(&[
        "@size",
        "1048577",
        "2147483649",
        "512",
        "4096",
        "2147483648",
        "10737418240",
        "12884901889",
        "21474836480",
        "-1",
        "007",
        "big",
        "9999999999999999999",
        "10000000000000000000",
    ]);
    let data = (one_of(&["a", "b", "c", "d", "e"]), select(&[0_usize, 1, 5, 512, 700, 1500][..]))
        .prop_map(|(byte, length)| format!("{length}\n{}", byte.repeat(length)));
    let wrong =
        one_of(&["4\nhello", "6\nhello", "hello\nhello", "007\nhello", "", "10000000000000000000\nx"]);
    let copied = (with_volumes(), volume()).prop_map(|(vm, volume)| format!("@copy {vm} {volume}"));
    prop_oneof![
        3 => told("Snapshot", nothing().boxed()),
        3 => told("Revert", former()),
        2 => told("RemoveSnapshot", former()),
        3 => told("Resize", size.boxed()),
        1 => told("Clear", nothing().boxed()),
        2 => told("Import", one_of(&["@fill p", "@fill q", "x"]).boxed()),
        5 => told("ImportWithSize", prop_oneof![4 => data, 1 => wrong].boxed()),
        4 => told("CloneTo", prop_oneof![6 => copied, 1 => one_of(&["token", ""])].boxed()),
        3 => told("Set.revisions_to_keep", {
            prop_oneof![5 => one_of(&["1", "2", "3"]), 3 => one_of(&["-1", "0", "-2", "1x", "9999999999", "01"])].boxed()
        }),
        1 => told("Set.rw", one_of(&["True", "on", "False", "maybe"]).boxed()),
        1 => told("Set.ephemeral", one_of(&["True", "0", "False", "maybe"]).boxed()),
    ]
}

fn volume_change_call() -> BoxedStrategy<Call> {
    let dialect = prop_oneof![Just(Dialect::Mgmt), Just(Dialect::Admin)];
    let by_vm = (dialect, with_volumes(), volume(), volume_change()).prop_map(
        |(dialect, vm, volume, (verb, said))| {
            // What is our own has one name; the other is refused, seldom.
            let dialect = if verb == "RemoveSnapshot" && said != "@kept" { Dialect::Mgmt } else { dialect };
            Call { dialect, method: format!("vm.volume.{verb}"), vm, argument: volume, payload: said }
        },
    );
    let by_pool = (
        with_volumes(),
        volume(),
        one_of(&["@pool", "@pool", "@pool", "@pool", "extra", "linux-kernel", "nowhere"]),
        volume_change(),
    )
        .prop_map(|(vm, volume, pool, (verb, said))| Call {
            dialect: Dialect::Mgmt,
            method: format!("pool.volume.{verb}"),
            vm: "dom0".into(),
            argument: pool,
            payload: format!("@{vm}/{volume} {said}"),
        })
        .prop_filter("only of a VM", |call| {
            ["Snapshot", "Revert", "RemoveSnapshot", "Resize"]
                .iter()
                .any(|verb| call.method.ends_with(&format!(".{verb}")))
        });
    prop_oneof![5 => by_vm, 1 => by_pool].boxed()
}

fn volume_call() -> BoxedStrategy<Call> {
    let look = make(
        one_of(&["vm.volume.Info", "vm.volume.Info", "vm.volume.ListSnapshots"]),
        with_volumes(),
        volume(),
        nothing(),
    );
    let list = make(one_of(&["vm.volume.List"]), vm(), nothing(), nothing());
    let in_pool = make(
        one_of(&["pool.volume.Info", "pool.volume.ListSnapshots"]),
        dom0(),
        one_of(&["@pool", "@pool", "varlibqubes", "linux-kernel", "nowhere"]),
        (with_volumes(), volume()).prop_map(|(vm, volume)| format!("@{vm}/{volume}")),
    );
    prop_oneof![12 => volume_change_call(), 2 => look, 1 => list, 2 => in_pool].boxed()
}

/// Pools that are added: good ones, and such as are refused.
const POOLS: &[(&str, &str)] = &[
    ("file", "name=extra\ndir_path=@dir/extra\n"),
    ("file", "name=extra\ndir_path=@dir/extra/.\nrevisions_to_keep=2\nephemeral_volatile=True\ncow=copy"),
    ("file", "name=second\ndir_path=@dir/second\nrevisions_to_keep=1\n"),
    ("file", "name=second\ndir_path=@dir/second//\nrevisions_to_keep=-1\n"),
    ("file-reflink", "name=shared\ndir_path=@dir/shared\n"),
    ("file-reflink", "name=shared\ndir_path=@dir/shared\nrevisions_to_keep=3\nsetup_check=yes"),
    ("linux-kernel", "name=kernels\ndir_path=@dir/extra/vm-kernels\n"),
    ("file", "name=third\ndir_path=@dir/extra\n"),
    ("file", "name=third\ndir_path=@dir/extra/within\n"),
    ("file-reflink", "name=third\ndir_path=@dir/state/varlibqubes\n"),
    ("file", "name=third\ndir_path=@dir/state\n"),
    ("file", "name=third\ndir_path=@dir/none/third\n"),
    ("file", "name=third\ndir_path=third\n"),
    ("file", "name=third\ndir_path=@dir/third\nrevisions_to_keep=-2\n"),
    ("file", "name=third\ndir_path=@dir/third\nephemeral_volatile=maybe\n"),
    ("file", "name=third\ndir_path=@dir/third\ncow=often\n"),
    ("file", "name=third\ndir_path=@dir/third\ncolour=red\n"),
    ("file", "name=third\n"),
    ("file", "name=third\nname=fourth\n"),
    ("file", "name=a third\ndir_path=@dir/third\n"),
    ("file", "dir_path=@dir/third\n"),
    ("file", "third"),
    ("zfs", "name=third\ndir_path=@dir/third\n"),
    ("linux-kernel", "name=third\ndir_path=@dir/third\nrevisions_to_keep=0\n"),
];

fn pool_call() -> BoxedStrategy<Call> {
    let pool = || {
        one_of(&["varlibqubes", "linux-kernel", "extra", "second", "shared", "kernels", "third", "nowhere"])
    };
    // The good ones come first.
    let add = prop_oneof![2 => select(&POOLS[..7]), 1 => select(POOLS)].prop_flat_map(|(driver, options)| {
        make(one_of(&["pool.Add"]), dom0(), Just(driver.to_owned()), Just(options.to_owned()))
    });
    let plain = make(
        one_of(&["pool.Info", "pool.UsageDetails", "pool.volume.List", "pool.Remove"]),
        dom0(),
        pool(),
        nothing(),
    );
    let keep = make(
        one_of(&["pool.Set.revisions_to_keep"]),
        dom0(),
        pool(),
        one_of(&["-1", "0", "1", "2", "-2", "x", "4294967296"]),
    );
    let ephemeral =
        make(one_of(&["pool.Set.ephemeral_volatile"]), dom0(), pool(), one_of(&["yes", "False", "maybe"]));
    let list = make(one_of(&["pool.List", "pool.ListDrivers"]), dom0(), nothing(), nothing());
    prop_oneof![4 => add, 4 => plain, 1 => keep, 1 => ephemeral, 1 => list].boxed()
}

/// A call that the daemon serves.
pub fn call(served: &'static [String]) -> BoxedStrategy<Call> {
    prop_oneof![
        10 => property_call(),
        3 => global_call(),
        3 => feature_call(),
        2 => tag_call(),
        2 => label_call(),
        4 => firewall_call(),
        1 => notes_call(),
        5 => life_call(),
        16 => volume_call(),
        4 => pool_call(),
    ]
    .prop_filter("not served yet", move |call| served.contains(&call.method))
    .boxed()
}

/// A step of a run.
pub fn step(served: &'static [String], faults: bool) -> BoxedStrategy<Step> {
    let fate = select(&[Fate::KilledBefore, Fate::KilledHalfway, Fate::KilledAfter][..]);
    // Whose name it is that the daemon chose, nobody could say afterwards.
    let interruptible =
        call(served).prop_filter("it chooses a name", |call| call.method != "vm.CreateDisposable");
    let on = select(&[On::Any, On::Write, On::Sync][..]);
    let during = (proptest::collection::vec(interruptible, 1..4), on, 1u32..10, fate)
        .prop_map(|(calls, on, nth, fate)| Step::KillDuring(calls, on, nth, fate));
    // The steps of what changes files: their names, and syncs.
    let of_volumes = prop_oneof![6 => volume_change_call(), 1 => life_call(), 1 => pool_call()]
        .prop_filter("it chooses a name", |call| call.method != "vm.CreateDisposable");
    let of_volumes = (proptest::collection::vec(of_volumes, 1..3), 1u32..14)
        .prop_map(|(calls, nth)| Step::KillDuring(calls, On::Step, nth, Fate::KilledBefore));
    let calls = call(served).prop_map(Step::Call);
    if faults {
        let during = prop_oneof![during, of_volumes];
        prop_oneof![40 => calls, 1 => Just(Step::Restart), 1 => Just(Step::Kill), 4 => during].boxed()
    } else {
        prop_oneof![40 => calls, 1 => Just(Step::Restart), 2 => Just(Step::Kill)].boxed()
    }
}
