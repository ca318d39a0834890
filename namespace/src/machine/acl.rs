//! POSIX access control lists (POSIX 1003.1e, draft 17), as Linux keeps them: in two extended attributes, of
//! which the access list and the permission bits are one and the same thing seen twice.
//!
//! 1. What the permission bits say of owner, group class and others is what the access list says
//!    (`bits_and_list_agree`). A list that says no more than the bits is not kept.
//! 2. A new inode has no more rights than its creator asked for (`heirs_get_no_more_than_was_asked_for`).

use bytes::Bytes;
use wire::id::Ino;
use wire::meta::{ACL_ACCESS, ACL_DEFAULT, FileKind, FsReply, NewInode, What};
use wire::status::FsError;

use crate::machine::files::changed;
use crate::machine::journal;
use crate::machine::txn::{Do, Txn};
use crate::machine::xattrs;
use crate::store::keys;
use crate::store::records::Inode;

/// Version of the attributes' format, the kernel's only one.
const VERSION: u32 = 2;
const HEAD_BYTES: usize = 4;
const ENTRY_BYTES: usize = 8;
/// Of entries that name nobody.
const NO_ID: u32 = u32::MAX;

const OWNER: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OWNER: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// A list. Rights are the three lowest bits: 4 read, 2 write, 1 execute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acl {
    owner: u16,
    /// By number, ascending.
    users: Vec<(u32, u16)>,
    group: u16,
    /// By number, ascending.
    groups: Vec<(u32, u16)>,
    /// Most that named users, the group and named groups get; there if any is named.
    mask: Option<u16>,
    other: u16,
}

impl Acl {
    /// Reads an attribute's value; `None`: an empty list.
    ///
    /// # Errors
    /// [`FsError::Invalid`] if it is none, or breaks the rules of lists.
    pub fn decode(value: &[u8]) -> Result<Option<Acl>, FsError> {
        if value.is_empty() {
            return Ok(None);
        }
        let (head, rest) = value.split_first_chunk::<HEAD_BYTES>().ok_or(FsError::Invalid)?;
        if u32::from_le_bytes(*head) != VERSION {
            return Err(FsError::NotSupported);
        }
        let (entries, more) = rest.as_chunks::<ENTRY_BYTES>();
        if !more.is_empty() {
            return Err(FsError::Invalid);
        }
        if entries.is_empty() {
            return Ok(None);
        }
        let (mut owner, mut group, mut mask, mut other) = (None, None, None, None);
        let (mut users, mut groups) = (Vec::new(), Vec::new());
        // Each kind after the one before it; of the named ones there may be many.
        let mut last = 0;
        for [t0, t1, r0, r1, i0, i1, i2, i3] in entries {
            let tag = u16::from_le_bytes([*t0, *t1]);
            let rights = u16::from_le_bytes([*r0, *r1]);
            let id = u32::from_le_bytes([*i0, *i1, *i2, *i3]);
            if rights & !7 != 0 {
                return Err(FsError::Invalid);
            }
            if tag < last || (tag == last && !matches!(tag, USER | GROUP)) {
                return Err(FsError::Invalid);
            }
            last = tag;
            match tag {
                OWNER => owner = Some(rights),
                USER | GROUP if id == NO_ID => return Err(FsError::Invalid),
                USER => users.push((id, rights)),
                GROUP_OWNER => group = Some(rights),
                GROUP => groups.push((id, rights)),
                MASK => mask = Some(rights),
                OTHER => other = Some(rights),
                _ => return Err(FsError::Invalid),
            }
        }
        let (Some(owner), Some(group), Some(other)) = (owner, group, other) else {
            return Err(FsError::Invalid);
        };
        if mask.is_none() && !(users.is_empty() && groups.is_empty()) {
            return Err(FsError::Invalid);
        }
        users.sort_by_key(|(id, _)| *id);
        groups.sort_by_key(|(id, _)| *id);
        Ok(Some(Acl { owner, users, group, groups, mask, other }))
    }

    /// The attribute's value.
    pub fn encode(&self) -> Bytes {
        let mut out = VERSION.to_le_bytes().to_vec();
        let mut push = |tag: u16, rights: u16, id: u32| {
            out.extend_from_slice(&tag.to_le_bytes());
            out.extend_from_slice(&rights.to_le_bytes());
            out.extend_from_slice(&id.to_le_bytes());
        };
        push(OWNER, self.owner, NO_ID);
        self.users.iter().for_each(|(id, rights)| push(USER, *rights, *id));
        push(GROUP_OWNER, self.group, NO_ID);
        self.groups.iter().for_each(|(id, rights)| push(GROUP, *rights, *id));
        if let Some(mask) = self.mask {
            push(MASK, mask, NO_ID);
        }
        push(OTHER, self.other, NO_ID);
        out.into()
    }

