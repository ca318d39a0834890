//! Bits of a mode that programs get rights from, taken away where the kernel leaves that to the filesystem: when a file is written past
//! its pages, and when an access list is set, by somebody who must not keep them. Everywhere else the kernel does it by a call of its own.
//!
//! 1. The content changes when they are gone, never before.

use std::sync::Arc;

use wire::id::Ino;
use wire::meta::AttrChanges;

use super::Client;
use super::open::File;
use crate::error::Error;
use crate::locked;

const SET_USER_ID: u16 = 0o4000;
const SET_GROUP_ID: u16 = 0o2000;
const GROUP_MAY_EXECUTE: u16 = 0o010;

/// A mode without the bits that give rights. Where the group may not execute, the set-group-id bit gives none.
fn without_privileges(mode: u16) -> u16 {
    let group = if mode & GROUP_MAY_EXECUTE == 0 { 0 } else { SET_GROUP_ID };
    mode & !(SET_USER_ID | group)
}

impl Client {
    /// Whether a file has bits in its mode that programs get rights from, as far as is known here.
    pub fn is_privileged(&self, file: &File) -> bool {
        let mode = locked(&file.inode.state).view().mode;
        without_privileges(mode) != mode
    }

    /// Takes those bits away: somebody changes the content who must not keep them.
    ///
    /// # Errors
    /// As [`Client::setattr_through`].
    pub async fn drop_privileges(&self, file: &Arc<File>) -> Result<(), Error> {
        let mode = without_privileges(locked(&file.inode.state).view().mode);
        self.setattr_through(file, AttrChanges { mode: Some(mode), ..AttrChanges::default() }).await?;
        Ok(())
    }

    /// Takes the set-group-id bit away.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub async fn drop_group_id(&self, ino: Ino) -> Result<(), Error> {
        let mode = self.getattr(ino).await?.mode;
        if mode & SET_GROUP_ID != 0 {
            let changes = AttrChanges { mode: Some(mode & !SET_GROUP_ID), ..AttrChanges::default() };
            self.setattr(ino, changes).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_that_give_rights_go() {
        for (mode, without) in [
            (0o6644, 0o2644),
            (0o6744, 0o2744),
            (0o6654, 0o654),
            (0o2755, 0o755),
            (0o2644, 0o2644),
            (0o1777, 0o1777),
        ] {
            assert_eq!(without_privileges(mode), without, "{mode:o}");
        }
    }
}
