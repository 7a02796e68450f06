// record makes tests/golden-peer/capture anew: it runs two stock etcd members that reach each other
// through a recording TCP proxy, works with them for a few seconds, and stores what went over every
// connection, with a reading of it by etcd's own protobuf types.
//
//	go run . [-etcd BIN] OUTDIR      record (BIN: default etcd in $QUORATE_GO_DIR or ~/.cache/quorate/go)
//	go run . -decode OUTDIR          make the .txt files of a capture again, from its .bin files
//
// The format is in ../README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

func main() {
	// The members die with the thread that starts them.
	runtime.LockOSThread()
	log.SetFlags(0)
	etcd := flag.String("etcd", "", "the etcd binary")
	decodeOnly := flag.Bool("decode", false, "only write the .txt files of the capture in OUTDIR again")
	flag.Parse()
	if flag.NArg() != 1 {
		log.Fatal("usage: record [-etcd BIN] OUTDIR | record -decode OUTDIR")
	}
	out := flag.Arg(0)
	if !*decodeOnly {
		if *etcd == "" {
			dir := os.Getenv("QUORATE_GO_DIR")
			if dir == "" {
				home, err := os.UserHomeDir()
				check(err)
				dir = filepath.Join(home, ".cache/quorate/go")
			}
			*etcd = filepath.Join(dir, "etcd")
		}
		record(*etcd, out)
	}
	check(decodeAll(out))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// proxy listens in front of one member's peer port and keeps what passes.
type proxy struct {
	name, dialer string
	target       string
	listener     net.Listener
}

type connection struct {
	number         int
	dialer, target string
	accepted       time.Duration
	mu             sync.Mutex
	request        []byte
	response       []byte
}

type recorder struct {
	began   time.Time
	stopped atomic.Bool // nothing that passes afterwards is kept
	mu      sync.Mutex
	conns   []*connection
}

func (r *recorder) serve(p *proxy) {
	for {
		in, err := p.listener.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", p.target)
		if err != nil {
			in.Close() // the member does not listen (yet): as if nobody did
			continue
		}
		r.mu.Lock()
		c := &connection{number: len(r.conns) + 1, dialer: p.dialer, target: p.name, accepted: time.Since(r.began)}
		r.conns = append(r.conns, c)
		r.mu.Unlock()
		go r.pump(c, &c.request, in, out)
		go r.pump(c, &c.response, out, in)
	}
}

func (r *recorder) pump(c *connection, keep *[]byte, from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && !r.stopped.Load() {
			c.mu.Lock()
			*keep = append(*keep, buf[:n]...)
			c.mu.Unlock()
		}
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func record(etcd, out string) {
	check(os.RemoveAll(out))
	check(os.MkdirAll(out, 0o755))
	work, err := os.MkdirTemp("", "golden-peer")
	check(err)
	defer os.RemoveAll(work)

	// The ports are part of the capture (member IDs come from them), so they are always the same.
	const (
		clientA, proxyA, peerA = 17501, 17502, 17503
		clientB, proxyB, peerB = 17511, 17512, 17513
	)
	r := &recorder{began: time.Now()}
	for _, p := range []*proxy{
		{name: "a", dialer: "b", target: fmt.Sprintf("127.0.0.1:%d", peerA)},
		{name: "b", dialer: "a", target: fmt.Sprintf("127.0.0.1:%d", peerB)},
	} {
		port := map[string]int{"a": proxyA, "b": proxyB}[p.name]
		p.listener, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		check(err)
		go r.serve(p)
	}

	start := func(name string, client, peer, advertised int) *exec.Cmd {
		cmd := exec.Command(etcd,
			"--name", name, "--data-dir", filepath.Join(work, name),
			"--listen-client-urls", fmt.Sprintf("http://127.0.0.1:%d", client),
			"--advertise-client-urls", fmt.Sprintf("http://127.0.0.1:%d", client),
			"--listen-peer-urls", fmt.Sprintf("http://127.0.0.1:%d", peer),
			"--initial-advertise-peer-urls", fmt.Sprintf("http://127.0.0.1:%d", advertised),
			"--initial-cluster", fmt.Sprintf("a=http://127.0.0.1:%d,b=http://127.0.0.1:%d", proxyA, proxyB),
			"--initial-cluster-token", "golden-peer",
			"--strict-reconfig-check=false", "--log-level", "error")
		cmd.Stderr = os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		check(cmd.Start())
		return cmd
	}
	a := start("a", clientA, peerA, proxyA)
	b := start("b", clientB, peerB, proxyB)
	stop := func() {
		for _, cmd := range []*exec.Cmd{a, b} {
			cmd.Process.Kill()
			cmd.Wait()
		}
	}
	defer stop()

	var session strings.Builder
	say := func(format string, args ...any) {
		fmt.Fprintf(&session, format+"\n", args...)
		log.Printf(format, args...)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	connect := func(port int) *clientv3.Client {
		c, err := clientv3.New(clientv3.Config{Endpoints: []string{fmt.Sprintf("127.0.0.1:%d", port)}, DialTimeout: 10 * time.Second, Logger: zap.NewNop()})
		check(err)
		return c
	}
	clients := map[string]*clientv3.Client{"a": connect(clientA), "b": connect(clientB)}
	ids := map[string]uint64{}
	// roles waits until both members agree who leads.
	roles := func() (leader, follower string) {
		for {
			lead := map[string]uint64{}
			for name, c := range clients {
				try, cancel := context.WithTimeout(ctx, time.Second)
				s, err := c.Status(try, c.Endpoints()[0])
				cancel()
				if err == nil && s.Leader != 0 {
					ids[name], lead[name] = s.Header.MemberId, s.Leader
				}
			}
			if len(lead) == 2 && lead["a"] == lead["b"] {
				if lead["a"] == ids["a"] {
					return "a", "b"
				}
				return "b", "a"
			}
			check(ctx.Err())
			time.Sleep(20 * time.Millisecond)
		}
	}
	put := func(via, key, value string) {
		resp, err := clients[via].Put(ctx, key, value)
		check(err)
		shown := fmt.Sprintf("%q", value)
		if len(value) > 40 {
			shown = fmt.Sprintf("%d bytes", len(value))
		}
		say("put via %s: %s = %s, revision %d", via, key, shown, resp.Header.Revision)
	}

	leader, follower := roles()
	status, err := clients[leader].Status(ctx, clients[leader].Endpoints()[0])
	check(err)
	say("cluster %x, member a %x, member b %x", status.Header.ClusterId, ids["a"], ids["b"])
	say("leader %s, term %d", leader, status.RaftTerm)
	for i := range 3 {
		put(follower, fmt.Sprintf("follower-%d", i), fmt.Sprintf("value %d", i))
		put(leader, fmt.Sprintf("leader-%d", i), fmt.Sprintf("value %d", i))
	}
	var together sync.WaitGroup
	for i := range 24 {
		via := []string{leader, follower}[i%2]
		together.Go(func() {
			_, err := clients[via].Put(ctx, fmt.Sprintf("together-%02d", i), strings.Repeat("x", i*10))
			check(err)
		})
	}
	together.Wait()
	say("24 puts at once, half via each member: together-00 to together-23")
	put(leader, "large", strings.Repeat("0123456789abcdef", 2048))

	get, err := clients[follower].Get(ctx, "leader-", clientv3.WithPrefix())
	check(err)
	say("linearizable read via %s: %d keys at revision %d", follower, get.Count, get.Header.Revision)
	get, err = clients[leader].Get(ctx, "follower-", clientv3.WithPrefix())
	check(err)
	say("linearizable read via %s: %d keys at revision %d", leader, get.Count, get.Header.Revision)

	txn, err := clients[follower].Txn(ctx).If(clientv3.Compare(clientv3.Value("leader-0"), "=", "value 0")).
		Then(clientv3.OpPut("txn", "1"), clientv3.OpDelete("leader-0"), clientv3.OpGet("leader-1")).Commit()
	check(err)
	say("txn via %s: succeeded %v, revision %d", follower, txn.Succeeded, txn.Header.Revision)
	lease, err := clients[follower].Grant(ctx, 3600)
	check(err)
	_, err = clients[follower].Put(ctx, "leased", "1", clientv3.WithLease(lease.ID))
	check(err)
	alive, err := clients[follower].KeepAliveOnce(ctx, lease.ID)
	check(err)
	say("lease via %s: granted, attached, kept alive with TTL %d (POST /leases), revoked", follower, alive.TTL)
	_, err = clients[follower].Revoke(ctx, lease.ID)
	check(err)
	_, err = clients[leader].Compact(ctx, 10)
	check(err)
	say("compaction at revision 10 via %s", leader)

	_, err = clients[leader].MoveLeader(ctx, ids[follower])
	check(err)
	leader, follower = roles()
	say("leadership moved to %s", leader)
	put(follower, "after-transfer", "via the old leader")
	put(leader, "after-transfer", "via the new leader")

	// A learner is added and removed: conf changes in the log. Nobody listens at its address.
	learner, err := clients[leader].MemberAddAsLearner(ctx, []string{"http://127.0.0.1:17522"})
	check(err)
	say("learner %x added via %s", learner.Member.ID, leader)
	_, err = clients[leader].MemberRemove(ctx, learner.Member.ID)
	check(err)
	say("learner removed via %s", leader)

	// The follower is killed; the leader takes two puts that it cannot commit; the follower comes back
	// and catches up.
	cmds := map[string]**exec.Cmd{"a": &a, "b": &b}
	victim := cmds[follower]
	(*victim).Process.Kill()
	(*victim).Wait()
	for i := range 2 {
		try, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		_, err := clients[leader].Put(try, fmt.Sprintf("alone-%d", i), "not committed yet")
		cancel()
		if err == nil {
			check(errors.New("a put was acknowledged by one member of two"))
		}
	}
	say("%s killed; two puts via %s time out: alone-0, alone-1", follower, leader)
	if follower == "a" {
		a = start("a", clientA, peerA, proxyA)
	} else {
		b = start("b", clientB, peerB, proxyB)
	}
	before := follower
	leader, follower = roles()
	say("%s started again; leader %s", before, leader)
	put(follower, "end", "via the follower")
	for _, name := range []string{"a", "b"} {
		h, err := clients[name].HashKV(ctx, clients[name].Endpoints()[0], 0)
		check(err)
		say("HashKV of %s at revision %d: %d", name, h.Header.Revision, h.Hash)
	}
	// One round of link heartbeats and probes more.
	time.Sleep(2 * time.Second)
	r.stopped.Store(true)
	stop()
	for _, c := range clients {
		c.Close()
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		base := filepath.Join(out, fmt.Sprintf("%02d-%s-to-%s", c.number, c.dialer, c.target))
		c.mu.Lock()
		check(os.WriteFile(base+".request.bin", c.request, 0o644))
		check(os.WriteFile(base+".response.bin", c.response, 0o644))
		c.mu.Unlock()
	}
	check(os.WriteFile(filepath.Join(out, "session.txt"), []byte(session.String()), 0o644))
	var index strings.Builder
	for _, c := range r.conns {
		fmt.Fprintf(&index, "%02d %s %s %d %d %d\n", c.number, c.dialer, c.target, c.accepted.Milliseconds(), len(c.request), len(c.response))
	}
	check(os.WriteFile(filepath.Join(out, "connections.txt"), []byte(index.String()), 0o644))
}

func decodeAll(dir string) error {
	requests, err := filepath.Glob(filepath.Join(dir, "*.request.bin"))
	if err != nil {
		return err
	}
	if len(requests) == 0 {
		return fmt.Errorf("no capture in %s", dir)
	}
	sort.Strings(requests)
	for _, file := range requests {
		base := strings.TrimSuffix(file, ".request.bin")
		request, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		response, err := os.ReadFile(base + ".response.bin")
		if err != nil {
			return err
		}
		f, err := os.Create(base + ".txt")
		if err != nil {
			return err
		}
		err = decode(f, filepath.Base(base), request, response)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("%s: %w", base, err)
		}
	}
	return nil
}