    /// The permission bits that say the same: the group's are the mask, if there is one.
    pub fn mode(&self) -> u16 {
        self.owner << 6 | self.mask.unwrap_or(self.group) << 3 | self.other
    }

    /// Whether the permission bits say all of it.
    pub fn is_bits(&self) -> bool {
        self.mask.is_none()
    }

    /// Follows a `chmod`.
    pub fn set_mode(&mut self, mode: u16) {
        self.owner = mode >> 6 & 7;
        *self.mask.as_mut().unwrap_or(&mut self.group) = mode >> 3 & 7;
        self.other = mode & 7;
    }

    /// The access list of something made, with these permission bits asked for, in a directory that has this
    /// default list.
    pub fn inherited(&self, mode: u16) -> Acl {
        let mut heir = self.clone();
        heir.set_mode(self.mode() & mode);
        heir
    }
}

fn load(txn: &Txn<'_>, ino: Ino, inode: &Inode, name: &[u8]) -> Do<Option<Acl>> {
    if inode.xattrs == 0 {
        return Ok(None);
    }
    let value: Option<Bytes> = txn.load(&keys::xattr(ino, name))?;
    Ok(value.map(|value| Acl::decode(&value)).transpose()?.flatten())
}

fn keep(txn: &mut Txn<'_>, ino: Ino, inode: &mut Inode, name: &[u8], acl: &Acl) -> Do<()> {
    xattrs::put(txn, ino, inode, name, &acl.encode())
}

/// Whether an attribute is a list.
pub fn is_acl(name: &[u8]) -> bool {
    name == ACL_ACCESS || name == ACL_DEFAULT
}

/// Sets a list; an empty one removes it.
pub fn set(txn: &mut Txn<'_>, ino: Ino, name: &[u8], value: &[u8]) -> Do<FsReply> {
    let mut inode = txn.inode(ino)?;
    if inode.kind == FileKind::Symlink {
        return Err(FsError::NotSupported.into());
    }
    let acl = Acl::decode(value)?;
    match (&acl, name == ACL_DEFAULT) {
        (Some(_), true) if inode.kind != FileKind::Directory => return Err(FsError::NotPermitted.into()),
        (Some(acl), false) => inode.mode = inode.mode & 0o7000 | acl.mode(),
        _ => {}
    }
    changed(&mut inode, txn.at);
    match acl.filter(|acl| name == ACL_DEFAULT || !acl.is_bits()) {
        Some(acl) => keep(txn, ino, &mut inode, name, &acl)?,
        None => drop(xattrs::take(txn, ino, &mut inode, name)?),
    }
    txn.put_inode(ino, &inode)?;
    journal::note_inode(txn, ino, inode.kind, What::SetXattr)?;
    Ok(FsReply::Done)
}

/// Has the access list follow the permission bits of an inode that the caller writes.
pub fn follow_mode(txn: &mut Txn<'_>, ino: Ino, inode: &mut Inode) -> Do<()> {
    if let Some(mut acl) = load(txn, ino, inode, ACL_ACCESS)? {
        acl.set_mode(inode.mode);
        keep(txn, ino, inode, ACL_ACCESS, &acl)?;
    }
    Ok(())
}

/// Permission bits of something new in a directory, and the lists that it gets: access, default.
pub fn heritage(
    txn: &Txn<'_>,
    (parent, dir): (Ino, &Inode),
    new: &NewInode,
    kind: FileKind,
) -> Do<(u16, [Option<Acl>; 2])> {
    let mode = new.mode & 0o7777;
    if kind == FileKind::Symlink {
        return Ok((mode, [None, None]));
    }
    let Some(default) = load(txn, parent, dir, ACL_DEFAULT)? else {
        return Ok((mode & !(new.umask & 0o777), [None, None]));
    };
    let access = default.inherited(mode);
    let mode = mode & 0o7000 | access.mode();
    let for_heirs = (kind == FileKind::Directory).then_some(default);
    Ok((mode, [Some(access).filter(|acl| !acl.is_bits()), for_heirs]))
}

