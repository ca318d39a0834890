//! Extended attributes.

use wire::id::Ino;
use wire::meta::{FsReply, MAX_XATTR_LIST_BYTES, MAX_XATTR_VALUE_BYTES, OWN_XATTRS, What, XattrMode};
use wire::status::FsError;

use crate::machine::acl;
use crate::machine::files::changed;
use crate::machine::journal;
use crate::machine::txn::{Do, Txn};
use crate::store::records::Inode;
use crate::store::{Read, keys};

/// Longest name, in bytes (Linux's own limit).
const MAX_XATTR_NAME_BYTES: usize = 255;
/// What names may begin with. Who may use which is checked by the kernel that asks.
const PREFIXES: [&[u8]; 4] = [b"user.", b"trusted.", b"security.", b"system."];

/// Whether a name can be an attribute's.
pub fn check_name(name: &[u8]) -> Result<(), FsError> {
    if name.is_empty() || name.len() > MAX_XATTR_NAME_BYTES || name.contains(&0) {
        return Err(FsError::Invalid);
    }
    match PREFIXES.iter().find(|p| name.starts_with(p)) {
        None => Err(FsError::NotSupported),
        Some(prefix) if prefix.len() == name.len() => Err(FsError::Invalid),
        Some(_) => Ok(()),
    }
}

/// Sets an attribute.
pub fn set(txn: &mut Txn<'_>, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Do<FsReply> {
    check_name(name)?;
    if name.starts_with(OWN_XATTRS) {
        return Err(FsError::NotPermitted.into());
    }
    if acl::is_acl(name) {
        return acl::set(txn, ino, name, value);
    }
    let mut inode = txn.inode(ino)?;
    match (txn.get(&keys::xattr(ino, name))?.is_some(), mode) {
        (true, XattrMode::Create) => return Err(FsError::Exists.into()),
        (false, XattrMode::Replace) => return Err(FsError::NoAttribute.into()),
        _ => {}
    }
    put(txn, ino, &mut inode, name, value)?;
    changed(&mut inode, txn.at);
    txn.put_inode(ino, &inode)?;
    journal::note_inode(txn, ino, inode.kind, What::SetXattr)?;
    Ok(FsReply::Done)
}

/// Removes an attribute.
pub fn remove(txn: &mut Txn<'_>, ino: Ino, name: &[u8]) -> Do<FsReply> {
    check_name(name)?;
    if acl::is_acl(name) {
        return acl::set(txn, ino, name, &[]);
    }
    let mut inode = txn.inode(ino)?;
    if !take(txn, ino, &mut inode, name)? {
        return Err(FsError::NoAttribute.into());
    }
    changed(&mut inode, txn.at);
    txn.put_inode(ino, &inode)?;
    journal::note_inode(txn, ino, inode.kind, What::SetXattr)?;
    Ok(FsReply::Done)
}

/// Writes an attribute of an inode that the caller writes.
pub fn put(txn: &mut Txn<'_>, ino: Ino, inode: &mut Inode, name: &[u8], value: &[u8]) -> Do<()> {
    if value.len() > MAX_XATTR_VALUE_BYTES {
        return Err(FsError::AttributeTooLarge.into());
    }
    let key = keys::xattr(ino, name);
    if txn.get(&key)?.is_none() {
        let list = inode.xattr_list_bytes as usize + name.len() + 1;
        if list > MAX_XATTR_LIST_BYTES {
            return Err(FsError::AttributeTooLarge.into());
        }
        inode.xattr_list_bytes = list as u32;
        inode.xattrs += 1;
    }
    txn.put(key, &bytes::Bytes::copy_from_slice(value))
}

/// Takes an attribute from an inode that the caller writes; whether there was one.
pub fn take(txn: &mut Txn<'_>, ino: Ino, inode: &mut Inode, name: &[u8]) -> Do<bool> {
    let key = keys::xattr(ino, name);
    if txn.get(&key)?.is_none() {
        return Ok(false);
    }
    txn.delete(key);
    inode.xattrs = inode.xattrs.saturating_sub(1);
    inode.xattr_list_bytes = inode.xattr_list_bytes.saturating_sub(name.len() as u32 + 1);
    Ok(true)
}
