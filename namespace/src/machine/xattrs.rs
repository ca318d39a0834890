//! Extended attributes.

use wire::id::Ino;
use wire::meta::{FsReply, MAX_XATTR_LIST_BYTES, MAX_XATTR_VALUE_BYTES, XattrMode};
use wire::status::FsError;

use crate::machine::files::changed;
use crate::machine::txn::{Do, Txn};
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
    if value.len() > MAX_XATTR_VALUE_BYTES {
        return Err(FsError::AttributeTooLarge.into());
    }
    let mut inode = txn.inode(ino)?;
    let key = keys::xattr(ino, name);
    match (txn.get(&key)?.is_some(), mode) {
        (true, XattrMode::Create) => return Err(FsError::Exists.into()),
        (false, XattrMode::Replace) => return Err(FsError::NoAttribute.into()),
        (true, _) => {}
        (false, _) => {
            let list = inode.xattr_list_bytes as usize + name.len() + 1;
            if list > MAX_XATTR_LIST_BYTES {
                return Err(FsError::AttributeTooLarge.into());
            }
            inode.xattr_list_bytes = list as u32;
            inode.xattrs += 1;
        }
    }
    changed(&mut inode, txn.at);
    txn.put(key, &bytes::Bytes::copy_from_slice(value))?;
    txn.put_inode(ino, &inode)?;
    Ok(FsReply::Done)
}

/// Removes an attribute.
pub fn remove(txn: &mut Txn<'_>, ino: Ino, name: &[u8]) -> Do<FsReply> {
    check_name(name)?;
    let mut inode = txn.inode(ino)?;
    let key = keys::xattr(ino, name);
    if txn.get(&key)?.is_none() {
        return Err(FsError::NoAttribute.into());
    }
    txn.delete(key);
    inode.xattrs = inode.xattrs.saturating_sub(1);
    inode.xattr_list_bytes = inode.xattr_list_bytes.saturating_sub(name.len() as u32 + 1);
    changed(&mut inode, txn.at);
    txn.put_inode(ino, &inode)?;
    Ok(FsReply::Done)
}
