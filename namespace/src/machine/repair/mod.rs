//! Mending what a survey ([`crate::verify`]) found wrong, while the filesystem is in use.
//!
//! 1. What is done follows from the state in the moment it is done, never from a report of an earlier one: a flaw names what is to
//!    be looked at, and where it counts what no command could count again, it carries what shows that the count still holds
//!    (`a_flaw_of_the_past_changes_nothing`).
//! 2. A flaw is mended wholly or left alone, by one command, on every member alike (`each_flaw_is_mended`).
//! 3. No inode goes, and none changes its content, size, layout, owner or mode. What has lost its place is taken to
//!    [`LOST_FOUND`]; what is doubtful stays as it is (`random_damage_is_mended_and_loses_no_file`).
//! 4. A record that can't be read is never written over, nor is anything done that depends on it
//!    (`what_cannot_be_read_is_left_alone`).
//! 5. Names of an inode, and entries of a directory, come and go with its `ctime` only, which strictly grows. The rest of the machine keeps
//!    that, and so does this (`a_flaw_of_the_past_changes_nothing`).
//!
//! Not here: looking for flaws; chunks.

mod counts;
mod entries;
pub mod flaw;
mod held;
mod numbers;

use serde::{Deserialize, Serialize};
use wire::id::{DirCookie, Ino};
use wire::meta::{FileKind, MAX_LINKS, Name, NewInode, What};
use wire::status::{FsError, Status};

use crate::error::Error;
use crate::machine::command::Outcome;
use crate::machine::files::{changed, modified};
use crate::machine::txn::{Do, Fail, Txn};
use crate::machine::{dirs, journal};
use crate::store::records::{Entry, Inode, Listed};
use crate::store::{Read, keys};

pub use flaw::Flaw;

/// What takes what has lost its place, in the root.
pub const LOST_FOUND: &[u8] = b"lost+found";
/// Places of listings beyond this one are none that were given: the kernel's are 63 bits.
pub const MOST_COOKIE: u64 = 1 << 62;
/// Numbers that are so far beyond the last one given were never given, nor will be.
pub const MOST_AHEAD: u64 = 1 << 44;
/// Names tried for what is taken to [`LOST_FOUND`].
const NAMES_TRIED: u32 = 16;

/// Something that was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mended {
    /// What, in words.
    pub what: String,
    /// What has the path that tells where.
    pub at: Option<Ino>,
}

/// What was done so far by a command.
type Done = Vec<Mended>;

fn tell(done: &mut Done, at: Ino, what: String) {
    done.push(Mended { what, at: Some(at) });
}

fn tell_of_none(done: &mut Done, what: String) {
    done.push(Mended { what, at: None });
}

/// Looks again at what was found wrong, and mends it if it is. Nothing done is no error.
pub fn mend(txn: &mut Txn<'_>, flaw: &Flaw) -> Do<Outcome> {
    let mut done = Done::new();
    let mended = match flaw {
        Flaw::LostFound => make_lost_found(txn, &mut done),
        Flaw::NextIno(ino) => numbers::next_ino(txn, *ino, &mut done),
        Flaw::Dir(lost) => entries::make_anew(txn, lost, &mut done),
        Flaw::Entry { parent, name } => entries::entry(txn, *parent, name, &mut done),
        Flaw::Listed { parent, cookie, short } => entries::listed(txn, *parent, *cookie, *short, &mut done),
        Flaw::Place { ino, named } => entries::place(txn, *ino, named.as_ref(), &mut done),
        Flaw::Orphan(ino) => counts::orphan(txn, *ino, &mut done),
        Flaw::Xattrs(ino) => counts::xattrs(txn, *ino, &mut done),
        Flaw::Inode(ino) => counts::inode(txn, *ino, &mut done),
        Flaw::Extra { ino, name, keep } => counts::extra(txn, *ino, name, keep.as_ref(), &mut done),
        Flaw::Names(count) => counts::names(txn, count, &mut done),
        Flaw::Loop { ino, name } => counts::ring(txn, *ino, name, &mut done),
        Flaw::Holds { session, ino } => held::holds(txn, *session, *ino, &mut done),
        Flaw::Locks(ino) => held::locks(txn, *ino, &mut done),
        Flaw::LockGeneration(ino) => held::generation(txn, *ino, &mut done),
        Flaw::Recalled { session, ino } => held::recalled(txn, *session, *ino, &mut done),
        Flaw::Session(session) => held::session(txn, *session, &mut done),
        Flaw::Writer { ino, session } => held::writer(txn, *ino, *session, &mut done),
        Flaw::Cut(ino) => held::cut(txn, *ino, &mut done),
        Flaw::Trim(ino) => numbers::trim(txn, *ino, &mut done),
        Flaw::Journal { first, next } => numbers::journal(txn, *first, *next, &mut done),
        Flaw::OldChanges(_) => numbers::old_changes(txn, &mut done),
        Flaw::Change { dir, index } => numbers::change(txn, *dir, *index, &mut done),
        Flaw::Tally(tally) => numbers::tally(txn, tally, &mut done),
    };
    match mended {
        Ok(()) => Ok(Outcome::Mended(done)),
        // What can't be read is told by the survey. Here it stops this command only.
        Err(Fail::Store(Error::Corrupt { .. })) => Err(Status::Malformed.into()),
        Err(fail) => Err(fail),
    }
}

