//! Files and directories that only their owner reads, and no symbolic link in the place of a file.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).mode(0o600).custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC);
    options
}

/// Opens or makes a file to read and write.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    kept_private(options().write(true).create(true).truncate(false).open(path)?)
}

/// Opens or makes a file to append to.
pub(crate) fn open_to_append(path: &Path) -> io::Result<File> {
    kept_private(options().append(true).create(true).open(path)?)
}

/// Opens a file to read.
pub(crate) fn open_existing(path: &Path) -> io::Result<File> {
    options().open(path)
}

/// What others may read of an earlier version's file they may no longer.
fn kept_private(file: File) -> io::Result<File> {
    let about = file.metadata()?;
    if about.is_file() && about.mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

/// Writes a whole file anew: it is there as it was, or as it is to be.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let beside = Path::new(&name);
    match std::fs::remove_file(beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = options().write(true).create_new(true).open(beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(beside, path)?;
    sync_directory_of(path)
}

/// Makes a directory with those above it, for its owner alone. One that is there is left as it is.
pub(crate) fn make_directory(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// What is in the directory of a file is kept by the disk.
pub(crate) fn sync_directory_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => File::open(directory)?.sync_all(),
        Some(_) | None => File::open(".")?.sync_all(),
    }
}
