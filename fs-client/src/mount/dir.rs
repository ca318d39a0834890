//! Listing directories: the kernel asks in small parts, the namespace is asked in large ones.

use wire::id::{DirCookie, Ino};
use wire::meta::DirEntry;

use crate::client::{Client, DirPage};
use crate::error::Error;

/// Entries asked for at once.
const PAGE_ENTRIES: u32 = 512;
/// Positions before the first entry: after `.` and after `..`.
const DOTS: u64 = 2;

/// An open directory.
#[derive(Debug)]
pub(crate) struct DirHandle {
    pub(crate) ino: Ino,
    page: tokio::sync::Mutex<Page>,
}

/// The part of the listing held at present.
#[derive(Debug, Default)]
struct Page {
    /// What it comes after; none before the first fetch.
    after: Option<DirCookie>,
    entries: Vec<DirEntry>,
    end: bool,
}

/// One line of an answer to the kernel.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    pub(crate) ino: Ino,
    /// Position after it.
    pub(crate) position: u64,
    pub(crate) name: &'a [u8],
    /// The entry, unless it is `.` or `..`.
    pub(crate) entry: Option<&'a DirEntry>,
}

impl Page {
    /// Where the entry after a cookie stands, if this part says so.
    fn index_after(&self, cookie: DirCookie) -> Option<usize> {
        if self.after? == cookie {
            return Some(0);
        }
        self.entries.iter().position(|entry| entry.cookie == cookie).map(|at| at + 1)
    }
}

impl DirHandle {
    pub(crate) fn new(ino: Ino) -> Self {
        Self { ino, page: tokio::sync::Mutex::default() }
    }

    /// Hands the lines after `position` to `take` until it is full (says true) or the listing
    /// ends. Listing from the start always asks anew.
    pub(crate) async fn list(
        &self,
        client: &Client,
        position: u64,
        mut take: impl FnMut(Line<'_>) -> bool,
    ) -> Result<(), Error> {
        let mut page = self.page.lock().await;
        if position == 0 {
            *page = Page::default();
            if take(Line { ino: self.ino, position: 1, name: b".", entry: None }) {
                return Ok(());
            }
        }
        if position <= 1 {
            // A directory that was removed while open has no parent any more.
            let parent = client.lookup_parent(self.ino).await.map_or(self.ino, |attr| attr.ino);
            if take(Line { ino: parent, position: DOTS, name: b"..", entry: None }) {
                return Ok(());
            }
        }
        let mut after = DirCookie(position.saturating_sub(DOTS));
        let mut any = false;
        loop {
            let index = match page.index_after(after) {
                Some(index) if index < page.entries.len() || page.end => index,
                _ => {
                    // The kernel has something to go on with: it comes back for the rest.
                    if any {
                        return Ok(());
                    }
                    let DirPage { entries, end } =
                        client.readdir(self.ino, after, PAGE_ENTRIES, true).await?;
                    *page = Page { after: Some(after), entries, end };
                    0
                }
            };
            for entry in &page.entries[index..] {
                let position = entry.cookie.0.saturating_add(DOTS);
                let name = entry.name.as_bytes();
                if take(Line { ino: entry.ino, position, name, entry: Some(entry) }) {
                    return Ok(());
                }
                any = true;
                after = entry.cookie;
            }
            if page.end || page.entries.is_empty() {
                return Ok(());
            }
        }
    }
}
