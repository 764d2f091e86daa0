//! The limit of open files: every client is one.

use crate::error::{Error, Kind, Result};

/// Files of a process besides its clients': weights, listeners, the runtime's own.
const OWN: u64 = 64;

/// Raises the limit to what the system allows, and says so if it holds fewer clients than are wanted.
///
/// # Errors
/// The system does not tell its limit.
pub fn raise(clients: u64) -> Result<Option<String>> {
    let refused = || Error::new(Kind::Io, format!("cannot read the limit of open files: {}", last()));
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: plain system calls on a value of ours.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return Err(refused());
    }
    let wanted = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
    // SAFETY: as above.
    let raised = limit.rlim_cur == limit.rlim_max || unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &wanted) } == 0;
    let (now, why) = match raised {
        true => (limit.rlim_max, "the system allows no more (ulimit -Hn)".to_string()),
        false => (limit.rlim_cur, format!("it could not be raised: {}", last())),
    };
    Ok(short(now, clients)
        .map(|room| format!("this process may open {now} files, enough for about {room} clients at once; {why}")))
}

/// The clients that there is room for, if fewer than wanted.
fn short(files: u64, clients: u64) -> Option<u64> {
    let room = files.saturating_sub(OWN);
    (room < clients).then_some(room)
}

fn last() -> std::io::Error {
    std::io::Error::last_os_error()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::alone::alone;

    #[test]
    fn the_limit_is_raised_to_the_systems() {
        alone("app::open_files::tests::the_limit_is_raised_to_the_systems", || {
            let set = |cur: u64, max: u64| {
                let limit = libc::rlimit { rlim_cur: cur, rlim_max: max };
                // SAFETY: a plain system call in a process of its own.
                assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
            };
            set(100, 300);
            assert_eq!(raise(200).unwrap(), None);
            let said = raise(1000).unwrap().expect("it is too low");
            assert!(
                said.contains("300 files") && said.contains("236 clients") && said.contains("ulimit -Hn"),
                "{said}"
            );
        });
    }
}
