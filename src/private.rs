//! Files and directories that only their owner reads. Those of the product itself are never a
//! symbolic link; those that an operator names, as TLS keys and passwords, may be one.

mod grant;

pub use grant::{Fingerprint, GrantFile, Refreshed, fingerprint};

use crate::secret::Secret;
use nix::unistd::{Gid, Uid, getegid, geteuid, getgroups, setegid, seteuid, setgroups};
use std::fs::{DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Bits of a mode for the group and for everybody: reading, writing, executing.
const ALL_OTHERS: u32 = 0o077;
/// The same without reading by the group.
const ALL_OTHERS_BUT_READING_GROUP: u32 = 0o037;
/// Bits of a mode for writing by the group and by everybody.
const WRITING_OTHERS: u32 = 0o022;
/// The superuser.
const ROOT: u32 = 0;

/// What is in a file with a secret.
pub type SecretBytes = Secret<Zeroizing<Vec<u8>>>;

/// Others may read a file with a secret: its mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exposed(u32);

impl std::fmt::Display for Exposed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "others may read it (mode {:04o}): chmod 600", self.0 & 0o7777)
    }
}

/// Why a file with a secret is not read.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// It cannot be read.
    #[error("{}: {error}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// Others may read it.
    #[error("{}: {exposed}", .path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        exposed: Exposed,
    },
    /// It is longer than any secret.
    #[error("{}: it is longer than {longest} bytes", .path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The longest that it may be.
        longest: u64,
    },
}

/// How a file with a secret is open to others, if it is: the group may read what belongs to root
/// and not to the process that reads it, so that root can hand a secret to a service.
pub fn exposed(about: &Metadata) -> Option<Exposed> {
    exposed_to(about, barred(about.uid()))
}

fn exposed_to(about: &Metadata, barred: u32) -> Option<Exposed> {
    let mode = about.mode();
    (about.is_file() && mode & barred != 0).then_some(Exposed(mode))
}

fn barred(owner: u32) -> u32 {
    match owner {
        ROOT => ALL_OTHERS_BUT_READING_GROUP,
        _ => ALL_OTHERS,
    }
}

/// Opens a file that an operator names, behind links. A pipe or a device could keep its reader
/// waiting for ever, also in the middle of a run, when the file is read again.
///
/// # Errors
/// It cannot be opened, or is no file.
pub fn open_named(path: &Path) -> io::Result<File> {
    only_file(OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?)
}

fn only_file(file: File) -> io::Result<File> {
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is no file, but a pipe, a device or a directory")),
    }
}

/// What is in a file that an operator names, `longest` bytes at most.
///
/// # Errors
/// As [`open_named`], or the file is longer or cannot be read.
pub fn read_named(path: &Path, longest: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match read_up_to(longest, open_named(path)?, &mut bytes)? {
        false => Err(io::Error::other(format!("it is longer than {longest} bytes"))),
        true => Ok(bytes),
    }
}

/// Reads a whole file; `false`: it is longer.
fn read_up_to(longest: u64, file: File, bytes: &mut Vec<u8>) -> io::Result<bool> {
    Ok(file.take(longest + 1).read_to_end(bytes)? as u64 <= longest)
}

/// Reads a file with a secret, `longest` bytes at most.
///
/// # Errors
/// It is no file, cannot be read, is longer, or others may read it.
pub fn read_secret(path: &Path, longest: u64) -> Result<SecretBytes, SecretFileError> {
    read_unless(path, open_named(path), longest, exposed)
}

/// As [`read_secret`], of a file of the product itself: its owner's alone, and no link.
///
/// # Errors
/// As [`read_secret`].
pub fn read_own_secret(path: &Path, longest: u64) -> Result<SecretBytes, SecretFileError> {
    read_unless(path, open_existing(path), longest, |about| exposed_to(about, ALL_OTHERS))
}

fn read_unless(
    path: &Path,
    file: io::Result<File>,
    longest: u64,
    exposed: impl Fn(&Metadata) -> Option<Exposed>,
) -> Result<SecretBytes, SecretFileError> {
    let failed = |error| SecretFileError::Read { path: path.to_owned(), error };
    let file = file.map_err(failed)?;
    if let Some(exposed) = exposed(&file.metadata().map_err(failed)?) {
        return Err(SecretFileError::Exposed { path: path.to_owned(), exposed });
    }
    let mut bytes = Vec::new();
    let read = read_up_to(longest, file, &mut bytes);
    let secret = Secret::new(bytes);
    match read.map_err(failed)? {
        false => Err(SecretFileError::TooLong { path: path.to_owned(), longest }),
        true => Ok(secret),
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).mode(0o600).custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK);
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

/// Opens a file to be written anew, made when it is not there.
pub fn create(path: &Path) -> io::Result<File> {
    let file = open(path)?;
    if file.metadata()?.uid() != geteuid().as_raw() {
        return Err(io::Error::other("it belongs to somebody else, who could read it"));
    }
    file.set_len(0)?;
    Ok(file)
}

/// Opens a file to read.
pub(crate) fn open_existing(path: &Path) -> io::Result<File> {
    only_file(options().open(path)?)
}

/// A directory of the product itself that is open: whatever is put in its place, what is done by its
/// path is done in this one.
pub(crate) struct OpenDirectory(File);

impl OpenDirectory {
    /// Where it is as long as it is open.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

/// Opens a directory of the product itself; a link is none.
pub(crate) fn open_directory(path: &Path) -> io::Result<OpenDirectory> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_DIRECTORY;
    Ok(OpenDirectory(OpenOptions::new().read(true).custom_flags(flags).open(path)?))
}