/// Gives a new inode, which the caller writes, its lists.
pub fn bequeath(txn: &mut Txn<'_>, ino: Ino, inode: &mut Inode, lists: [Option<Acl>; 2]) -> Do<()> {
    for (name, acl) in [ACL_ACCESS, ACL_DEFAULT].into_iter().zip(lists) {
        if let Some(acl) = acl {
            keep(txn, ino, inode, name, &acl)?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::collection::btree_map;
    use proptest::prelude::*;

    use super::*;

    fn any_acl() -> impl Strategy<Value = Acl> {
        let named =
            || btree_map(0..NO_ID, 0..8u16, 0..4).prop_map(|named| named.into_iter().collect::<Vec<_>>());
        (0..8u16, named(), 0..8u16, named(), proptest::option::of(0..8u16), 0..8u16).prop_map(
            |(owner, users, group, groups, mask, other)| {
                let named = !(users.is_empty() && groups.is_empty());
                Acl { owner, users, group, groups, mask: if named { mask.or(Some(7)) } else { mask }, other }
            },
        )
    }

    proptest! {
        #[test]
        fn lists_survive_their_attribute(acl in any_acl()) {
            prop_assert_eq!(Acl::decode(&acl.encode()).unwrap(), Some(acl));
        }

        #[test]
        fn bits_and_list_agree(mut acl in any_acl(), mode in 0..0o1000u16) {
            let (group, named) = (acl.group, (acl.users.clone(), acl.groups.clone()));
            acl.set_mode(mode);
            prop_assert_eq!(acl.mode(), mode);
            prop_assert_eq!((acl.users.clone(), acl.groups.clone()), named);
            prop_assert!(acl.mask.is_none() || acl.group == group);
        }

        #[test]
        fn heirs_get_no_more_than_was_asked_for(acl in any_acl(), mode in 0..0o1000u16) {
            let heir = acl.inherited(mode);
            prop_assert_eq!(heir.mode() & !mode, 0);
            prop_assert_eq!(heir.mode() & !acl.mode(), 0);
            prop_assert_eq!((&heir.users, &heir.groups), (&acl.users, &acl.groups));
            prop_assert_eq!(acl.inherited(0o777), acl);
        }

        #[test]
        fn no_bytes_are_too_strange(mut bytes in proptest::collection::vec(any::<u8>(), 0..60), version in any::<bool>()) {
            if version && bytes.len() >= 4 {
                bytes[..4].copy_from_slice(&VERSION.to_le_bytes());
            }
            if let Ok(Some(acl)) = Acl::decode(&bytes) {
                // Ids of entries that name nobody are not looked at, as in the kernel.
                prop_assert_eq!(Acl::decode(&acl.encode()).unwrap(), Some(acl));
            }
        }
    }

    /// What breaks the rules of lists is refused.
    #[test]
    fn broken_lists_are_refused() {
        let good =
            Acl { owner: 7, users: vec![(5, 6)], group: 5, groups: vec![(9, 4)], mask: Some(6), other: 0 };
        let value = good.encode();
        let entries: Vec<[u8; ENTRY_BYTES]> = value[HEAD_BYTES..].as_chunks().0.to_vec();
        let with = |entries: &[[u8; ENTRY_BYTES]]| [&value[..HEAD_BYTES], entries.as_flattened()].concat();
        assert_eq!(Acl::decode(&with(&entries)), Ok(Some(good)));
        assert_eq!(Acl::decode(&with(&[])), Ok(None));
        for left_out in [0, 2, 4, 5] {
            let mut fewer = entries.clone();
            fewer.remove(left_out);
            assert_eq!(Acl::decode(&with(&fewer)), Err(FsError::Invalid), "without entry {left_out}");
        }
        for at in 0..entries.len() {
            let mut twice = entries.clone();
            twice.insert(at, entries[at]);
            let named = at == 1 || at == 3;
            assert_eq!(Acl::decode(&with(&twice)).is_err(), !named, "entry {at} twice");
            let mut more = entries.clone();
            more[at][2] = 8;
            assert_eq!(Acl::decode(&with(&more)), Err(FsError::Invalid), "rights of entry {at}");
        }
        let mut turned = entries.clone();
        turned.swap(0, 1);
        assert_eq!(Acl::decode(&with(&turned)), Err(FsError::Invalid));
        assert_eq!(Acl::decode(&value[..value.len() - 1]), Err(FsError::Invalid));
        let mut newer = value.to_vec();
        newer[0] = 3;
        assert_eq!(Acl::decode(&newer), Err(FsError::NotSupported));
    }
}
