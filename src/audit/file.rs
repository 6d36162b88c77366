//! The file that is written: opened, appended to, signed, rotated, and old ones removed.

use super::chain::{self, Break, Cause, ChainEnd};
use super::key::{AuditKey, HEAD_FILE, Head, HeadFile, OLD_PUBLIC_KEY_FILE, PublicKey};
use super::lines::{FileEnds, ends_of, rotated};
use super::tail::{self, Tail};
use super::{AuditConfig, AuditError, Rotation, day_of, utc};
use crate::clock;
use crate::hex::hex;
use crate::model::Timestamp;
use crate::private;
use crate::store::writer::Sink;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FallocateFlags, RenameFlags, fallocate, renameat2};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often a file that could not be written is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(500);
/// How often it is looked for files that are old enough to go.
const LOOK_FOR_OLD: Duration = Duration::from_secs(3600);
/// Room on disk that a check asks for: some hundred lines.
const ROOM: i64 = 64 * 1024;
const DAY: u64 = 86_400_000;

/// What the audit's thread is given.
pub(super) enum AuditChange {
    /// The members of a line.
    Line(String),
    /// Finds out whether lines can be written.
    Check,
    /// Opens the file anew: it may have been moved away.
    Reopen,
}

/// The file as it is open.
struct OpenFile {
    file: File,
    known: KnownFile,
    /// The day of its first line.
    day: u64,
}

/// What a file has had written to it by us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct KnownFile {
    device: u64,
    inode: u64,
    length: u64,
}

impl KnownFile {
    fn is(self, about: &std::fs::Metadata) -> bool {
        (self.device, self.inode) == (about.dev(), about.ino())
    }
}

pub(super) struct AuditFile {
    config: AuditConfig,
    key: AuditKey,
    head: HeadFile,
    open: Option<OpenFile>,
    /// Whose lines may stand at the end of what is found at the start.
    keys: Vec<PublicKey>,
    /// What the head said at the start; `None`: nothing that can be believed.
    told: Option<Head>,
    /// The file that was open last: what stands behind its length was refused.
    known: Option<KnownFile>,
    /// The last line that is on disk.
    end: ChainEnd,
    /// The last of them that is a checkpoint.
    signed: u64,
    signed_at: Instant,
    old_due: Instant,
    has_begun: bool,
    writable: Arc<AtomicBool>,
}

impl Sink for AuditFile {
    type Change = AuditChange;
    type Outcome = Result<(), AuditError>;

    fn write(&mut self, changes: Vec<AuditChange>) -> Result<(), AuditError> {
        let mut lines = Vec::new();
        let mut reopens = false;
        for change in changes {
            match change {
                AuditChange::Line(members) => lines.push(members),
                AuditChange::Check => {}
                AuditChange::Reopen => reopens = true,
            }
        }
        let written = self.append(&lines);
        let written = written.and_then(|()| if reopens { self.reopen() } else { Ok(()) });
        self.note(written)
    }

    fn size(change: &AuditChange) -> usize {
        match change {
            AuditChange::Line(_) | AuditChange::Check => 1,
            AuditChange::Reopen => 0,
        }
    }

    fn idle_after(&self) -> Option<Duration> {
        if !self.writable.load(Ordering::Relaxed) {
            return Some(TRY_AGAIN);
        }
        let signed = (self.end.n > self.signed).then(|| self.signed_at + self.config.checkpoint);
        let old = (self.config.keep_days > 0).then_some(self.old_due);
        let next = [signed, old].into_iter().flatten().min()?;
        Some(next.saturating_duration_since(clock::instant()))
    }

    fn handle_idle(&mut self) {
        if !self.writable.load(Ordering::Relaxed) {
            return self.probe();
        }
        let done = self.append_due();
        let _ = self.note(done);
        self.remove_old();
    }
}

