//! Files and directories that appear whole or not at all.
//!
//! Both are built under a temporary name beside the final one, made durable (`fsync`), then renamed. A crash, a full
//! disk or an error on the way leaves the final name as it was: absent, or holding what it held before.
//!
//! A temporary is called `.NAME.gramophone-PID-COUNT.tmp` and its owner holds an advisory lock on it (`flock`) for as
//! long as it is being built. [`sweep`] removes the temporaries that nobody holds. A lock, unlike a process id, is
//! right across containers and machines that share a disk; where a file system has no locks, nothing is swept.

use crate::error::{Error, Result};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

const MARK: &str = ".gramophone-";
/// A file or directory under construction.
const BUILDING: &str = ".tmp";
/// A directory that is being replaced, on file systems that cannot exchange two names in one step.
const REPLACED: &str = ".old";

/// A file that takes its final name only at [`AtomicFile::commit`]; dropped before that, it leaves nothing behind.
///
/// A path that is a device or a pipe (`/dev/stdout`, a FIFO) is written directly: it has no "before" to keep.
pub struct AtomicFile {
    out: BufWriter<File>,
    path: PathBuf,
    /// `None` for a device or a pipe.
    temporary: Option<PathBuf>,
}

impl AtomicFile {
    /// Opens a temporary beside `path`. The directory must exist. A symbolic link is followed: its target is replaced.
    ///
    /// # Errors
    /// `path` is a directory, or the directory it names does not take a new file.
    pub fn create(path: impl AsRef<Path>) -> Result<AtomicFile> {
        let path = path.as_ref();
        let failed = |e| Error::io("create", path, e);
        let special = fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir());
        if special {
            let file = OpenOptions::new().write(true).open(path).map_err(failed)?;
            return Ok(AtomicFile { out: BufWriter::new(file), path: path.into(), temporary: None });
        }
        let target = resolve(path)?;
        if target.is_dir() {
            return Err(failed(io::Error::from(io::ErrorKind::IsADirectory)));
        }
        let (temporary, file) = reserve(&target, |name| OpenOptions::new().write(true).create_new(true).open(name))
            .map_err(|e| failed(name_missing_directory(&target, e)))?;
        Ok(AtomicFile { out: BufWriter::with_capacity(1 << 16, file), path: target, temporary: Some(temporary) })
    }

    /// The final name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The name it has until then; a device or a pipe has none.
    pub fn temporary(&self) -> Option<&Path> {
        self.temporary.as_deref()
    }

    /// Writes `bytes`; the error names the file. (Through [`Write`] it would not.)
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(|e| Error::io("write", &self.path, e))
    }

    /// Makes the contents durable and gives them the final name, replacing what was there.
    pub fn commit(mut self) -> Result<()> {
        let failed = |e| Error::io("write", &self.path, e);
        self.out.flush().map_err(failed)?;
        if let Some(temporary) = &self.temporary {
            self.out.get_ref().sync_all().map_err(failed)?;
            fs::rename(temporary, &self.path).map_err(failed)?;
            self.temporary = None;
            sync_directory(parent(&self.path))?;
        }
        Ok(())
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // A failure leaves a temporary for `sweep`; there is nobody to tell.
            let _ = fs::remove_file(temporary);
        }
    }
}

/// Replaces the file at `path` by one that holds `bytes`.
pub fn write_file(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.append(bytes)?;
    file.commit()
}