/// The name of [`LOST_FOUND`].
fn lost_found_name() -> Do<Name> {
    Ok(Name::new(LOST_FOUND).map_err(|_| Status::Malformed)?)
}

/// Where what has lost its place goes, if it is there.
///
/// # Errors
/// If the disk fails or a record is not one.
pub fn lost_found(state: &dyn Read) -> Result<Option<Ino>, Error> {
    let Ok(name) = Name::new(LOST_FOUND) else { return Ok(None) };
    let entry: Option<Entry> = crate::machine::txn::load(state, &keys::entry(Ino::ROOT, &name))?;
    Ok(entry.filter(|entry| entry.kind == FileKind::Directory).map(|entry| entry.ino))
}

fn make_lost_found(txn: &mut Txn<'_>, done: &mut Done) -> Do<()> {
    let name = lost_found_name()?;
    if txn.entry(Ino::ROOT, &name)?.is_some() {
        return Ok(());
    }
    let new = NewInode { mode: 0o700, umask: 0, uid: 0, gid: 0 };
    let (ino, _) = dirs::make(txn, Ino::ROOT, &name, &new, FileKind::Directory, |_| {})?;
    tell(done, ino, "a directory was made for what has lost its place".to_owned());
    Ok(())
}

/// Gives an inode that has no name one in [`LOST_FOUND`]. The caller writes the inode, and says what is in it.
fn keep(txn: &mut Txn<'_>, ino: Ino, inode: &mut Inode, done: &mut Done) -> Do<()> {
    let parent = lost_found(txn)?.ok_or(FsError::NotFound)?;
    let mut dir = txn.live_dir(parent)?;
    let mut name = None;
    for number in 1..=NAMES_TRIED {
        let text = if number == 1 { format!("#{ino}") } else { format!("#{ino}-{number}") };
        let free = Name::new(text.into_bytes()).map_err(|_| Status::Malformed)?;
        if txn.get(&keys::entry(parent, &free))?.is_none() {
            name = Some(free);
            break;
        }
    }
    let name = name.ok_or(FsError::Exists)?;
    let what = if inode.kind == FileKind::Directory {
        if dir.nlink >= MAX_LINKS {
            return Err(FsError::TooManyLinks.into());
        }
        dir.nlink += 1;
        inode.parent = parent;
        What::Mkdir
    } else {
        inode.nlink = 1;
        What::Link
    };
    unmark(txn, ino)?;
    ensure_free_place(txn, parent, &mut dir)?;
    dirs::add_name(txn, parent, &mut dir, &name, ino, inode.kind)?;
    modified(&mut dir, txn.at);
    txn.put_inode(parent, &dir)?;
    changed(inode, txn.at);
    journal::note(txn, parent, &name, (ino, inode.kind), what)?;
    tell(
        done,
        ino,
        format!("inode {ino} had no name any more, and is kept as {}", String::from_utf8_lossy(LOST_FOUND)),
    );
    Ok(())
}

/// An inode has a name: it is not to be freed. Whether it was to be.
fn unmark(txn: &mut Txn<'_>, ino: Ino) -> Do<bool> {
    if txn.get(&keys::orphan(ino))?.is_none() {
        return Ok(false);
    }
    txn.delete(keys::orphan(ino));
    txn.counters.orphans = txn.counters.orphans.saturating_sub(1);
    Ok(true)
}

/// The next place of a directory's listing becomes one that nothing has.
fn ensure_free_place(txn: &Txn<'_>, parent: Ino, dir: &mut Inode) -> Do<()> {
    dir.next_cookie = dir.next_cookie.max(crate::machine::FIRST_COOKIE);
    while dir.next_cookie.0 < MOST_COOKIE && txn.get(&keys::listed(parent, dir.next_cookie))?.is_some() {
        dir.next_cookie = DirCookie(dir.next_cookie.0 + 1);
    }
    if dir.next_cookie.0 >= MOST_COOKIE { Err(FsError::NoSpace.into()) } else { Ok(()) }
}

/// Takes a name out of its directory, which the caller writes: out of the listing only where that has it.
fn take_name(txn: &mut Txn<'_>, parent: Ino, dir: &mut Inode, name: &Name, entry: &Entry) -> Do<()> {
    txn.delete(keys::entry(parent, name));
    let listed: Option<Listed> = txn.load(&keys::listed(parent, entry.cookie))?;
    if listed.is_some_and(|listed| listed.name == *name) {
        txn.delete(keys::listed(parent, entry.cookie));
    }
    dir.size = dir.size.saturating_sub(1);
    if entry.kind == FileKind::Directory && dir.nlink > 2 {
        dir.nlink -= 1;
    }
    dirs::leave_place(txn, parent, entry)
}
