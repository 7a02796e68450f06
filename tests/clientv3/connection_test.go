package clientv3_test

import (
	"context"
	"fmt"
	"net"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// bothServers runs a test against etcd and the server under test at the same time: what it finds of one it
// must find of the other.
func bothServers(t *testing.T, f func(t *testing.T, bin string)) {
	t.Parallel()
	for name, bin := range map[string]string{"etcd": etcdBin(t), "quorate": quorateBin(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, bin)
		})
	}
}

// TestFailover kills each of three members in turn while a client that knows all of them works. Reads, which
// clientv3 tries again elsewhere, never fail; a write that was under way may.
func TestFailover(t *testing.T) {
	t.Parallel()
	c := startCluster(t, quorateBin(t), 3)
	ctx := testContext(t, 2*time.Minute)
	cl := quietClient(t, clientv3.Config{Endpoints: c.endpoints()})
	if _, err := cl.Put(ctx, "key", "value"); err != nil {
		t.Fatal(err)
	}

	var reads, serializable, writes, lost atomic.Int64
	stop := make(chan struct{})
	var work sync.WaitGroup
	loop := func(counter *atomic.Int64, once func() error) {
		work.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := once(); err != nil {
					t.Errorf("after %d: %v", counter.Load(), err)
					return
				}
				counter.Add(1)
			}
		})
	}
	loop(&reads, func() error {
		// Longer than an election, and than the time that a member holds a request for a dead leader.
		try, cancel := context.WithTimeout(ctx, 15*time.Second)
		defer cancel()
		_, err := cl.Get(try, "key")
		return err
	})
	loop(&serializable, func() error {
		// One member is enough for this: the client finds one at once.
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		_, err := cl.Get(try, "key", clientv3.WithSerializable())
		return err
	})
	const writers = 3
	for range writers {
		loop(&writes, func() error {
			try, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			_, err := cl.Put(try, "key", "value")
			if code := errorCode(err); code == codes.Unavailable || code == codes.DeadlineExceeded {
				lost.Add(1)
				return nil
			}
			return err
		})
	}
	for _, m := range c.members {
		for _, counter := range []*atomic.Int64{&reads, &serializable, &writes} {
			from := counter.Load()
			waitFor(t, 20*time.Second, "work to go on", func() bool { return counter.Load() > from+20 })
		}
		m.kill()
		for _, counter := range []*atomic.Int64{&reads, &serializable, &writes} {
			from := counter.Load()
			waitFor(t, 20*time.Second, "work to go on without "+m.name, func() bool { return counter.Load() > from+20 })
		}
		again := time.Now()
		m.awaitReady(m.start())
		if d := time.Since(again); d > 6*time.Second {
			t.Errorf("%s took %v to be ready", m.name, d)
		}
	}
	close(stop)
	work.Wait()
	// A write may meet the connection that dies, and then, until there is a new leader, the one that is gone.
	if n := lost.Load(); n > 4*writers*int64(len(c.members)) {
		t.Errorf("%d writes failed over %d kills", n, len(c.members))
	}
	t.Logf("%d linearizable reads, %d serializable ones, %d writes; %d writes met a dying member",
		reads.Load(), serializable.Load(), writes.Load()-lost.Load(), lost.Load())
}

// TestReconnect restarts the only member that the client knows, gracefully and not.
func TestReconnect(t *testing.T) {
	t.Parallel()
	c := startCluster(t, quorateBin(t), 1)
	ctx := testContext(t, time.Minute)
	cl := quietClient(t, clientv3.Config{Endpoints: c.endpoints(), RejectOldCluster: true})
	for i := range 4 {
		if _, err := cl.Put(ctx, fmt.Sprint(i), ""); err != nil {
			t.Fatal(err)
		}
		m := c.members[0]
		if i%2 == 0 {
			m.kill()
		} else {
			m.stop()
		}
		// A read that begins while nobody is there waits until somebody is.
		found := make(chan error, 1)
		go func() {
			got, err := cl.Get(ctx, "", clientv3.WithPrefix())
			if err == nil && got.Count != int64(i+1) {
				err = fmt.Errorf("%d keys of %d", got.Count, i+1)
			}
			found <- err
		}()
		time.Sleep(50 * time.Millisecond)
		m.awaitReady(m.start())
		if err := <-found; err != nil {
			t.Fatal(err)
		}
	}
	if err := cl.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := cl.Get(ctx, "0"); errorCode(err) != codes.Canceled {
		t.Errorf("after Close: %v", err)
	}
}