/// Builds a directory: `build` fills a temporary one, which then takes the name `path` at once. Parents are created.
///
/// **A directory that already has that name is replaced, with all it holds**; it stays whole until the new one is
/// complete. Callers that take `path` from a person check first that it is theirs to replace. A symbolic link is
/// followed: the directory it names is replaced.
///
/// # Errors
/// What `build` returns; or the file system refuses; or `path` is a file. Nothing has changed then.
pub fn atomic_dir(path: impl AsRef<Path>, build: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let path = path.as_ref();
    let failed = |e| Error::io("create directory", path, e);
    let target = resolve(path)?;
    if target.exists() && !target.is_dir() {
        return Err(failed(io::Error::from(io::ErrorKind::NotADirectory)));
    }
    fs::create_dir_all(parent(&target)).map_err(failed)?;
    let (temporary, _lock) =
        reserve(&target, |name| fs::create_dir(name).and_then(|()| File::open(name))).map_err(failed)?;
    let installed = build(&temporary)
        .and_then(|()| sync_tree(&temporary))
        .and_then(|()| install(&temporary, &target).map_err(failed));
    // After an exchange the temporary name holds the old directory; after an error, an unfinished one.
    let removed = remove_if_present(&temporary);
    installed?;
    removed.map_err(failed)?;
    sync_directory(parent(&target))
}

/// Removes a directory so that no crash leaves half of it under its name.
pub fn remove_dir(path: &Path) -> Result<()> {
    let failed = |e| Error::io("remove", path, e);
    let doomed = temporary_name(path, BUILDING);
    fs::rename(path, &doomed).map_err(failed)?;
    // A sweep elsewhere may be at it too.
    remove_if_present(&doomed).map_err(failed)
}

/// Clears `dir` of temporaries that no living process is building, and gives back its name to a directory whose
/// replacement was interrupted. Returns how many were dealt with; a directory that does not exist has none.
pub fn sweep(dir: &Path) -> Result<usize> {
    let failed = |e| Error::io("sweep", dir, e);
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries.map_err(failed)?,
    };
    let mut swept = 0;
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let Some((name, kind)) = path.file_name().and_then(parse_temporary) else { continue };
        // Some file systems lock only what is open for writing; a directory never is.
        let Ok(file) = OpenOptions::new().read(true).write(!path.is_dir()).open(&path) else { continue };
        if !matches!(try_lock(&file), Ok(Lock::Held)) {
            continue;
        }
        let original = path.with_file_name(name);
        if kind == REPLACED && !original.exists() {
            fs::rename(&path, &original).map_err(failed)?;
        } else {
            remove_if_present(&path).map_err(failed)?;
        }
        swept += 1;
    }
    Ok(swept)
}