impl AuditFile {
    /// Opens or makes the file, the key and the head.
    ///
    /// # Errors
    /// One of them cannot be opened.
    pub(super) fn open(config: AuditConfig) -> Result<Self, AuditError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error| super::key::disk(&path, &error)
        };
        let state_dir = &config.state_dir;
        private::make_state_directory(state_dir).map_err(failed(state_dir))?;
        let folder = config.file.parent().unwrap_or(Path::new(""));
        private::make_directory(folder).map_err(failed(folder))?;
        let key = AuditKey::open(state_dir)?;
        let mut head = HeadFile::open(state_dir)?;
        let mut keys = vec![key.public().clone()];
        if key.is_new() {
            keys.extend(PublicKey::read(&state_dir.join(OLD_PUBLIC_KEY_FILE)).ok());
        }
        let mut told = keys.iter().find_map(|key| head.read(key));
        if key.is_new() && told.is_none() {
            // Where there is a key there has been a head, whenever the process is killed.
            head.write(ChainEnd::default(), clock::wall(), &key);
            head.sync().map_err(failed(&state_dir.join(HEAD_FILE)))?;
            told = Some(Head::of(ChainEnd::default()));
        }
        key.keep(state_dir)?;
        let now = clock::instant();
        let mut file = Self {
            config,
            key,
            head,
            open: None,
            keys,
            told,
            known: None,
            end: told.map(|told| told.end).unwrap_or_default(),
            signed: 0,
            signed_at: now,
            old_due: now,
            has_begun: false,
            writable: Arc::new(AtomicBool::new(false)),
        };
        let opened = private::open_to_append(&file.config.file);
        drop(opened.map_err(|error| super::key::disk(&file.config.file, &error))?);
        file.probe();
        file.remove_old();
        Ok(file)
    }

    pub(super) fn writable(&self) -> Arc<AtomicBool> {
        self.writable.clone()
    }

    pub(super) fn public_key(&self) -> &super::key::PublicKey {
        self.key.public()
    }

    fn note(&mut self, done: io::Result<()>) -> Result<(), AuditError> {
        let done = done.map_err(|error| {
            self.open = None;
            super::key::disk(&self.config.file, &error)
        });
        self.writable.store(done.is_ok(), Ordering::Relaxed);
        done
    }

    /// Finds out whether a line could be written.
    fn probe(&mut self) {
        let tried = self.append(&[]);
        let _ = self.note(tried);
    }

    fn append(&mut self, lines: &[String]) -> io::Result<()> {
        self.ready()?;
        if lines.is_empty() {
            return self.set_room_aside();
        }
        self.rotate_when_due();
        let is_due = self.is_checkpoint_due();
        let now = clock::wall();
        self.put(|end, key, to| {
            lines.iter().for_each(|members| end.append(members, key, to));
            if is_due {
                end.append_with_key(&chain::checkpoint(Cause::Interval, now), key, to);
            }
        })?;
        if is_due {
            self.note_signed();
        }
        Ok(())
    }

    /// A checkpoint for lines that have waited long enough for one.
    fn append_due(&mut self) -> io::Result<()> {
        if !self.is_checkpoint_due() {
            return Ok(());
        }
        self.ready()?;
        self.sign(Cause::Interval)
    }

    fn is_checkpoint_due(&self) -> bool {
        self.end.n > self.signed
            && clock::instant().saturating_duration_since(self.signed_at) >= self.config.checkpoint
    }

    fn sign(&mut self, cause: Cause) -> io::Result<()> {
        let now = clock::wall();
        self.put(|end, key, to| end.append_with_key(&chain::checkpoint(cause, now), key, to))?;
        self.note_signed();
        match cause {
            // After a power cut the head may lag behind its file, but not by a whole file.
            Cause::Rotated => self.head.sync(),
            Cause::Start | Cause::File | Cause::Interval | Cause::End => Ok(()),
        }
    }

    fn note_signed(&mut self) {
        (self.signed, self.signed_at) = (self.end.n, clock::instant());
        // Whoever keeps the log elsewhere has what nobody here can take back.
        tracing::info!(n = self.end.n, hash = hex(&self.end.hash), "audit checkpoint");
    }

    /// Writes what is composed, all or nothing, and has the disk keep it.
    fn put(
        &mut self,
        compose: impl FnOnce(&mut ChainEnd, &AuditKey, &mut Vec<u8>),
    ) -> io::Result<()> {
        let open = self.open.as_mut().ok_or_else(|| io::Error::other("it is not open"))?;
        let (mut end, mut bytes) = (self.end, Vec::new());
        compose(&mut end, &self.key, &mut bytes);
        let kept = open.file.write_all(&bytes).and_then(|()| open.file.sync_data());
        if let Err(error) = kept {
            // What was refused must not stand there as if it had been allowed; should this fail
            // too, it is cut off when the file is opened again.
            let _ = open.file.set_len(open.known.length);
            self.open = None;
            return Err(error);
        }
        open.known.length += bytes.len() as u64;
        self.known = Some(open.known);
        self.end = end;
        self.head.write(end, clock::wall(), &self.key);
        Ok(())
    }

    /// Opens the file after a failure or when it was moved away (log rotation).
    fn ready(&mut self) -> io::Result<()> {
        let Some(open) = &mut self.open else {
            return self.open_file();
        };
        let about = open.file.metadata()?;
        let named = std::fs::symlink_metadata(&self.config.file);
        if named.is_ok_and(|named| open.known.is(&named)) {
            if about.is_file() && about.len() < open.known.length {
                tracing::warn!("the audit file was cut short by another program");
                open.known.length = about.len();
            }
            return Ok(());
        }
        match about.nlink() {
            0 => tracing::error!("the audit file was removed by another program"),
            _ => {
                // Its last line is signed, where it has gone.
                if let Err(error) = self.sign(Cause::Rotated) {
                    tracing::warn!(%error, "the audit file that was moved away has no last signature");
                }
            }
        }
        self.open_file()
    }

    fn reopen(&mut self) -> io::Result<()> {
        // What `ready` sees in its file is all that there is to see.
        self.ready()
    }

    fn open_file(&mut self) -> io::Result<()> {
        self.open = None;
        let file = private::open_to_append(&self.config.file)?;
        private::sync_directory_of(&self.config.file)?;
        let about = file.metadata()?;
        let mut known = KnownFile { device: about.dev(), inode: about.ino(), length: 0 };
        if about.is_file() {
            known.length = about.len();
            if let Some(before) = self.known.filter(|before| before.is(&about))
                && before.length < known.length
            {
                file.set_len(before.length)?;
                known.length = before.length;
            }
        }
        let found = match known.length {
            0 => FileEnds::default(),
            _ => FileEnds::of(&file)?,
        };
        if !found.torn.is_empty() {
            known.length -= found.torn.len() as u64;
            file.set_len(known.length)?;
        }
        let broken = self.go_on_from(&file, &found)?;
        // A chain begins once: lines without one that stand where it goes on are nobody's.
        let is_strange = found.before.is_some() && found.first.is_none() && self.end.n > 0;
        let strange = || Break { expected: Some(self.end), found: ChainEnd::default() };
        let broken = broken.or_else(|| is_strange.then(strange));
        let now = clock::wall();
        let first_at = found.first.as_ref().map_or(now, |first| first.at);
        self.open = Some(OpenFile { file, known, day: day_of(first_at) });
        let cause = match (self.has_begun, known.length) {
            (false, _) => Some(Cause::Start),
            (true, 0) => Some(Cause::File),
            (true, _) => None,
        };
        self.begin(&found, broken, cause)
    }

    /// The chain goes on behind the last line that is ours. Where lines are missing or others
    /// stand, what is missing is missed, and a line says so.
    fn go_on_from(&mut self, file: &File, found: &FileEnds) -> io::Result<Option<Break>> {
        let known = if self.has_begun { Some(Head::of(self.end)) } else { self.told };
        if let Some((last, _)) = found.last {
            let tail = tail::examine(file, known, &self.keys)?;
            return Ok(self.settle(known, tail, last));
        }
        if self.has_begun {
            return Ok(None);
        }
        // It was moved away while nobody wrote.
        let (files, compressed) = rotated(&self.config.file)?;
        let ends = files.into_iter().filter_map(|path| Some((ends_of(&path).ok()?.last?.0, path)));
        let last = ends.max_by_key(|(last, _)| last.n);
        match (known, last) {
            (known, Some((last, path))) if known.is_none_or(|known| known.end.n <= last.n) => {
                let tail = tail::examine(&private::open_existing(&path)?, known, &self.keys)?;
                return Ok(self.settle(known, tail, last));
            }
            (None, _) => return Ok(self.settle(None, Tail::default(), ChainEnd::default())),
            (Some(known), _) => self.end = known.end,
        }
        if self.end.n > 0 && compressed.is_empty() {
            tracing::error!(known = self.end.n, "the audit file is gone, and not beside its place");
        }
        Ok(None)
    }

    fn settle(&mut self, known: Option<Head>, tail: Tail, last: ChainEnd) -> Option<Break> {
        let expected = known.map(|known| known.end);
        self.end = tail.end.or(expected).unwrap_or_default();
        let is_whole = known.is_some() && tail.end.is_some() && !tail.has_strange;
        (!is_whole).then_some(Break { expected, found: last })
    }

    fn begin(
        &mut self,
        found: &FileEnds,
        broken: Option<Break>,
        cause: Option<Cause>,
    ) -> io::Result<()> {
        let now = clock::wall();
        let before = found.before.filter(|_| found.first.is_none() && self.end.n == 0);
        if before.is_none() && found.torn.is_empty() && broken.is_none() && cause.is_none() {
            return Ok(());
        }
        self.put(|end, key, to| {
            if let Some((lines, hash)) = before {
                end.append(&chain::chain_begun(lines, &hash, now), key, to);
            }
            if !found.torn.is_empty() {
                end.append(&chain::torn(&found.torn, now), key, to);
            }
            if let Some(broken) = &broken {
                end.append_with_key(&chain::broken(broken, now), key, to);
            }
            if let Some(cause) = cause {
                end.append_with_key(&chain::checkpoint(cause, now), key, to);
            }
        })?;
        if let Some(Break { expected, found }) = broken {
            metrics::counter!("undertone_audit_broken_total").increment(1);
            tracing::error!(
                expected = expected.map(|expected| expected.n),
                expected_hash = expected.map(|expected| hex(&expected.hash)),
                found = found.n,
                found_hash = hex(&found.hash),
                n = self.end.n,
                "the audit is not what was written: it was tampered with, or its head is lost"
            );
        }
        if cause.is_some() {
            self.note_signed();
        }
        self.has_begun = true;
        self.head.sync()
    }

    /// A full disk is found before the line that has no room.
    fn set_room_aside(&mut self) -> io::Result<()> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        let about = open.file.metadata()?;
        if !about.is_file() {
            // No room to set aside in a device or a pipe: an empty line tells.
            return open.file.write_all(b"\n");
        }
        let end = i64::try_from(about.len()).map_err(io::Error::other)?;
        match fallocate(&open.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, end, ROOM) {
            // A file system that promises no room.
            Ok(()) | Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => open.file.sync_data(),
            Err(error) => Err(error.into()),
        }
    }

    /// Where it cannot be rotated, the file goes on.
    fn rotate_when_due(&mut self) {
        let Some(open) = &self.open else { return };
        let is_full = self.config.rotate_size > 0 && open.known.length >= self.config.rotate_size;
        let is_old = match self.config.rotate {
            Rotation::Never => false,
            Rotation::Daily => day_of(clock::wall()) > open.day,
        };
        if !is_full && !is_old || open.known.length == 0 {
            return;
        }
        if let Err(error) = self.rotate() {
            tracing::warn!(%error, "the audit file can not be rotated, and goes on");
        }
        self.remove_old();
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.sign(Cause::Rotated)?;
        let mut name = self.config.file.as_os_str().to_owned();
        name.push(format!(".{:012}", self.end.n));
        let (from, to) = (&self.config.file, PathBuf::from(name));
        match renameat2(AT_FDCWD, from, AT_FDCWD, &to, RenameFlags::RENAME_NOREPLACE) {
            // A file system that knows no such thing; the number is in no other name.
            Err(Errno::EINVAL | Errno::ENOSYS) => std::fs::rename(from, &to)?,
            renamed => renamed?,
        }
        tracing::info!(file = %to.display(), "audit file rotated");
        self.open_file()
    }

    /// Removes the oldest files, whole, once their last line is old enough; a line says so first.
    fn remove_old(&mut self) {
        if self.config.keep_days == 0 || self.open.is_none() || clock::instant() < self.old_due {
            return;
        }
        self.old_due = clock::instant() + LOOK_FOR_OLD;
        if let Err(error) = self.try_remove_old() {
            tracing::warn!(%error, "old audit files can not be removed");
        }
    }

    fn try_remove_old(&mut self) -> io::Result<()> {
        let kept = u64::from(self.config.keep_days) * DAY;
        let before = Timestamp(clock::wall().0.saturating_sub(kept));
        let (files, _) = rotated(&self.config.file)?;
        let mut files: Vec<(u64, PathBuf, ChainEnd, Timestamp)> = files
            .into_iter()
            .filter_map(|path| {
                let ends = ends_of(&path).ok()?;
                let (last, at) = ends.last?;
                Some((ends.first?.n, path, last, at))
            })
            .collect();
        files.sort_by_key(|(first, ..)| *first);
        for (first, path, last, at) in files.into_iter().take_while(|(.., at)| *at < before) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let name = serde_json::Value::from(name).to_string();
            let members = format!(
                r#""at":"{}","event":"file_removed","file":{},"first":{first},"last":{},"hash":"{}","until":"{}""#,
                utc(clock::wall()),
                super::escaped_json(&name),
                last.n,
                hex(&last.hash),
                utc(at),
            );
            self.put(|end, key, to| end.append(&members, key, to))?;
            std::fs::remove_file(&path)?;
            private::sync_directory_of(&path)?;
            tracing::info!(file = %path.display(), "audit file removed: it is old enough");
        }
        Ok(())
    }
}

impl Drop for AuditFile {
    fn drop(&mut self) {
        if self.end.n > self.signed && self.open.is_some() {
            // The head is signed anyway.
            let _ = self.sign(Cause::End);
        }
    }
}