// TestSync has a client that knows one member learn of the others.
func TestSync(t *testing.T) {
	t.Parallel()
	c := startCluster(t, quorateBin(t), 3)
	ctx := testContext(t, time.Minute)
	cl := quietClient(t, clientv3.Config{Endpoints: c.endpoints()[:1]})
	auto := quietClient(t, clientv3.Config{Endpoints: c.endpoints()[1:2], AutoSyncInterval: 100 * time.Millisecond})
	if err := cl.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	waitFor(t, 5*time.Second, "three endpoints", func() bool { return len(cl.Endpoints()) == 3 && len(auto.Endpoints()) == 3 })
	for _, m := range c.members[:2] {
		m.kill()
		for _, cl := range []*clientv3.Client{cl, auto} {
			if _, err := cl.Get(ctx, "key"); err != nil {
				t.Fatalf("without %s: %v", m.name, err)
			}
		}
		m.awaitReady(m.start())
	}
}

// TestClientKeepAlive silences the connection to a member. A client that pings notices and goes elsewhere;
// idle connections are pinged only where PermitWithoutStream says so.
func TestClientKeepAlive(t *testing.T) { bothServers(t, testClientKeepAlive) }

func testClientKeepAlive(t *testing.T, bin string) {
	c := startCluster(t, bin, 1)
	ctx := testContext(t, time.Minute)
	// Ten seconds is the least that gRPC pings after.
	const every, answer = 10 * time.Second, time.Second
	config := func(permit bool) clientv3.Config {
		return clientv3.Config{DialKeepAliveTime: every, DialKeepAliveTimeout: answer, PermitWithoutStream: permit}
	}
	connect := func(permit bool, bridges ...*bridge) *clientv3.Client {
		cfg := config(permit)
		for _, b := range bridges {
			cfg.Endpoints = append(cfg.Endpoints, b.endpoint())
		}
		cl := quietClient(t, cfg)
		for range 2 * len(bridges) { // so that each connection has been used
			if _, err := cl.Get(ctx, "key"); err != nil {
				t.Fatal(err)
			}
		}
		return cl
	}
	bridges := make([]*bridge, 5)
	for i := range bridges {
		bridges[i] = startBridge(t, c.members[0].endpoint)
	}
	working := connect(false, bridges[0], bridges[1])
	connect(true, bridges[2])  // idle, permitted, silenced
	connect(false, bridges[3]) // idle, not permitted, silenced
	connect(true, bridges[4])  // idle, permitted, answered
	for _, i := range []int{0, 2, 3} {
		bridges[i].silence()
	}
	began := time.Now()
	var slowest time.Duration
	for time.Since(began) < every+answer+2*time.Second {
		at := time.Now()
		if _, err := working.Get(ctx, "key"); err != nil {
			t.Fatal(err)
		}
		slowest = max(slowest, time.Since(at))
		time.Sleep(20 * time.Millisecond)
	}
	if slowest < every-time.Second || slowest > every+answer+2*time.Second {
		t.Errorf("the slowest read took %v", slowest)
	}
	for i, want := range []int{1, 0, 1, 0, 0} {
		if ended := bridges[i].endedByOpener(); (ended > 0) != (want > 0) {
			t.Errorf("connection %d was given up %d times, expected %d", i, ended, want)
		}
	}
}

// TestServerKeepAlive speaks HTTP/2 by hand: the server pings a silent connection, keeps one that answers and
// closes one that does not.
func TestServerKeepAlive(t *testing.T) { bothServers(t, testServerKeepAlive) }

