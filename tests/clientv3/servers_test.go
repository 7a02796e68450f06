// Package clientv3_test runs programs written with etcd's Go client against quorate, and compares
// quorate with stock etcd request by request.
//
// The servers are processes that the tests start themselves:
//
//	QUORATE_BIN   the server under test (default: the newest of target/{release,debug}/quorate)
//	ETCD_BIN      stock etcd 3.7.3 for the comparisons (default: etcd in $QUORATE_GO_DIR, else in
//	              ~/.cache/quorate/go, where tests/etcd-suite/build.sh puts it)
//
// With QUORATE_BIN = ETCD_BIN the tests check themselves: stock etcd must pass all of them.
package clientv3_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// program returns the path in the environment variable, or the newest of the files that exist.
func program(t testing.TB, variable string, candidates ...string) string {
	t.Helper()
	if path := os.Getenv(variable); path != "" {
		path, err := filepath.Abs(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(path); err != nil {
			t.Fatalf("%s: %v", variable, err)
		}
		return path
	}
	var newest string
	var at time.Time
	for _, path := range candidates {
		if info, err := os.Stat(path); err == nil && info.ModTime().After(at) {
			newest, at = path, info.ModTime()
		}
	}
	if newest == "" {
		t.Fatalf("%s is not set and there is none of %s", variable, strings.Join(candidates, ", "))
	}
	newest, err := filepath.Abs(newest)
	if err != nil {
		t.Fatal(err)
	}
	return newest
}

func quorateBin(t testing.TB) string {
	target := os.Getenv("CARGO_TARGET_DIR")
	if target == "" {
		target = "../../target"
	}
	return program(t, "QUORATE_BIN", filepath.Join(target, "release/quorate"), filepath.Join(target, "debug/quorate"))
}

func etcdBin(t testing.TB) string {
	dir := os.Getenv("QUORATE_GO_DIR")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(home, ".cache/quorate/go")
	}
	return program(t, "ETCD_BIN", filepath.Join(dir, "etcd"))
}

// given has the ports that this process has got, each with its lock: tests that run side by side get none twice.
var given sync.Map

// freePort finds a TCP port that nobody has, below the range that the kernel hands out itself, so that no
// outgoing connection takes it between a kill and a restart. A lock on a file keeps the other suites away
// from it until this process ends (tests/it/src/ports.rs takes the same ones).
func freePort(t testing.TB) int {
	t.Helper()
	locks := filepath.Join(os.TempDir(), "quorate-ports")
	if err := os.MkdirAll(locks, 0o755); err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		port := 10000 + rand.IntN(9000)
		if _, taken := given.Load(port); taken || !portFree(t, port) {
			continue
		}
		lock, err := os.OpenFile(filepath.Join(locks, strconv.Itoa(port)), os.O_CREATE|os.O_RDWR, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			given.Store(port, lock)
			return port
		}
		lock.Close()
	}
	t.Fatal("no free port between 10000 and 19000")
	return 0
}

// portFree asks the kernel's table. Listening on the port would tell too, but what this process has open, a
// child that another test starts in that moment keeps from its fork to its exec: of 94,564 ports that were
// listened on and let go beside four such tests, 300 were still taken, for up to 39 ms.
func portFree(t testing.TB, port int) bool {
	t.Helper()
	const timeWait = "06"
	local := fmt.Sprintf(":%04X", port)
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.ReadFile(table)
		if err != nil && !os.IsNotExist(err) { // a kernel without IPv6
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			columns := strings.Fields(line)
			if len(columns) > 3 && strings.HasSuffix(columns[1], local) && columns[3] != timeWait {
				return false
			}
		}
	}
	return true
}

// member is one server process, which can be killed and started again with the same arguments.
type member struct {
	t        testing.TB
	name     string
	bin      string
	args     []string
	endpoint string // host:port of clients

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has been waited for
	log  *os.File
}

const (
	readyLine    = "ready to serve client requests"
	startTimeout = 30 * time.Second
)

// start runs the process and returns at once; ready waits for it.
func (m *member) start() (ready <-chan error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	cmd := exec.Command(m.bin, m.args...)
	// The server's environment is its configuration: nothing of ours may leak into it.
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "ETCD_") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	r, w, err := os.Pipe()
	if err != nil {
		m.t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	result := make(chan error, 1)
	// Pdeathsig is bound to the thread that forks: keep that thread for the life of the process.
	started := make(chan error)
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		err := cmd.Start()
		w.Close()
		started <- err
		if err == nil {
			cmd.Wait()
			close(done)
		}
	}()
	if err := <-started; err != nil {
		m.t.Fatalf("%s: %v", m.name, err)
	}
	m.cmd, m.done = cmd, done
	log := m.log
	go func() {
		defer r.Close()
		seen := false
		lines := bufio.NewReader(r)
		for {
			line, err := lines.ReadString('\n')
			io.WriteString(log, line)
			if !seen && strings.Contains(line, readyLine) {
				seen = true
				result <- nil
			}
			if err != nil {
				if !seen {
					result <- fmt.Errorf("%s ended before it was ready", m.name)
				}
				return
			}
		}
	}()
	return result
}

