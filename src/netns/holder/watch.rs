//! A thread that ends the processes inside a lab when its holder is killed. It does not depend on the
//! holder: the namespaces exist as long as the thread has them open.

#[cfg(target_os = "linux")]
pub(super) use self::linux::start;

/// No labs on this platform.
#[cfg(not(target_os = "linux"))]
pub(super) fn start(_: &super::Holder) -> std::io::Result<std::thread::JoinHandle<()>> {
    Err(std::io::ErrorKind::Unsupported.into())
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        fs::File,
        io,
        os::fd::AsRawFd,
        process::{Command, Stdio},
        sync::Arc,
        thread::{self, JoinHandle},
    };

    use rustix::{
        io::Errno,
        process::{Pid, WaitId, WaitIdOptions, waitid},
    };

    use crate::netns::holder::{Holder, PATIENCE, REAP, close, search_path};

    /// The namespaces in which the namespaces of the lab are named.
    struct Outer {
        user: Option<File>,
        mounts: File,
    }

    /// Starts the thread; it ends with the holder.
    pub(in crate::netns::holder) fn start(holder: &Holder) -> io::Result<JoinHandle<()>> {
        let id = holder.process.id();
        let open = |kind: &str| File::open(format!("/proc/{id}/ns/{kind}"));
        let user = if holder.user_namespace { Some(open("user")?) } else { None };
        let outer = Outer { user, mounts: open("mnt")? };
        let stdin = Arc::clone(&holder.stdin);
        let watch = move || {
            if !ended_well(id) {
                // Makes the guard end, if it is still running.
                close(&stdin);
                outer.reap();
            }
        };
        thread::Builder::new().name("lab-holder".to_owned()).spawn(watch)
    }

    impl Outer {
        fn reap(&self) {
            let path =
                |file: &File| format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
            let mut command = Command::new("nsenter");
            if let Some(user) = &self.user {
                command.arg(format!("--user={}", path(user))).arg("--preserve-credentials");
            }
            command.arg(format!("--mount={}", path(&self.mounts)));
            command.args(["--", "sh", "-c", &format!("{REAP}reap {PATIENCE}")]);
            command.env("PATH", search_path());
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            // If it does not start, the guard kills the processes.
            let _ = command.status();
        }
    }

    /// Waits for a child to exit without reaping it, so that its PID stays in use until it is waited for
    /// again: a path with that PID must not refer to another process.
    fn ended_well(id: u32) -> bool {
        let Some(pid) = Pid::from_raw(id.cast_signed()) else { return true };
        loop {
            match waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
                Ok(Some(status)) => return status.exit_status() == Some(0),
                Ok(None) | Err(Errno::INTR) => {}
                Err(_) => return true,
            }
        }
    }
}