/// The path with a final symbolic link followed. It always ends in a name.
fn resolve(path: &Path) -> Result<PathBuf> {
    let path = match path.is_symlink() {
        true => fs::canonicalize(path).map_err(|e| Error::io("follow the link", path, e))?,
        false => path.to_path_buf(),
    };
    match path.file_name() {
        Some(_) => Ok(path),
        None => Err(Error::usage(format!("{}: not a name that a file or directory could be given", path.display()))),
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

/// "No such file" of a file that is being created means its directory.
fn name_missing_directory(path: &Path, error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::NotFound => {
            io::Error::new(error.kind(), format!("there is no directory {}", parent(path).display()))
        }
        _ => error,
    }
}

fn temporary_name(target: &Path, kind: &str) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut name = OsString::from(".");
    name.push(target.file_name().expect("resolved paths end in a name"));
    name.push(format!("{MARK}{}-{}{kind}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    target.with_file_name(name)
}

/// `.NAME.gramophone-PID-COUNT.tmp` gives `NAME` and `.tmp`.
fn parse_temporary(file_name: &OsStr) -> Option<(&str, &'static str)> {
    let name = file_name.to_str()?.strip_prefix('.')?;
    let kind = [BUILDING, REPLACED].into_iter().find(|kind| name.ends_with(kind))?;
    let (original, numbers) = name.strip_suffix(kind)?.rsplit_once(MARK)?;
    let (pid, count) = numbers.split_once('-')?;
    (!original.is_empty() && pid.parse::<u32>().is_ok() && count.parse::<u64>().is_ok()).then_some((original, kind))
}

/// Makes and locks a new temporary. A sweep may take it between the two, so its survival is checked under the lock.
fn reserve(target: &Path, make: impl Fn(&Path) -> io::Result<File>) -> io::Result<(PathBuf, File)> {
    loop {
        let name = temporary_name(target, BUILDING);
        let file = match make(&name) {
            // Another container with the same process id, or a leftover of one: the next count is free.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
            made => made?,
        };
        match try_lock(&file)? {
            Lock::Taken => continue,
            Lock::Unsupported => return Ok((name, file)),
            Lock::Held if file.metadata()?.nlink() > 0 => return Ok((name, file)),
            Lock::Held => continue,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lock {
    Held,
    Taken,
    Unsupported,
}

/// An exclusive `flock`, released when the file is closed or its process ends. A process that another thread is just
/// starting shares it for a moment, so `Taken` of a lock that was ours proves nothing.
fn try_lock(file: &File) -> io::Result<Lock> {
    // SAFETY: a system call on a descriptor that `file` keeps open.
    match unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } {
        0 => Ok(Lock::Held),
        _ => {
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EWOULDBLOCK) => Ok(Lock::Taken),
                Some(libc::ENOSYS | libc::EOPNOTSUPP | libc::ENOLCK | libc::EINVAL | libc::EBADF) => {
                    Ok(Lock::Unsupported)
                }
                _ => Err(error),
            }
        }
    }
}

fn sync_directory(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| Error::io("sync", dir, e))
}

/// Makes every file below `dir`, then `dir` itself, durable.
fn sync_tree(dir: &Path) -> Result<()> {
    let failed = |e| Error::io("sync", dir, e);
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(failed)?);
        if kind.is_dir() {
            sync_tree(&path)?;
        } else if kind.is_file() {
            File::open(&path).and_then(|f| f.sync_all()).map_err(|e| Error::io("sync", &path, e))?;
        }
    }
    sync_directory(dir)
}

/// Gives `temporary` the name `target`. Where a directory has that name, the two are exchanged in one step; a file
/// system that cannot (NFS) needs two, and [`sweep`] undoes the first if the second never came.
fn install(temporary: &Path, target: &Path) -> io::Result<()> {
    if !target.exists() {
        return fs::rename(temporary, target);
    }
    match exchange(temporary, target) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP)) => {
            install_in_two_steps(temporary, target)
        }
        done => done,
    }
}

fn install_in_two_steps(temporary: &Path, target: &Path) -> io::Result<()> {
    let lock = File::open(target)?;
    // Against a sweep between the two steps. Where somebody else has the lock, a sweep does not get it either.
    try_lock(&lock)?;
    let old = temporary_name(target, REPLACED);
    fs::rename(target, &old)?;
    if let Err(e) = fs::rename(temporary, target) {
        fs::rename(&old, target)?;
        return Err(e);
    }
    fs::remove_dir_all(&old)
}

#[cfg(target_os = "linux")]
fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let name = |path: &Path| std::ffi::CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other);
    let (a, b) = (name(a)?, name(b)?);
    // SAFETY: two strings that end in NUL and live across the call. (Older C libraries lack the function by name.)
    let done = unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            libc::AT_FDCWD,
            a.as_ptr(),
            libc::AT_FDCWD,
            b.as_ptr(),
            libc::RENAME_EXCHANGE,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(not(target_os = "linux"))]
fn exchange(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}

