//! Listings while the directory changes.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use wire::id::DirCookie;
use wire::meta::RenameMode;

use crate::harness::{ROOT, World};

#[derive(Debug, Clone)]
enum Change {
    Make(u8),
    Remove(u8),
    Rename(u8, u8),
    /// A new file takes the place of one of the names that stay.
    ReplaceStable(u8),
    ExchangeStable(u8, u8),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => (0u8..20).prop_map(Change::Make),
        3 => (0u8..20).prop_map(Change::Remove),
        2 => (0u8..20, 0u8..20).prop_map(|(a, b)| Change::Rename(a, b)),
        1 => (0u8..10).prop_map(Change::ReplaceStable),
        1 => (0u8..10, 0u8..10).prop_map(|(a, b)| Change::ExchangeStable(a, b)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Names that exist all the while come exactly once, though
    /// others come and go between the pages.
    #[test]
    fn listings_skip_and_double_nothing(
        changes in prop::collection::vec(prop::collection::vec(change(), 0..6), 1..30),
        page in 1u32..5,
    ) {
        let mut world = World::new();
        let dir = world.mkdir(ROOT, "dir");
        for stable in 0..10 {
            world.file(dir, &format!("stable{stable}"));
            world.file(dir, &format!("v{stable}"));
        }
        let mut seen: BTreeMap<String, u32> = BTreeMap::new();
        let mut after = DirCookie(0);
        let mut rounds = changes.into_iter();
        loop {
            let (entries, end) = world.page(dir, after, page);
            prop_assert!(entries.len() <= page as usize);
            for entry in entries {
                prop_assert!(entry.cookie > after);
                prop_assert_eq!(entry.attr.unwrap().ino, entry.ino);
                after = entry.cookie;
                *seen.entry(entry.name.to_string()).or_default() += 1;
            }
            if end {
                break;
            }
            for change in rounds.next().unwrap_or_default() {
                // Whether a change is possible depends on the ones before; either is fine.
                let _ = match change {
                    Change::Make(a) => {
                        if world.lookup(dir, &format!("v{a}")).is_err() {
                            world.file(dir, &format!("v{a}"));
                        }
                        Ok(())
                    }
                    Change::Remove(a) => world.unlink(dir, &format!("v{a}")),
                    Change::Rename(a, b) => {
                        world.rename((dir, &format!("v{a}")), (dir, &format!("v{b}")), RenameMode::Replace)
                    }
                    Change::ReplaceStable(a) => {
                        world.rename((dir, &format!("v{a}")), (dir, &format!("stable{a}")), RenameMode::Replace)
                    }
                    Change::ExchangeStable(a, b) => world.rename(
                        (dir, &format!("stable{a}")),
                        (dir, &format!("stable{b}")),
                        RenameMode::Exchange,
                    ),
                };
            }
        }
        let stable: BTreeSet<String> = (0..10).map(|i| format!("stable{i}")).collect();
        for name in &stable {
            prop_assert_eq!(seen.get(name), Some(&1), "{}", name);
        }
        world.sound();
    }
}

/// A loop that renames every file it lists ends, each file being seen once.
#[test]
fn renaming_what_is_listed_ends() {
    let mut world = World::new();
    for i in 0..50 {
        world.file(ROOT, &format!("f{i}"));
    }
    let mut after = DirCookie(0);
    let mut renamed = 0;
    loop {
        let (entries, end) = world.page(ROOT, after, 3);
        for entry in entries {
            after = entry.cookie;
            let from = entry.name.to_string();
            world.rename((ROOT, &from), (ROOT, &format!("{from}.bak")), RenameMode::NoReplace).unwrap();
            renamed += 1;
        }
        if end {
            break;
        }
    }
    assert_eq!(renamed, 50);
}
