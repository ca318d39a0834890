//! Where the control directory is.

use std::path::{Path, PathBuf};

use crate::layout::Layout;

use super::Failure;

/// Name of the control directory on the mount.
const NAME: &str = ".cluster";
/// The variable that says where it is.
const VARIABLE: &str = "BRICKYARD_ROOT";

/// Finds the control directory.
pub(crate) fn layout() -> Result<Layout, Failure> {
    if let Some(given) = std::env::var_os(VARIABLE).filter(|v| !v.is_empty()) {
        let given = PathBuf::from(given);
        return [given.join(NAME), given.clone()]
            .iter()
            .find(|p| p.join("jobs").is_dir())
            .map(|p| Layout::new(p))
            .ok_or_else(|| {
                Failure::new(format!(
                    "{VARIABLE}={} isn't a mounted Brickyard filesystem nor its {NAME} directory: mount it or set the variable right",
                    given.display()
                ))
            });
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    // The kernel knows the working directory by itself: a mount that does not answer is not asked.
    let here = std::env::current_dir().ok();
    nearest_first(brickyard_mounts(&mounts), here.as_deref())
        .into_iter()
        .map(|m| m.join(NAME))
        .find(|p| p.join("jobs").is_dir())
        .map(|p| Layout::new(&p))
        .ok_or_else(|| {
            Failure::new(format!(
                "no Brickyard filesystem is mounted here: mount one (or start `brickyard up`), or set {VARIABLE} to its mount point"
            ))
        })
}

/// Mount points of Brickyard filesystems, from the text of `/proc/self/mounts`.
fn brickyard_mounts(mounts: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in mounts.lines() {
        let mut words = line.split(' ');
        let (Some(source), Some(point), Some(kind)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        if kind == "fuse.brickyard" || (kind == "fuse" && source == "brickyard") {
            found.push(PathBuf::from(unescape(point)));
        }
    }
    // Of several mounts on each other the last one counts.
    found.reverse();
    found
}

/// Puts the mount that `here` is in first; the others stay as they are, the newest first.
fn nearest_first(mut mounts: Vec<PathBuf>, here: Option<&Path>) -> Vec<PathBuf> {
    let depth =
        |mount: &PathBuf| here.filter(|here| here.starts_with(mount)).map(|_| mount.components().count());
    // Of mounts within each other the innermost one; the sort keeps the order of equals.
    mounts.sort_by_key(|mount| std::cmp::Reverse(depth(mount)));
    mounts
}

/// The kernel writes blanks, tabs, newlines and backslashes in octal.
fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|d| u8::from_str_radix(d, 8).ok());
        match code {
            Some(c) => {
                out.push(char::from(c));
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// An absolute path of the working directory, as the user sees it.
pub(crate) fn working_directory() -> Result<String, Failure> {
    let real = std::env::current_dir()
        .map_err(|e| Failure::new(format!("can't tell the working directory: {e}")))?;
    // `PWD` keeps the links the user came by, if it is the same place.
    let seen = std::env::var("PWD").ok().map(PathBuf::from).filter(|p| p.is_absolute() && same(p, &real));
    let path = seen.unwrap_or(real);
    path.into_os_string()
        .into_string()
        .map_err(|p| Failure::new(format!("the working directory {p:?} isn't UTF-8 text")))
}

fn same(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (a.metadata(), b.metadata()) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brickyard_mounts_are_told_from_others() {
        let mounts = "proc /proc proc rw 0 0\nbrickyard /mnt/a\\040b fuse rw 0 0\nother /mnt/x fuse rw 0 0\n\
                      h1,h2:/ /mnt/c fuse.brickyard rw 0 0\n";
        assert_eq!(brickyard_mounts(mounts), [PathBuf::from("/mnt/c"), PathBuf::from("/mnt/a b")]);
    }

    /// With several mounts the one the user works in is meant, else the newest.
    #[test]
    fn the_mount_of_the_working_directory_comes_first() {
        let order = |here: Option<&str>| -> Vec<String> {
            let mounts = ["/new", "/old", "/old/inner", "/older"].map(PathBuf::from).to_vec();
            let sorted = nearest_first(mounts, here.map(Path::new));
            sorted.into_iter().map(|m| m.display().to_string()).collect()
        };
        assert_eq!(order(None), ["/new", "/old", "/old/inner", "/older"]);
        assert_eq!(order(Some("/home/ann")), ["/new", "/old", "/old/inner", "/older"]);
        assert_eq!(order(Some("/older/project")), ["/older", "/new", "/old", "/old/inner"]);
        assert_eq!(order(Some("/old/inner/x")), ["/old/inner", "/old", "/new", "/older"]);
        // A name that only begins alike is another directory.
        assert_eq!(order(Some("/newer"))[0], "/new");
        assert_eq!(order(Some("/olde")), ["/new", "/old", "/old/inner", "/older"]);
    }
}
