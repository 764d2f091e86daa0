use super::*;
use crate::base::alone::{alone, limit_file_size};
use crate::error::Kind;
use std::time::Duration;

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
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
    assert_eq!((fs::read(target.join("a")).unwrap(), names(root.path())), (b"new".to_vec(), vec!["dir".to_string()]));
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
            assert_eq!((fs::read(&path).unwrap(), names(dir.path())), (b"before".to_vec(), vec!["out".to_string()]));
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
