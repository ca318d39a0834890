//! Who a uid is: the machine's user database through its name service, so that LDAP or NIS users count too.

use nix::unistd::{Group, Uid, User};

use crate::error::{Error, Result};

/// A user as the database knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Person {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub group: String,
    pub home: String,
    pub shell: String,
}

fn person(user: User) -> Result<Person> {
    let group = Group::from_gid(user.gid)
        .map_err(|e| Error::Config(format!("can't look up group {}: {e}", user.gid)))?
        .map_or_else(|| user.gid.to_string(), |g| g.name);
    let shell = user.shell.to_string_lossy().into_owned();
    Ok(Person {
        name: user.name,
        uid: user.uid.as_raw(),
        gid: user.gid.as_raw(),
        group,
        home: user.dir.to_string_lossy().into_owned(),
        shell: if shell.is_empty() { "/bin/sh".into() } else { shell },
    })
}

/// The user with this uid, if the database has one.
pub(crate) fn by_uid(uid: u32) -> Result<Option<Person>> {
    User::from_uid(Uid::from_raw(uid))
        .map_err(|e| Error::Config(format!("can't look up user {uid}: {e}")))?
        .map(person)
        .transpose()
}

/// Who runs this process.
pub(crate) fn me() -> Result<Person> {
    let uid = rustix::process::getuid().as_raw();
    by_uid(uid)?.ok_or_else(|| Error::Config(format!("uid {uid} has no entry in the user database")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn root_is_found_and_nobody_by_a_nonsensical_number() {
        assert_eq!(by_uid(0).unwrap().unwrap().uid, 0);
        assert_eq!(by_uid(4_000_000_001).unwrap(), None);
    }
}