func (m *member) awaitReady(ready <-chan error) {
	m.t.Helper()
	select {
	case err := <-ready:
		if err != nil {
			m.t.Fatal(err)
		}
	case <-time.After(startTimeout):
		m.t.Fatalf("%s did not say %q within %v", m.name, readyLine, startTimeout)
	}
}

// crashed says that the process ended although nobody sent it a signal.
func (m *member) crashed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cmd == nil {
		return false
	}
	select {
	case <-m.done:
		return true
	default:
		return false
	}
}

// signal sends sig and waits for the process to end.
func (m *member) signal(sig syscall.Signal) {
	m.mu.Lock()
	cmd, done := m.cmd, m.done
	m.cmd = nil
	m.mu.Unlock()
	if cmd == nil {
		return
	}
	cmd.Process.Signal(sig)
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		cmd.Process.Kill()
		<-done
		m.t.Errorf("%s did not end within 20 s of %v", m.name, sig)
	}
}

func (m *member) kill() { m.signal(syscall.SIGKILL) }
func (m *member) stop() { m.signal(syscall.SIGTERM) }

// newMember prepares a member whose process ends with the test, and whose log is printed if the test fails.
func newMember(t testing.TB, bin, name, endpoint string, args ...string) *member {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), name+".log"))
	if err != nil {
		t.Fatal(err)
	}
	m := &member{t: t, name: name, bin: bin, args: args, endpoint: endpoint, log: log}
	t.Cleanup(func() {
		m.kill()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("the end of the log of %s:\n%s", name, text[max(0, len(text)-1500):])
		}
		log.Close()
	})
	return m
}

// cluster is n members on free ports, started and ready.
type cluster struct {
	t       testing.TB
	members []*member
}

func startCluster(t testing.TB, bin string, n int, flags ...string) *cluster {
	t.Helper()
	c := prepareCluster(t, n, func(peer int) int { return peer }, bin, flags...)
	c.startAll()
	return c
}

// prepareCluster makes the members but does not start them. advertise tells the port under which the
// others reach the member that listens to peers on the given one.
func prepareCluster(t testing.TB, n int, advertise func(peer int) int, bin string, flags ...string) *cluster {
	t.Helper()
	clients, peers, reached := make([]int, n), make([]int, n), make([]int, n)
	var initial []string
	for i := range n {
		clients[i], peers[i] = freePort(t), freePort(t)
		reached[i] = advertise(peers[i])
		initial = append(initial, fmt.Sprintf("m%d=http://127.0.0.1:%d", i, reached[i]))
	}
	c := &cluster{t: t}
	for i := range n {
		args := append([]string{
			"--name", fmt.Sprintf("m%d", i),
			"--data-dir", filepath.Join(t.TempDir(), "data"),
			"--listen-client-urls", fmt.Sprintf("http://127.0.0.1:%d", clients[i]),
			"--advertise-client-urls", fmt.Sprintf("http://127.0.0.1:%d", clients[i]),
			"--listen-peer-urls", fmt.Sprintf("http://127.0.0.1:%d", peers[i]),
			"--initial-advertise-peer-urls", fmt.Sprintf("http://127.0.0.1:%d", reached[i]),
			"--initial-cluster", strings.Join(initial, ","),
			"--initial-cluster-token", "clientv3-test",
			"--initial-cluster-state", "new",
		}, flags...)
		c.members = append(c.members, newMember(t, bin, fmt.Sprintf("m%d", i), fmt.Sprintf("127.0.0.1:%d", clients[i]), args...))
	}
	return c
}

// startAll starts the members together and waits until all are ready.
func (c *cluster) startAll() {
	c.t.Helper()
	var readies []<-chan error
	for _, m := range c.members {
		readies = append(readies, m.start())
	}
	for i, m := range c.members {
		m.awaitReady(readies[i])
	}
}

func (c *cluster) endpoints() []string {
	var list []string
	for _, m := range c.members {
		list = append(list, m.endpoint)
	}
	return list
}

// client connects as the seed program does: with a dial timeout of five seconds.
func client(t testing.TB, endpoints ...string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: 5 * time.Second})
	if err != nil {
		t.Fatalf("connect to %v: %v", endpoints, err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// patience is how long a client waits for one answer of a cluster that has lost its leader. A member may
// hold a request that it forwarded to the dead leader for seven seconds: the client gives up sooner.
const patience = 1500 * time.Millisecond

// leader returns the member that leads, by its own word.
func (c *cluster) leader(ctx context.Context, cl *clientv3.Client) *member {
	c.t.Helper()
	for ctx.Err() == nil {
		for _, m := range c.members {
			m.mu.Lock()
			running := m.cmd != nil
			m.mu.Unlock()
			if !running {
				continue
			}
			try, cancel := context.WithTimeout(ctx, time.Second)
			status, err := cl.Status(try, m.endpoint)
			cancel()
			if err == nil && status.Leader != 0 && status.Leader == status.Header.MemberId {
				return m
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	c.t.Fatal("no leader")
	return nil
}

func testContext(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}
