//! Commands that run until somebody stops them: ours beside etcdctl, and each of them waiting for the other.

use std::{
    io::{Read as _, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use harness::{Cluster, Options, server_binary};
use rustix::process::{Pid, Signal, kill_process};

use super::{judge, ours, without_leases};

/// Everything here happens at once; machines are slow.
const PATIENCE: Duration = Duration::from_secs(30);

/// A program that runs.
struct Live {
    child: Child,
    output: Arc<Mutex<String>>,
}

impl Live {
    fn start(program: &Path, endpoint: &str, args: &[&str]) -> Self {
        let mut child = Command::new(program)
            .arg(format!("--endpoints={endpoint}"))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = Arc::new(Mutex::new(String::new()));
        let (mut pipe, shared) = (child.stdout.take().unwrap(), Arc::clone(&output));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = pipe.read(&mut buffer) {
                shared.lock().unwrap().extend(buffer[..length].iter().map(|byte| char::from(*byte)));
            }
        });
        Self { child, output }
    }

    fn seen(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    fn wait_for(&self, text: &str) {
        let begun = Instant::now();
        while !self.seen().contains(text) {
            assert!(begun.elapsed() < PATIENCE, "{text:?} did not come: {:?}", self.seen());
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn say(&mut self, line: &str) {
        self.child.stdin.as_mut().unwrap().write_all(line.as_bytes()).unwrap();
    }

    fn interrupt(&self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, Signal::INT).unwrap();
    }

    /// Waits for its end: its exit code and all that it printed.
    fn end(mut self) -> (Option<i32>, String) {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                // The reader sees the end of the pipe a moment later.
                thread::sleep(Duration::from_millis(50));
                return (status.code(), self.seen());
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end: {:?}", self.seen());
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn kill(mut self) -> String {
        self.child.kill().unwrap();
        self.end().1
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // A failed test leaves nothing behind; what has ended has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Stage {
    cluster: Cluster,
    etcdctl: std::path::PathBuf,
    _folder: tempfile::TempDir,
    ours: std::path::PathBuf,
}

impl Stage {
    fn new(server: &Path) -> Self {
        let options = Options { binary: Some(server.to_path_buf()), ..Options::new(1) };
        let folder = tempfile::tempdir().unwrap();
        let ours = ours(folder.path());
        Self {
            cluster: Cluster::start_with(&options).unwrap(),
            etcdctl: judge("ETCDCTL_BIN", "etcdctl"),
            _folder: folder,
            ours,
        }
    }

    fn programs(&self) -> [&Path; 2] {
        [&self.etcdctl, &self.ours]
    }

    fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.cluster.members()[0].addresses.client)
    }

    fn start(&self, program: &Path, args: &[&str]) -> Live {
        Live::start(program, &self.endpoint(), args)
    }

    /// A command of etcdctl's that ends; its output.
    fn run(&self, args: &[&str]) -> String {
        let (code, output) = self.start(&self.etcdctl, args).end();
        assert_eq!(code, Some(0), "{args:?}: {output}");
        output
    }

    /// Both programs print the same until `last` is there.
    fn same(&self, args: &[&str], last: &str) {
        let [theirs, ours] = self.programs().map(|program| {
            let live = self.start(program, args);
            live.wait_for(last);
            live.kill()
        });
        assert_eq!(theirs, ours, "{args:?}");
    }

    fn watches(&self) {
        for args in
            [&["put", "w/1", "a"][..], &["put", "w/1", "b\u{1}"], &["del", "w/1"], &["put", "w/2", "end"]]
        {
            self.run(args);
        }
        for format in ["simple", "fields", "json", "protobuf"] {
            let last = if format == "json" { "ZW5k" } else { "end" };
            for extra in [&[][..], &["--prev-kv"], &["--hex"]] {
                let last = if extra == ["--hex"] && format == "simple" { r"\x65\x6e\x64" } else { last };
                let args = [&["watch", "w/", "--prefix", "--rev=1", "-w", format][..], extra].concat();
                self.same(&args, last);
            }
        }
        self.same(&["watch", "w/1", "w/3", "--rev=3"], "end");
        let show = "echo $ETCD_WATCH_REVISION $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY $ETCD_WATCH_VALUE";
        self.same(
            &["watch", "w/", "--prefix", "--rev=1", "--", "sh", "-c", show],
            "5 \"PUT\" \"w/2\" \"end\"",
        );
    }

    fn interactive_watches(&self) {
        let [theirs, ours] = self.programs().map(|program| {
            let mut live = self.start(program, &["watch", "-i"]);
            live.say("watch i/ --prefix\nwatch 'w/2' --rev=2\n");
            live.wait_for("end");
            live.say("progress\n");
            live.wait_for("progress notify: ");
            self.run(&["put", "i/1", "one"]);
            live.wait_for("one");
            let seen = live.kill();
            // A progress line belongs to each of two watches, and its revision moves on.
            let (before, after) = seen.split_once("progress notify").unwrap();
            (before.to_owned(), after.contains("PUT\ni/1\none\n"))
        });
        assert_eq!(theirs, ours);
        assert!(ours.1);
    }

    /// Whoever holds the lock, the other program waits for it.
    fn locks(&self) {
        for (first, second) in
            [(&self.ours, &self.etcdctl), (&self.etcdctl, &self.ours), (&self.ours, &self.ours)]
        {
            let holder = self.start(first, &["lock", "l"]);
            holder.wait_for("l/");
            let waiter = self.start(second, &["lock", "l", "echo", "mine"]);
            thread::sleep(Duration::from_millis(500));
            assert_eq!(waiter.seen(), "", "two hold one lock");
            holder.interrupt();
            let (code, output) = holder.end();
            assert_eq!((code, &without_leases(&output)[..]), (Some(0), "l/<id>\n\n"));
            assert_eq!(waiter.end(), (Some(0), "mine\n".to_owned()));
        }
    }

    fn elections(&self) {
        for (leader, candidate) in [(&self.ours, &self.etcdctl), (&self.etcdctl, &self.ours)] {
            let first = self.start(leader, &["elect", "e", "p1"]);
            first.wait_for("p1");
            let observers = self.programs().map(|program| self.start(program, &["elect", "-l", "e"]));
            for observer in &observers {
                observer.wait_for("p1");
            }
            let second = self.start(candidate, &["elect", "e", "p2"]);
            thread::sleep(Duration::from_millis(500));
            assert_eq!(second.seen(), "", "two lead");
            first.interrupt();
            assert_eq!(first.end().0, Some(0));
            second.wait_for("p2");
            for observer in observers {
                observer.wait_for("p2");
                observer.interrupt();
                let (code, output) = observer.end();
                assert_eq!((code, &without_leases(&output)[..]), (Some(0), "e/<id>\np1\ne/<id>\np2\n"));
            }
            second.interrupt();
            assert_eq!(second.end().0, Some(0));
        }
    }

    fn keep_alives(&self) {
        let [theirs, ours] = self.programs().map(|program| {
            let lease = self.run(&["lease", "grant", "3"]);
            let id = lease.split_whitespace().nth(1).unwrap();
            let live = self.start(program, &["lease", "keep-alive", id]);
            // The lease would be gone after the first of these.
            thread::sleep(Duration::from_millis(4500));
            let renewals = live.seen().lines().count();
            assert!((3..=7).contains(&renewals), "{renewals} renewals in 4.5 s: {}", live.seen());
            self.run(&["lease", "revoke", id]);
            let (code, output) = live.end();
            let output = without_leases(&output);
            let lines: Vec<_> = output.lines().collect();
            (code, lines[0].to_owned(), lines[lines.len() - 1].to_owned())
        });
        assert_eq!(theirs, ours);
        assert!(ours.2.contains("expired or revoked."), "{ours:?}");
    }

    fn mirrors(&self) {
        self.run(&["put", "from/0", "zero"]);
        for (index, program) in self.programs().iter().enumerate() {
            let (endpoint, to) = (self.endpoint(), format!("to{index}/"));
            let args = ["make-mirror", &endpoint, "--prefix", "from/", "--dest-prefix", &to];
            let live = self.start(program, &args);
            let wait = |keys: &str| {
                let begun = Instant::now();
                while self.run(&["get", &to, "--prefix"]) != keys {
                    assert!(begun.elapsed() < PATIENCE, "no mirror: {}", live.seen());
                    thread::sleep(Duration::from_millis(50));
                }
            };
            wait(&format!("{to}0\nzero\n"));
            self.run(&["put", "from/1", "one"]);
            self.run(&["del", "from/0"]);
            wait(&format!("{to}1\none\n"));
            self.run(&["put", "from/0", "zero"]);
            self.run(&["del", "from/1"]);
            wait(&format!("{to}0\nzero\n"));
        }
    }

    fn play(&self) {
        self.watches();
        self.interactive_watches();
        self.locks();
        self.elections();
        self.keep_alives();
        self.mirrors();
    }
}

#[test]
fn what_runs_until_it_is_stopped_on_etcd() {
    Stage::new(&judge("ETCD_BIN", "etcd")).play();
}

#[test]
fn what_runs_until_it_is_stopped_on_quorate() {
    Stage::new(&server_binary().unwrap()).play();
}