func testServerKeepAlive(t *testing.T, bin string) {
	c := startCluster(t, bin, 1, "--grpc-keepalive-interval=1s", "--grpc-keepalive-timeout=1s")
	type end struct {
		after time.Duration
		pings int
	}
	connection := func(answer bool) end {
		conn, err := net.Dial("tcp", c.members[0].endpoint)
		if err != nil {
			t.Error(err)
			return end{}
		}
		defer conn.Close()
		began := time.Now()
		conn.SetDeadline(began.Add(5 * time.Second))
		conn.Write([]byte(http2.ClientPreface))
		framer := http2.NewFramer(conn, conn)
		framer.WriteSettings()
		var e end
		for {
			frame, err := framer.ReadFrame()
			if err != nil {
				e.after = time.Since(began)
				return e
			}
			switch f := frame.(type) {
			case *http2.SettingsFrame:
				if !f.IsAck() {
					framer.WriteSettingsAck()
				}
			case *http2.PingFrame:
				if !f.IsAck() {
					e.pings++
					if answer {
						framer.WritePing(true, f.Data)
					}
				}
			}
		}
	}
	var mute, polite end
	var both sync.WaitGroup
	both.Go(func() { mute = connection(false) })
	both.Go(func() { polite = connection(true) })
	both.Wait()
	if mute.pings == 0 || mute.after < 1800*time.Millisecond || mute.after > 4*time.Second {
		t.Errorf("who does not answer is closed after %v and %d pings", mute.after, mute.pings)
	}
	if polite.pings < 2 || polite.after < 4900*time.Millisecond {
		t.Errorf("who answers is closed after %v and %d pings", polite.after, polite.pings)
	}
}

// TestSameMessageLimits sends and asks for too much, with limits of the client and of the server.
func TestSameMessageLimits(t *testing.T) {
	const maxRequest = 100_000
	w := startTwins(t, 1, fmt.Sprintf("--max-request-bytes=%d", maxRequest))
	limited := func(cfg clientv3.Config) {
		for i, s := range w.sides() {
			cfg.Endpoints = s.endpoints()
			w.clients[i] = quietClient(t, cfg)
		}
	}
	// The sizes in the messages are the answers', and those hold the identities of the cluster.
	sizes := regexp.MustCompile(`\(\d+ vs`)
	put := func(size int) {
		t.Helper()
		_, err := w.same(fmt.Sprintf("put of %d", size), op(clientv3.OpPut("key", strings.Repeat("x", size))))
		t.Logf("put of %d: %v", size, err)
	}
	read := func(n int64) {
		t.Helper()
		_, err := w.same(fmt.Sprintf("get of %d", n), func(ctx context.Context, c *clientv3.Client) (any, error) {
			got, err := c.Get(ctx, "", clientv3.WithPrefix(), clientv3.WithLimit(n))
			if err != nil {
				return fmt.Sprintf("%T %v %s", err, status.Code(err), sizes.ReplaceAllString(err.Error(), "(N vs")), nil
			}
			return got, nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	for i := range 30 {
		w.same("fill", op(clientv3.OpPut(fmt.Sprintf("fill/%02d", i), strings.Repeat("v", 90_000))))
	}
	// The server's limit for what is written, 512 KiB more for what it reads at all; clientv3's own two MiB.
	for _, size := range []int{maxRequest - 1000, maxRequest - 30, maxRequest, maxRequest + 512<<10 - 30, maxRequest + 512<<10, 2<<20 - 30, 2 << 20, 3 << 20} {
		put(size)
	}
	read(30)
	limited(clientv3.Config{MaxCallSendMsgSize: 50_000})
	for _, size := range []int{49_000, 49_990, 49_992, 50_000, 90_000} {
		put(size)
	}
	limited(clientv3.Config{MaxCallSendMsgSize: 10 << 20})
	for _, size := range []int{2 << 20, 5 << 20} {
		put(size)
	}
	limited(clientv3.Config{MaxCallSendMsgSize: 100_000, MaxCallRecvMsgSize: 500_000})
	for _, n := range []int64{1, 5, 6, 30} {
		read(n)
	}
	read(-1)
	if _, err := clientv3.New(clientv3.Config{Endpoints: w.ours.endpoints(), MaxCallSendMsgSize: 2, MaxCallRecvMsgSize: 1}); err == nil {
		t.Error("a client that may send more than it receives")
	}
	// The stream is bounded chunk by chunk, not as a whole.
	limited(clientv3.Config{MaxCallSendMsgSize: 100_000, MaxCallRecvMsgSize: 2_000_000})
	w.same("stream of everything", getStream("", clientv3.WithPrefix()))
}
