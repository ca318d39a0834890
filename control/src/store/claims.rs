//! How a job gets its number without a master.
//!
//! `jobs/ids/` is a directory everybody may make files in and nobody may remove others' from (mode 1777). A number is claimed by
//! creating the file of that name exclusively: the kernel lets exactly one win, and the file's owner says who. The
//! claim stays until the number is used up for good, so a number is never given out twice, whoever crashes where.
//!
//! `jobs/first-id`, written by the master alone, says below which number all are used up: accepted in the journal, or
//! abandoned there because the claim got older than an hour. Only then claims below it are removed, so the directory stays small.
//! A claimer that read an old `first-id` might create a claim again that was just removed; so it looks at `first-id` once
//! more after creating its claim and starts over when the number is below it.
//!
//! What a hostile user can do: claim numbers (others skip them, in logarithmic time, and the numbers come back into line
//! when the claims get old), or fill the disk, as anywhere. What he can't: take a number from somebody, move the
//! counter back, make it jump (a number must be within a million of `first-id`), or hold a lock everybody needs.
//!
//! 1. Concurrent claimers get different numbers. `claimers_at_the_same_time_get_different_numbers`
//! 2. A number below `first-id` is never claimed. `a_used_up_number_is_never_claimed_again`

use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use crate::config::ID_WINDOW;
use crate::error::{At, Error, Result};
use crate::layout::{Layout, exists};
use crate::plan::JobId;
use crate::plan::ids::plain_number;
use crate::store::disk::{self, Disk};

/// Name of the file with the first number that may be free.
const FIRST_ID: &str = "first-id";
/// How often a claim is tried before giving up.
const ATTEMPTS_MAX: u32 = 10_000;

/// The number below which all are used up.
pub(crate) fn first_id(layout: &Layout) -> Result<u64> {
    let path = layout.jobs().join(FIRST_ID);
    let found = match disk::read_bounded(&path, 64) {
        Err(e) if e.is_not_found() => return Ok(1),
        other => other?,
    };
    let text = String::from_utf8_lossy(&found.bytes);
    plain_number(text.trim()).ok_or_else(|| Error::Format { path, reason: "it isn't a number".into() })
}

/// Publishes that all numbers below `first` are used up, durably. For the master.
pub(crate) fn set_first_id(disk: &Disk, layout: &Layout, first: u64) -> Result<()> {
    disk.publish(&layout.jobs(), FIRST_ID, format!("{first}\n").as_bytes(), 0o644)?;
    disk.sync_dir(&layout.jobs())
}

/// Claims a number nobody had. It is durable once `jobs/ids` is synced.
///
/// # Errors
/// When the directory can't be written, or all numbers of the window are claimed.
pub(crate) fn claim(layout: &Layout) -> Result<JobId> {
    let ids = layout.ids();
    let mut from = first_id(layout)?;
    for _ in 0..ATTEMPTS_MAX {
        let id = first_unclaimed(layout, from)?;
        let path = ids.join(id.to_string());
        let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path);
        match made {
            Ok(_) => {
                from = first_id(layout)?;
                if id >= from {
                    return Ok(JobId(id));
                }
                std::fs::remove_file(&path).at("remove", &path)?;
            }
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => from = id + 1,
            Err(e) => return Err(e).at("create", &path),
        }
    }
    Err(Error::Config("no job number could be claimed: too many submissions at once, try again".into()))
}

/// A number from `from` on that isn't claimed, found by doubling the step and halving it again.
fn first_unclaimed(layout: &Layout, from: u64) -> Result<u64> {
    let ids = layout.ids();
    let claimed = |n: u64| exists(&ids.join(n.to_string()));
    if !claimed(from)? {
        return Ok(from);
    }
    let (mut taken, mut step) = (from, 1u64);
    let mut free = loop {
        let probe = taken + step;
        if probe >= from + ID_WINDOW {
            return Err(Error::Config(format!(
                "all job numbers from {from} on are claimed; an administrator may look into {}",
                ids.display()
            )));
        }
        if !claimed(probe)? {
            break probe;
        }
        taken = probe;
        step *= 2;
    };
    while free - taken > 1 {
        let middle = taken + (free - taken) / 2;
        if claimed(middle)? {
            taken = middle;
        } else {
            free = middle;
        }
    }
    Ok(free)
}

/// Who claimed a number and when (seconds since 1970), if it is claimed.
pub(crate) fn claimer(layout: &Layout, id: JobId) -> Result<Option<(u32, i64)>> {
    let path = layout.ids().join(id.to_string());
    match std::fs::symlink_metadata(&path) {
        Ok(meta) => Ok(Some((meta.uid(), meta.ctime()))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).at("stat", &path),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::layout::tests::cluster;
    use std::collections::BTreeSet;

    #[test]
    fn claimers_at_the_same_time_get_different_numbers() {
        let (_dir, layout) = cluster();
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let layout = layout.clone();
                std::thread::spawn(move || (0..50).map(|_| claim(&layout).unwrap().0).collect::<Vec<_>>())
            })
            .collect();
        let all: Vec<u64> = threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 200);
    }

    #[test]
    fn numbers_begin_with_one_and_follow_each_other() {
        let (_dir, layout) = cluster();
        assert_eq!([1, 2, 3].map(|_| claim(&layout).unwrap().0), [1, 2, 3]);
    }

    #[test]
    fn a_used_up_number_is_never_claimed_again() {
        let (_dir, layout) = cluster();
        for _ in 0..5 {
            claim(&layout).unwrap();
        }
        set_first_id(&Disk::default(), &layout, 6).unwrap();
        for n in 1..6 {
            std::fs::remove_file(layout.ids().join(n.to_string())).unwrap();
        }
        assert_eq!(claim(&layout).unwrap(), JobId(6));
    }

    #[test]
    fn scattered_hostile_claims_are_stepped_over() {
        let (_dir, layout) = cluster();
        for n in (1..100).chain([107, 115, 131]) {
            std::fs::write(layout.ids().join(n.to_string()), b"").unwrap();
        }
        std::fs::create_dir(layout.ids().join("100")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", layout.ids().join("101")).unwrap();
        let id = claim(&layout).unwrap().0;
        assert!(id >= 102 && ![107, 115, 131].contains(&id), "{id}");
    }

    #[test]
    fn a_damaged_first_id_is_refused() {
        let (_dir, layout) = cluster();
        std::fs::write(layout.jobs().join(FIRST_ID), b"-3\n").unwrap();
        assert!(claim(&layout).is_err());
    }
}