/// What others may read of an earlier version's file they may no longer.
fn kept_private(file: File) -> io::Result<File> {
    let about = file.metadata()?;
    if about.is_file() && about.mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

/// Does something in a directory with the rights of its owner, when root does it in the directory of
/// somebody else: whatever the owner has put there leads nowhere that the owner may not go, and what
/// is made is the owner's.
///
/// # Errors
/// The rights cannot be changed, or what is done fails.
pub(crate) fn as_owner_of<T>(
    directory: &Path,
    act: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let owner = directory.metadata()?;
    let (uid, gid) = (Uid::from_raw(owner.uid()), Gid::from_raw(owner.gid()));
    if geteuid().as_raw() != ROOT || uid.as_raw() == ROOT {
        return act();
    }
    let (groups, group) = (getgroups()?, getegid());
    setgroups(&[gid])?;
    setegid(gid)?;
    seteuid(uid)?;
    let done = act();
    seteuid(Uid::from_raw(ROOT))?;
    setegid(group)?;
    setgroups(&groups)?;
    done
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

/// Makes the directory that state is kept in, with those above it, for its owner alone; one of ours
/// that others may look into is closed to them.
///
/// # Errors
/// It cannot be made or closed, or it is another's and others may write there.
pub fn make_state_directory(path: &Path) -> io::Result<()> {
    make_directory(path)?;
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let about = path.metadata()?;
    if about.mode() & ALL_OTHERS == 0 {
        return Ok(());
    }
    if about.uid() == geteuid().as_raw() {
        return std::fs::set_permissions(path, Permissions::from_mode(0o700));
    }
    match about.mode() & WRITING_OTHERS {
        0 => Ok(()),
        _ => Err(io::Error::other(format!(
            "others may write into {} (mode {:04o}): chmod 700",
            path.display(),
            about.mode() & 0o7777
        ))),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_keeps_no_reader_waiting() {
        let place = tempfile::tempdir().expect("a directory");
        let pipe = place.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        let link = place.path().join("link");
        std::os::unix::fs::symlink(&pipe, &link).expect("a link");
        for path in [pipe.as_path(), &link, place.path(), Path::new("/dev/zero")] {
            let read = read_secret(path, 100).map(|_| ()).map_err(|error| error.to_string());
            let text = "it is no file, but a pipe, a device or a directory";
            assert_eq!(read, Err(format!("{}: {text}", path.display())));
        }
        assert!(read_own_secret(&pipe, 100).is_err() && read_named(&pipe, 100).is_err());
    }

    #[test]
    fn a_secret_is_read_only_from_a_file_that_others_can_not_read() {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("password");
        std::fs::write(&path, "hunter2\n").expect("written");
        for (mode, is_read) in [
            (0o600, true),
            (0o400, true),
            (0o604, false),
            (0o602, false),
            (0o644, false),
            (0o660, false),
            (0o620, false),
        ] {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).expect("a mode");
            let read = read_secret(&path, 100);
            assert_eq!(read.is_ok(), is_read, "{mode:o}: {read:?}");
            if let Err(error) = read {
                let text =
                    format!("{}: others may read it (mode {mode:04o}): chmod 600", path.display());
                assert_eq!(error.to_string(), text);
            }
        }
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("a mode");
        assert!(matches!(read_secret(&path, 7), Err(SecretFileError::TooLong { .. })));
        assert_eq!(read_secret(&path, 8).expect("a secret").expose().as_slice(), b"hunter2\n");
    }

    #[test]
    fn a_group_may_read_the_secrets_of_root_alone() {
        assert_eq!(0o640 & barred(ROOT), 0);
        assert_ne!(0o640 & barred(1000), 0);
        for mode in [0o660, 0o650, 0o604] {
            assert_ne!(mode & barred(ROOT), 0, "{mode:o}");
        }
    }

    #[test]
    fn the_state_directory_is_closed_to_others() {
        let place = tempfile::tempdir().expect("a directory");
        let mode = |path: &Path| path.metadata().expect("it is there").mode() & 0o777;
        let made = place.path().join("above/state");
        make_state_directory(&made).expect("made");
        assert_eq!((mode(&made), mode(&place.path().join("above"))), (0o700, 0o700));
        std::fs::set_permissions(&made, Permissions::from_mode(0o755)).expect("a mode");
        make_state_directory(&made).expect("closed");
        assert_eq!(mode(&made), 0o700);
    }

    #[test]
    fn a_directory_of_the_product_is_no_link_and_stays_the_one_that_was_opened() {
        let place = tempfile::tempdir().expect("a directory");
        let (folder, link) = (place.path().join("folder"), place.path().join("link"));
        make_directory(&folder).expect("made");
        std::os::unix::fs::symlink(&folder, &link).expect("a link");
        assert!(open_directory(&link).is_err());
        let open = open_directory(&folder).expect("opened");
        let moved = place.path().join("moved");
        std::fs::rename(&folder, &moved).expect("moved");
        std::fs::write(open.path().join("in it"), "").expect("written");
        assert!(moved.join("in it").exists());
    }

    #[test]
    fn files_of_the_product_are_no_links() {
        let place = tempfile::tempdir().expect("a directory");
        let (elsewhere, link) = (place.path().join("elsewhere"), place.path().join("link"));
        std::fs::write(&elsewhere, "precious").expect("written");
        std::os::unix::fs::symlink(&elsewhere, &link).expect("a link");
        assert!(open(&link).is_err() && open_to_append(&link).is_err());
        assert!(open_existing(&link).is_err());
        replace(&link, b"new").expect("the link itself is replaced");
        assert_eq!(std::fs::read(&elsewhere).expect("still there"), b"precious");
    }
}