fn remove_if_present(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(m) if m.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::alone::{alone, limit_file_size};
    use crate::error::Kind;
    use std::time::Duration;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_at_commit_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        for text in ["first", "second, longer", ""] {
            let before = fs::read(&path).ok();
            let mut file = AtomicFile::create(&path).unwrap();
            file.append(text.as_bytes()).unwrap();
            file.flush().unwrap();
            assert_eq!(fs::read(&path).ok(), before);
            file.commit().unwrap();
            assert_eq!(fs::read(&path).unwrap(), text.as_bytes());
            assert_eq!(names(dir.path()), ["out"]);
        }
    }

    #[test]
    fn a_file_dropped_after_any_number_of_bytes_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        write_file(&path, b"before").unwrap();
        for n in (0..40).chain([65_535, 65_536, 65_537, 200_000]) {
            let mut file = AtomicFile::create(&path).unwrap();
            file.append(&vec![7; n]).unwrap();
            drop(file);
            assert_eq!((fs::read(&path).unwrap(), names(dir.path())), (b"before".to_vec(), vec!["out".to_string()]));
        }
    }

    #[test]
    fn devices_are_written_and_never_replaced() {
        write_file("/dev/null", b"nothing").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
        let full = write_file("/dev/full", b"too much").unwrap_err();
        assert_eq!(full.kind(), Kind::Io);
        assert!(full.to_string().contains("/dev/full") && full.to_string().contains("free some space"), "{full}");
    }

    #[test]
    fn links_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write_file(&link, b"new").unwrap();
        assert!(link.is_symlink() && fs::read(&file).unwrap() == b"new");

        let (real, link) = (dir.path().join("real"), dir.path().join("dir"));
        fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        atomic_dir(&link, |tmp| write_file(tmp.join("a"), b"1")).unwrap();
        assert!(link.is_symlink() && names(&real) == ["a"]);
    }

    #[test]
    fn impossible_targets_are_refused_in_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let missing = AtomicFile::create(dir.path().join("no/file")).err().unwrap().to_string();
        assert!(missing.contains("there is no directory"), "{missing}");
        assert_eq!(AtomicFile::create(dir.path()).err().unwrap().kind(), Kind::Io);
        let file = dir.path().join("file");
        fs::write(&file, "kept").unwrap();
        assert_eq!(atomic_dir(&file, |_| Ok(())).unwrap_err().kind(), Kind::Io);
        assert_eq!(atomic_dir("..", |_| Ok(())).unwrap_err().kind(), Kind::Usage);
        assert_eq!(names(dir.path()), ["file"]);
    }

    /// Writes `contents` into two files, one of them nested, and fails when `budget` bytes are spent.
    fn build(tmp: &Path, contents: &[u8], mut budget: usize) -> Result<()> {
        fs::create_dir(tmp.join("inner")).unwrap();
        for name in ["a", "inner/b"] {
            let n = contents.len().min(budget);
            fs::write(tmp.join(name), &contents[..n]).unwrap();
            budget -= n;
            if n < contents.len() {
                return Err(Error::data("spent"));
            }
        }
        Ok(())
    }

    #[test]
    fn a_directory_is_replaced_whole_or_not_at_all() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("deep/dir");
        let read = || (fs::read(path.join("a")).unwrap(), fs::read(path.join("inner/b")).unwrap());
        assert!(atomic_dir(&path, |tmp| build(tmp, b"one", 4)).is_err());
        assert!(names(&root.path().join("deep")).is_empty());
        atomic_dir(&path, |tmp| build(tmp, b"one", 6)).unwrap();
        for budget in 0..6 {
            assert_eq!(atomic_dir(&path, |tmp| build(tmp, b"two", budget)).unwrap_err().to_string(), "spent");
            assert_eq!(read(), (b"one".to_vec(), b"one".to_vec()));
            assert_eq!(names(&root.path().join("deep")), ["dir"]);
        }
        atomic_dir(&path, |tmp| build(tmp, b"two", 6)).unwrap();
        assert_eq!(read(), (b"two".to_vec(), b"two".to_vec()));
        assert_eq!(names(&root.path().join("deep")), ["dir"]);
        // A lock that a process in the making shares for a moment must not be in the way.
        let shared = File::open(&path).unwrap();
        assert_eq!(try_lock(&shared).unwrap(), Lock::Held);
        remove_dir(&path).unwrap();
        assert!(names(&root.path().join("deep")).is_empty());
    }

    #[test]
    fn without_an_exchange_two_steps_replace_and_the_sweep_undoes_one() {
        let root = tempfile::tempdir().unwrap();
        let (target, temporary) = (root.path().join("dir"), root.path().join("new"));
        for (path, text) in [(&target, "old"), (&temporary, "new")] {
            fs::create_dir(path).unwrap();
            fs::write(path.join("a"), text).unwrap();
        }
        let interrupted = temporary_name(&target, REPLACED);
        fs::rename(&target, &interrupted).unwrap();
        assert_eq!(sweep(root.path()).unwrap(), 1);
        assert_eq!(fs::read(target.join("a")).unwrap(), b"old");
        install_in_two_steps(&temporary, &target).unwrap();
        assert_eq!(
            (fs::read(target.join("a")).unwrap(), names(root.path())),
            (b"new".to_vec(), vec!["dir".to_string()])
        );
    }

    #[test]
    fn the_sweep_takes_what_nobody_holds() {
        let dir = tempfile::tempdir().unwrap();
        let held = AtomicFile::create(dir.path().join("held")).unwrap();
        let kept = [".hidden.tmp", "plain.gramophone-1-2.tmp", ".x.gramophone-a-2.tmp", "file"];
        for name in kept {
            fs::write(dir.path().join(name), "").unwrap();
        }
        fs::write(dir.path().join(".out.gramophone-1-2.tmp"), "half").unwrap();
        fs::create_dir(dir.path().join(".model.gramophone-99999999-0.tmp")).unwrap();
        fs::write(dir.path().join(".model.gramophone-99999999-0.tmp/weights"), "half").unwrap();
        assert_eq!(sweep(dir.path()).unwrap(), 2);
        assert_eq!(names(dir.path()).len(), kept.len() + 1);
        held.commit().unwrap();
        assert!(dir.path().join("held").exists());
        assert_eq!(sweep(&dir.path().join("absent")).unwrap(), 0);
    }

    #[test]
    fn a_disk_that_fills_at_any_byte_leaves_the_previous_file() {
        alone("base::atomic::tests::a_disk_that_fills_at_any_byte_leaves_the_previous_file", || {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("out");
            let text = vec![b'x'; 150_000];
            write_file(&path, b"before").unwrap();
            for limit in [0, 1, 100, 65_535, 65_536, 65_537, 131_072, 149_999] {
                limit_file_size(limit);
                let error = write_file(&path, &text).unwrap_err();
                assert_eq!(error.kind(), Kind::Io);
                assert!(error.to_string().contains("out: "), "{error}");
                assert_eq!(
                    (fs::read(&path).unwrap(), names(dir.path())),
                    (b"before".to_vec(), vec!["out".to_string()])
                );
            }
            limit_file_size(150_000);
            write_file(&path, &text).unwrap();
            assert_eq!(fs::read(&path).unwrap(), text);
        });
    }

    #[test]
    fn a_killed_writer_leaves_only_what_the_sweep_takes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        write_file(&path, b"before").unwrap();
        let child = crate::base::alone::spawn(
            "base::atomic::tests::a_writer_to_be_killed",
            &[("GRAMOPHONE_TEST_OUT", path.as_os_str())],
        );
        let mut child = child.unwrap();
        // Once something is in it, it has been locked too.
        let started = || {
            fs::read_dir(dir.path())
                .unwrap()
                .map(|e| e.unwrap())
                .any(|e| e.path() != path && e.metadata().unwrap().len() > 0)
        };
        while !started() {
            assert!(child.try_wait().unwrap().is_none(), "the writer ended by itself");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(sweep(dir.path()).unwrap(), 0, "its owner lives");
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"before");
        assert_eq!(sweep(dir.path()).unwrap(), 1);
        assert_eq!(names(dir.path()), ["out"]);
    }

    /// The other half of the test above: outside of it there is nothing to do.
    #[test]
    fn a_writer_to_be_killed() {
        let Some(path) = std::env::var_os("GRAMOPHONE_TEST_OUT") else { return };
        let mut file = AtomicFile::create(path).unwrap();
        loop {
            file.append(&[0; 4096]).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
