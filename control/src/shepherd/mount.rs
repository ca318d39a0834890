//! Was the cluster's mount there all the time?
//!
//! A directory that can't be entered is the job's error when the mount is there, and nobody's when the mount isn't: when it died with
//! its process while the supervisor lived on, when it is taken away, when another one has just taken its place. The
//! control directory lies on the same mount and tells one case from the other.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::layout::Layout;

/// The control directory's `id` as it was at one moment.
#[derive(Debug)]
pub(super) struct Seen {
    path: PathBuf,
    /// Held open, so that it can be asked later although another mount may lie at its path by then.
    id: std::io::Result<File>,
}

impl Seen {
    /// Looks now.
    pub fn now(root: &Path) -> Seen {
        let path = Layout::new(root).id();
        let id = File::open(&path);
        Seen { path, id }
    }

    /// Was it away at the first look, did it go since, or is another one in its place? A directory closed to this user says nothing
    /// and counts as there.
    pub fn went_away(&self) -> bool {
        let file = match &self.id {
            Ok(file) => file,
            Err(error) => return means_away(error),
        };
        // The question the kernel never answers from what it remembers.
        if rustix::fs::fstatfs(file).is_err() {
            return true;
        }
        let place = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
        let held = match file.metadata() {
            Ok(meta) => place(meta),
            Err(_) => return true,
        };
        match std::fs::metadata(&self.path) {
            Ok(meta) => place(meta) != held,
            Err(error) => means_away(&error),
        }
    }
}

fn means_away(error: &std::io::Error) -> bool {
    error.kind() != std::io::ErrorKind::PermissionDenied
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_control_directory_that_goes_or_is_replaced_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (root, other) = (dir.path().join("root"), dir.path().join("other"));
        crate::layout::init(&root).unwrap();
        crate::layout::init(&other).unwrap();
        let seen = Seen::now(&root);
        assert!(!seen.went_away());
        std::fs::rename(&root, dir.path().join("away")).unwrap();
        assert!(seen.went_away());
        assert!(Seen::now(&root).went_away(), "it was away from the beginning");
        std::fs::rename(&other, &root).unwrap();
        assert!(seen.went_away(), "another one is in its place");
        assert!(!Seen::now(&root).went_away());
    }
}
