//! Files as memory.

use std::fs::File;
use std::sync::Arc;

use memmap2::Mmap;

/// Maps a file for reading; its pages are read when they are touched.
///
/// # Errors
/// When the system cannot map it.
pub fn map_file(file: &File) -> std::io::Result<Arc<Mmap>> {
    // SAFETY: the map is read-only and private to this process's reading. That another process rewrites a weight file in
    // place while it is in use cannot be excluded by any reader of mapped files; files are replaced by renaming, here and
    // by every tool that writes this format, which leaves an open map untouched.
    unsafe { Mmap::map(file) }.map(Arc::new)
}
