//! Ctrl-C and SIGTERM while every worker of the runtime spins, as in a library that a hostile packet puts into an
//! endless loop: the process exits regardless. The process is this test binary, run again.

use std::{
    io::{BufRead, BufReader, Read},
    os::unix::process::ExitStatusExt,
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use orion_peer::cli::stop;
use rustix::process::{Pid, Signal, kill_process};

use crate::run::HANG;

const WORKERS: usize = 2;

/// Not a test: the process that the tests below run.
#[test]
#[ignore = "run by the tests of this module"]
fn a_process_whose_workers_all_spin() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build();
    let runtime = runtime.unwrap();
    let spinning = Arc::new(AtomicUsize::new(0));
    // The signal handler is installed before the workers are blocked.
    let asked = runtime.spawn(stop::shutdown_signal());
    std::thread::sleep(Duration::from_millis(300));
    for _ in 0..WORKERS {
        let spinning = Arc::clone(&spinning);
        runtime.spawn(async move {
            spinning.fetch_add(1, Ordering::Relaxed);
            loop {
                std::hint::spin_loop();
            }
        });
    }
    while spinning.load(Ordering::Relaxed) < WORKERS {
        std::thread::sleep(Duration::from_millis(10));
    }
    println!("\nall spin");
    runtime.block_on(async {
        // Like the clean shutdown of a command: it needs a worker, but none is free.
        tokio::select! {
            () = stop::shutdown_signal() => {}
            _ = asked => {}
        }
        println!("\nasked");
        tokio::time::sleep(Duration::from_millis(10)).await;
        std::future::pending::<()>().await;
    });
}

struct Spinning {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Spinning {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "stop::a_process_whose_workers_all_spin", "--ignored", "--nocapture"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut spinning = Self { child, lines };
        spinning.says("all spin");
        spinning
    }

    fn says(&mut self, words: &str) {
        assert!(self.lines.any(|line| line.unwrap() == words), "`{words}` did not appear");
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// The exit status; `None` while it is running.
    fn end(&mut self) -> Option<ExitStatus> {
        let limit = Instant::now() + HANG;
        while Instant::now() < limit {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }
}

impl Drop for Spinning {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn sigterm_ends_a_process_whose_workers_all_spin() {
    let mut spinning = Spinning::start();
    spinning.signal(Signal::TERM);
    let status = spinning.end().expect("SIGTERM does not end the process");
    assert_eq!((status.code(), status.signal()), (Some(130), None));
}

#[test]
fn a_second_ctrl_c_ends_a_process_whose_workers_all_spin() {
    let mut spinning = Spinning::start();
    spinning.signal(Signal::INT);
    spinning.says("asked");
    assert_eq!(
        spinning.child.try_wait().unwrap(),
        None,
        "the first signal requests a clean shutdown"
    );
    spinning.signal(Signal::INT);
    let status = spinning.end().expect("a second Ctrl-C does not end the process");
    assert_eq!((status.code(), status.signal()), (Some(130), None));
}

/// `timeout` signals its child and then the group, so that the child is signaled twice.
#[test]
fn two_immediate_signals_count_as_one() {
    for signal in [Signal::INT, Signal::TERM] {
        let rig = crate::run::Rig::new();
        let recv = rig.recv("frames", &[]);
        let send = rig.send("pattern:320x240", &[]);
        recv.event("keyframe", 1);
        for running in [recv, send] {
            running.signal(signal);
            running.signal(signal);
            let ended = running.end();
            assert_eq!(ended.code, Some(0), "{}", ended.stderr);
            ended.summary();
        }
    }
}

/// stdout is a pipe that nothing reads, so the clean shutdown never finishes.
#[test]
fn sigterm_ends_a_command_that_waits_for_its_reader() {
    let rig = crate::run::Rig::new();
    let mut recv = Command::new(env!("CARGO_BIN_EXE_orion-peer"))
        .args(["recv", "--json", "--out", "frames", "--signal", &rig.signal, "--color", "never"])
        .current_dir(rig.dir.path())
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut send = rig.send("pattern:320x240", &[]);
    let mut limit = Instant::now() + HANG;
    let mut wait_for = |name: &str| {
        while !rig.path(name).exists() {
            assert!(Instant::now() < limit, "no keyframes arrived");
            std::thread::sleep(Duration::from_millis(20));
        }
        limit = Instant::now() + HANG;
    };
    wait_for("frames/000002.h264");
    // More than the capacity of a pipe.
    for _ in 0..50 {
        send.type_line(&"x".repeat(4_000));
    }
    wait_for("frames/000010.h264");
    let mut stdout = recv.stdout.take().unwrap();
    let pid = Pid::from_raw(i32::try_from(recv.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let limit = Instant::now() + HANG;
    let status = loop {
        if let Some(status) = recv.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > limit {
            let _ = recv.kill();
            let _ = recv.wait();
            panic!("SIGTERM does not end the process");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(status.code(), Some(130));
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("keyframe") || rest.contains("connected") || rest.contains("xxx"));
    send.kill();
}
