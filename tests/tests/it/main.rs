//! The stories told of a real cluster, by a real mount. One module a theme.
//!
//! `trees`, `files`, `names`, `locks` and `databases` use POSIX calls only, and run in a local
//! directory too (`BRICKYARD_TEST_DIR`), which proves the tests; the others need the product.

mod databases;
mod files;
mod locks;
mod mapping;
mod names;
mod sparse;
mod trees;
