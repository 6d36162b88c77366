//! Files that grant something as long as they can be used.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Which version of a file was read: its device, inode, length and time of change, if it is there.
pub type Fingerprint = Option<(u64, u64, u64, i64, i64)>;

/// Of the file at this path, behind links: files are often exchanged by turning one.
pub fn fingerprint(path: &Path) -> Fingerprint {
    let about = fs::metadata(path).ok()?;
    Some((about.dev(), about.ino(), about.len(), about.ctime(), about.ctime_nsec()))
}

/// A file that grants something: once it cannot be used, it grants nothing any more.
#[derive(Debug)]
pub struct GrantFile {
    path: PathBuf,
    seen: Fingerprint,
    standing: Standing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Good,
    /// It could not be used when it was read last, perhaps because somebody was writing it.
    Doubtful,
    Void,
}

/// What has become of a file.
#[derive(Debug, PartialEq, Eq)]
pub enum Refreshed<T, E> {
    /// It grants what it did.
    Unchanged,
    /// It has been read again.
    Granted(T),
    /// It grants nothing from now on.
    Void(E),
}

impl GrantFile {
    /// Reads the file.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn load<T, E>(
        path: &Path,
        read: impl FnOnce(&Path) -> Result<T, E>,
    ) -> Result<(Self, T), E> {
        let seen = fingerprint(path);
        let granted = read(path)?;
        Ok((Self { path: path.to_owned(), seen, standing: Standing::Good }, granted))
    }

    /// Reads the file again if it has changed, or in any case. One that cannot be used is read once
    /// more, the next time, before that counts; asked for in any case, it counts at once.
    pub fn refresh<T, E>(
        &mut self,
        in_any_case: bool,
        read: impl FnOnce(&Path) -> Result<T, E>,
    ) -> Refreshed<T, E> {
        let now = fingerprint(&self.path);
        let before = std::mem::replace(&mut self.seen, now);
        if !in_any_case && before == now && self.standing == Standing::Good {
            return Refreshed::Unchanged;
        }
        match (read(&self.path), self.standing) {
            (Ok(granted), _) => {
                self.standing = Standing::Good;
                Refreshed::Granted(granted)
            }
            (Err(_), Standing::Void) => Refreshed::Unchanged,
            (Err(_), Standing::Good) if !in_any_case => {
                self.standing = Standing::Doubtful;
                Refreshed::Unchanged
            }
            (Err(error), Standing::Good | Standing::Doubtful) => {
                self.standing = Standing::Void;
                Refreshed::Void(error)
            }
        }
    }

    /// It grants nothing.
    pub fn is_void(&self) -> bool {
        self.standing == Standing::Void
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(path: &Path) -> Result<u32, ()> {
        fs::read_to_string(path).map_err(|_| ())?.parse().map_err(|_| ())
    }

    #[test]
    fn a_file_that_can_not_be_used_grants_nothing_from_the_second_look_on_until_it_can() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("number");
        assert!(GrantFile::load(&path, number).is_err(), "at first it has to be there");
        fs::write(&path, "1").unwrap();
        let (mut file, granted) = GrantFile::load(&path, number).unwrap();
        assert_eq!(granted, 1);
        assert_eq!(file.refresh(false, number), Refreshed::Unchanged);
        // An editor that truncates, and then writes.
        fs::write(&path, "").unwrap();
        assert_eq!(file.refresh(false, number), Refreshed::Unchanged);
        fs::write(&path, "22").unwrap();
        assert_eq!(file.refresh(false, number), Refreshed::Granted(22));
        fs::remove_file(&path).unwrap();
        assert_eq!(file.refresh(false, number), Refreshed::Unchanged);
        assert_eq!(file.refresh(false, number), Refreshed::Void(()));
        assert!(file.is_void());
        assert_eq!(file.refresh(true, number), Refreshed::Unchanged, "it is void already");
        fs::write(&path, "333").unwrap();
        assert_eq!(file.refresh(false, number), Refreshed::Granted(333));
        assert!(!file.is_void());
        fs::write(&path, "none").unwrap();
        assert_eq!(file.refresh(true, number), Refreshed::Void(()), "asked for, it counts at once");
    }
}
