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
mod tests;
