package clientv3_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// watching is one Watch stream of one server, and what came on it, by watch ID.
type watching struct {
	s      *side
	stream pb.Watch_WatchClient

	mu   sync.Mutex
	byID map[int64][]*pb.WatchResponse
	// Responses since the last take.
	count int
	last  time.Time
	err   error
	// What the last take took.
	taken map[int64][]*pb.WatchResponse
}

func (s *side) watch(ctx context.Context) *watching {
	s.t.Helper()
	stream, err := pb.NewWatchClient(s.conn).Watch(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	w := &watching{s: s, stream: stream, byID: map[int64][]*pb.WatchResponse{}, last: time.Now()}
	go w.receive()
	return w
}

func (w *watching) receive() {
	for {
		r, err := w.stream.Recv()
		w.mu.Lock()
		w.last = time.Now()
		if err != nil {
			w.err = err
			w.mu.Unlock()
			return
		}
		scrub(r.ProtoReflect())
		// How much later than its events a response is made, is the server's choice too.
		if n := len(r.Events); n > 0 {
			if last := r.Events[n-1].Kv.ModRevision; r.Header.Revision >= last {
				r.Header.Revision = last
			}
		}
		w.count++
		list := w.byID[r.WatchId]
		// How many responses events are spread over is the server's choice; their order and the newest header are not.
		if n := len(list); n > 0 && len(r.Events) > 0 && len(list[n-1].Events) > 0 && !list[n-1].Fragment {
			merged := proto.Clone(list[n-1]).(*pb.WatchResponse)
			merged.Header = r.Header
			merged.Events = append(merged.Events, r.Events...)
			list[n-1] = merged
		} else {
			list = append(list, r)
		}
		w.byID[r.WatchId] = list
		w.mu.Unlock()
	}
}

func (w *watching) send(t *testing.T, r *pb.WatchRequest) {
	t.Helper()
	if err := w.stream.Send(proto.Clone(r).(*pb.WatchRequest)); err != nil {
		t.Fatalf("%s: %v", w.s.name, err)
	}
}

// quiet waits until nothing has come for a while: etcd looks for watchers that are behind every 100 ms.
func (w *watching) quiet(d time.Duration) {
	for {
		w.mu.Lock()
		rest := d - time.Since(w.last)
		w.mu.Unlock()
		if rest <= 0 {
			return
		}
		time.Sleep(rest)
	}
}

// takeIf takes what came on both since the last call if it passes: at one moment, so that what comes meanwhile is neither
// judged nor lost.
func takeIf(a, b *watching, passes func() bool) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	if !passes() {
		return false
	}
	for _, w := range []*watching{a, b} {
		w.taken, w.byID, w.count = w.byID, map[int64][]*pb.WatchResponse{}, 0
	}
	return true
}

func tell(byID map[int64][]*pb.WatchResponse, id int64) string {
	var b strings.Builder
	for _, r := range byID[id] {
		fmt.Fprintf(&b, "\n    %s", shorten(prototext.MarshalOptions{}.Format(r)))
	}
	if b.Len() == 0 {
		return "nothing"
	}
	return b.String()
}

// watchPair sends the same requests on one stream of each server.
type watchPair struct {
	*pair
	etcd, ours *watching
	// What the requests of this stream have led to, by etcd's word.
	ids     map[int64]bool
	futures map[int64]int64
}

func (p *pair) watch(ctx context.Context) *watchPair {
	w := &watchPair{pair: p, ids: map[int64]bool{}, futures: map[int64]int64{}}
	w.etcd, w.ours = p.etcd.watch(ctx), p.ours.watch(ctx)
	return w
}

func (w *watchPair) ask(r *pb.WatchRequest) {
	w.t.Helper()
	w.etcd.send(w.t, r)
	w.ours.send(w.t, r)
}

// compare waits until both streams are quiet and have been told the same, and compares what came, watcher by
// watcher, where that does not happen. At least so many responses must come.
func (w *watchPair) compare(what string, atLeast int, d time.Duration) map[int64][]*pb.WatchResponse {
	w.t.Helper()
	begun := time.Now()
	for {
		w.etcd.quiet(d)
		w.ours.quiet(d)
		if takeIf(w.etcd, w.ours, func() bool {
			same := maps.EqualFunc(w.etcd.byID, w.ours.byID, sameResponses)
			return same && min(w.etcd.count, w.ours.count) >= atLeast || time.Since(begun) > patienceForResponses
		}) {
			break
		}
		time.Sleep(d)
	}
	etcd, ours := w.etcd.taken, w.ours.taken
	for _, side := range []*watching{w.etcd, w.ours} {
		side.mu.Lock()
		if side.err != nil {
			w.t.Fatalf("%s: the stream of %s ended: %v", what, side.s.name, side.err)
		}
		side.mu.Unlock()
	}
	all := map[int64]bool{}
	for id := range etcd {
		all[id] = true
	}
	for id := range ours {
		all[id] = true
	}
	for id := range all {
		if a, b := tell(etcd, id), tell(ours, id); a != b && !sameResponses(etcd[id], ours[id]) {
			w.differ(fmt.Sprintf("%s, watcher %d", what, id), nil, a, b)
		}
	}
	for id, list := range etcd {
		for _, r := range list {
			switch {
			case r.Canceled && id != -1:
				delete(w.futures, id)
				if r.CompactRevision == 0 {
					delete(w.ids, id)
				}
			case r.Created && !r.Canceled:
				w.ids[id] = true
			}
		}
	}
	return etcd
}

func sameResponses(a, b []*pb.WatchResponse) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !proto.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

func create(r *pb.WatchCreateRequest) *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}}
}

func cancelWatch(id int64) *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}}
}

var progress = &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}

func (h *history) watch(w *watchPair) *pb.WatchCreateRequest {
	key, end := h.span()
	if h.chance(5) {
		key = nil
	}
	r := &pb.WatchCreateRequest{Key: key, RangeEnd: end, PrevKv: h.chance(50), Fragment: h.chance(20)}
	if h.chance(60) {
		r.StartRevision = h.anyRevision()
	}
	if h.chance(3) {
		r.StartRevision = -1 - h.Int64N(5)
	}
	for _, f := range []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT, pb.WatchCreateRequest_NODELETE, 9} {
		if h.chance(12) {
			r.Filters = append(r.Filters, f)
		}
	}
	if h.chance(30) {
		r.WatchId = 1 + h.Int64N(12)
	}
	if h.chance(2) {
		r.WatchId = -2
	}
	return r
}

// quietTime is how long a stream has nothing to say before it is believed: more than etcd's period of looking for
// watchers that are behind (100 ms), where such a watcher may be; else a moment.
const (
	quietTime  = 300 * time.Millisecond
	quickQuiet = 60 * time.Millisecond
)

// patienceForResponses is how long one of two servers may lag behind the other.
const patienceForResponses = 5 * time.Second

// TestSameWatches runs random histories of writes, watches, cancellations, compactions and wishes for progress
// against etcd and the server under test: every watcher must be told the same on both.
func TestSameWatches(t *testing.T) {
	steps := envInt(t, "QUORATE_WATCH_STEPS", 150)
	seeds := envInt(t, "QUORATE_WATCH_HISTORIES", 2)
	for seed := 1; seed <= seeds; seed++ {
		t.Run(fmt.Sprintf("seed-%d", seed), func(t *testing.T) {
			t.Parallel()
			p := startPair(t, 1)
			w := p.watch(testContext(t, 5*time.Minute))
			h := &history{Rand: rand.New(rand.NewPCG(uint64(seed), 77)), p: p}
			told := 0
			for i := range steps {
				what := fmt.Sprintf("seed %d, step %d", seed, i)
				atLeast, wait := 0, quickQuiet
				switch n := h.IntN(100); {
				case n < 35:
					p.same(what, h.put(h.key()))
				case n < 45:
					p.same(what, h.delete())
				case n < 55:
					p.same(what, harmless(h.txn(0, map[string]bool{})))
				case n < 60:
					p.same(what, h.putAndDelete())
				case n < 85:
					r := h.watch(w)
					if r.StartRevision != 0 && r.StartRevision <= p.revision {
						wait = quietTime
					}
					what = fmt.Sprintf("%s, %v", what, create(r))
					w.ask(create(r))
					atLeast = 1
					if r.StartRevision > p.revision {
						w.futures[-100-int64(i)] = r.StartRevision
					}
				case n < 90:
					id := h.Int64N(12)
					w.ask(cancelWatch(id))
					if w.ids[id] {
						atLeast = 1
					}
				case n < 96:
					// etcd forgets a wish for progress that it cannot grant at once; the server under test grants it later.
					waiting := false
					for _, start := range w.futures {
						waiting = waiting || start > p.revision
					}
					if !waiting {
						w.ask(progress)
						atLeast = min(len(w.ids), 1)
					}
				default:
					rev := p.compacted + h.Int64N(max(min(p.revision-p.compacted, 10), 1)+1)
					if o := p.same(what, &pb.CompactionRequest{Revision: rev, Physical: true}); o.code == codes.OK {
						p.compacted = max(p.compacted, rev)
					}
				}
				for id, list := range w.compare(what, atLeast, wait) {
					for _, r := range list {
						told += len(r.Events)
						// A client cancels what was compacted under it. Until then etcd grants no wish for progress.
						if r.CompactRevision != 0 {
							w.ask(cancelWatch(id))
							w.compare(what+", cancelled", 1, quickQuiet)
						}
					}
				}
			}
			for id := range w.ids {
				w.ask(cancelWatch(id))
			}
			w.compare("at the end", len(w.ids), quietTime)
			if told < steps/4 {
				t.Errorf("only %d events in %d steps: the history is too quiet", told, steps)
			}
			t.Logf("seed %d: %d events, revision %d, compacted %d", seed, told, p.revision, p.compacted)
		})
	}
}

// TestSamePeriodicProgress compares the notifications that come by themselves.
func TestSamePeriodicProgress(t *testing.T) {
	t.Parallel()
	p := startPair(t, 1, "--watch-progress-notify-interval=150ms")
	w := p.watch(testContext(t, time.Minute))
	w.ask(create(&pb.WatchCreateRequest{Key: []byte("a"), ProgressNotify: true}))
	w.ask(create(&pb.WatchCreateRequest{Key: []byte("a"), ProgressNotify: false}))
	w.ask(create(&pb.WatchCreateRequest{Key: []byte("a"), ProgressNotify: true, StartRevision: 100}))
	p.same("put", &pb.PutRequest{Key: []byte("b")})
	time.Sleep(1200 * time.Millisecond)
	takeIf(w.etcd, w.ours, func() bool { return true })
	for _, side := range []*watching{w.etcd, w.ours} {
		byID := side.taken
		if n := len(byID[0]); n < 5 || n > 9 {
			t.Errorf("%s: the first watcher was told %d times: %s", side.s.name, n, tell(byID, 0))
		}
		for _, r := range byID[0][len(byID[0])-1:] {
			if r.Header.Revision != 2 || len(r.Events) != 0 {
				t.Errorf("%s: %v", side.s.name, r)
			}
		}
		for _, id := range []int64{1, 2} { // one did not ask, the other's start is yet to come
			if n := len(byID[id]); n != 1 {
				t.Errorf("%s: watcher %d was told %d times: %s", side.s.name, id, n, tell(byID, id))
			}
		}
	}
}

// follower receives one watch of a clientv3 program and checks the promises: ordered, unique, atomic, and, as
// every revision of the test is a write of its keys, reliable.
type follower struct {
	name string
	mu   sync.Mutex
	seen []int64
	err  error
}

func follow(ctx context.Context, name string, c clientv3.WatchChan) *follower {
	f := &follower{name: name}
	go func() {
		for r := range c {
			f.take(r)
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if ctx.Err() == nil && f.err == nil {
			f.err = errors.New("the channel was closed")
		}
	}()
	return f
}

func (f *follower) take(r clientv3.WatchResponse) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return
	}
	if err := r.Err(); err != nil {
		f.err = err
		return
	}
	for _, e := range r.Events {
		rev := e.Kv.ModRevision
		if n := len(f.seen); n > 0 && rev != f.seen[n-1]+1 {
			f.err = fmt.Errorf("revision %d after %d", rev, f.seen[n-1])
			return
		}
		f.seen = append(f.seen, rev)
	}
}

// TestWatchOverLeaderKill writes to three members without pause, kills the leader, and starts it again: every
// watcher, whichever member it was connected to, gets every revision once and in order.
func TestWatchOverLeaderKill(t *testing.T) {
	t.Parallel()
	c := startCluster(t, quorateBin(t), 3)
	ctx := testContext(t, 2*time.Minute)
	writer := quietClient(t, clientv3.Config{Endpoints: c.endpoints()})
	if _, err := writer.Put(ctx, "w/first", ""); err != nil {
		t.Fatal(err)
	}
	var followers []*follower
	watchCtx, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	for i := range c.members {
		// Each begins with another member.
		endpoints := append(append([]string{}, c.endpoints()[i:]...), c.endpoints()[:i]...)
		cl := quietClient(t, clientv3.Config{Endpoints: endpoints})
		for _, opts := range [][]clientv3.OpOption{
			{clientv3.WithPrefix(), clientv3.WithRev(2)},
			{clientv3.WithPrefix(), clientv3.WithRev(2), clientv3.WithPrevKV(), clientv3.WithProgressNotify()},
		} {
			name := fmt.Sprintf("member %d, %d options", i, len(opts))
			followers = append(followers, follow(watchCtx, name, cl.Watch(watchCtx, "w/", opts...)))
		}
	}
	var written atomic.Int64
	stop := make(chan struct{})
	var work sync.WaitGroup
	for w := range 4 {
		work.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				try, cancel := context.WithTimeout(ctx, patience)
				if _, err := writer.Put(try, fmt.Sprintf("w/%d/%d", w, n%10), fmt.Sprint(n)); err == nil {
					written.Add(1)
				}
				cancel()
			}
		})
	}
	more := func(n int64) {
		t.Helper()
		for goal := written.Load() + n; written.Load() < goal; time.Sleep(5 * time.Millisecond) {
			if ctx.Err() != nil {
				t.Fatalf("only %d writes", written.Load())
			}
		}
	}
	more(300)
	leader := c.leader(ctx, writer)
	leader.kill()
	more(300)
	leader.awaitReady(leader.start())
	more(300)
	close(stop)
	work.Wait()
	get, err := writer.Get(ctx, "w/first")
	if err != nil {
		t.Fatal(err)
	}
	last := get.Header.Revision
	for _, f := range followers {
		for {
			f.mu.Lock()
			n, err := len(f.seen), f.err
			arrived := n > 0 && f.seen[n-1] >= last
			if arrived && f.seen[0] != 2 {
				t.Errorf("%s: begins with %d", f.name, f.seen[0])
			}
			f.mu.Unlock()
			if err != nil {
				t.Errorf("%s: after %d events: %v", f.name, n, err)
				break
			}
			if arrived {
				break
			}
			if ctx.Err() != nil {
				t.Fatalf("%s: %d events of %d revisions", f.name, n, last)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	t.Logf("%d watchers, %d revisions", len(followers), last)
}

// TestRequireLeader cuts a member off from the other two: a watcher that wants a leader is told that there is none,
// one that does not care goes on.
func TestRequireLeader(t *testing.T) {
	bothServers(t, func(t *testing.T, bin string) {
		c := startCluster(t, bin, 3)
		ctx := testContext(t, time.Minute)
		cl := quietClient(t, clientv3.Config{Endpoints: c.endpoints()[:1]})
		if _, err := cl.Put(ctx, "k", ""); err != nil {
			t.Fatal(err)
		}
		wants := cl.Watch(clientv3.WithRequireLeader(ctx), "k", clientv3.WithCreatedNotify())
		cares := cl.Watch(ctx, "k", clientv3.WithCreatedNotify())
		<-wants
		<-cares
		for _, m := range c.members[1:] {
			m.kill()
		}
		begun := time.Now()
		r, ok := <-wants
		if err := r.Err(); !ok || !errors.Is(err, rpctypes.ErrNoLeader) {
			t.Fatalf("%v after %v", err, time.Since(begun))
		}
		select {
		case r := <-cares:
			t.Errorf("a watcher that does not want a leader was told %+v", r)
		case <-time.After(100 * time.Millisecond):
		}
	})
}

// printedIDs matches what differs between two clusters in etcdctl's output.
var printedIDs = regexp.MustCompile(`("(?:ClusterID|MemberID|RaftTerm|cluster_id|member_id|raft_term)"\s*:)\s*\d+`)

// quietBuffer keeps what is printed and knows when the last of it came.
type quietBuffer struct {
	mu   sync.Mutex
	text strings.Builder
	last time.Time
}

func (b *quietBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last = time.Now()
	return b.text.Write(p)
}

func (b *quietBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// expect begins to wait anew: something may be printed from now on.
func (b *quietBuffer) expect() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last = time.Now()
}

// waitQuiet waits until something was printed and then nothing for a while; of a program that prints nothing it
// tires in the end.
func (b *quietBuffer) waitQuiet(d time.Duration) {
	for begun := time.Now(); time.Since(begun) < 10*d; time.Sleep(d / 20) {
		b.mu.Lock()
		done := b.text.Len() > 0 && time.Since(b.last) > d
		b.mu.Unlock()
		if done {
			return
		}
	}
}

// TestSameEtcdctlWatch compares what etcdctl prints of the same history, in every form of the command.
func TestSameEtcdctlWatch(t *testing.T) {
	t.Parallel()
	etcdctl := program(t, "ETCDCTL_BIN", filepath.Join(filepath.Dir(etcdBin(t)), "etcdctl"))
	p := startPair(t, 1)
	for i := range 3 {
		p.same("put", &pb.PutRequest{Key: []byte("foo"), Value: fmt.Appendf(nil, "v%d", i)})
		p.same("put", &pb.PutRequest{Key: fmt.Appendf(nil, "foo%d", i), Value: []byte("x")})
	}
	p.same("delete", &pb.DeleteRangeRequest{Key: []byte("foo")})
	run := func(s *side, quiet time.Duration, lines []string, args ...string) string {
		ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, etcdctl, append([]string{"--endpoints", s.members[0].endpoint}, args...)...)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out := &quietBuffer{last: time.Now()}
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for _, line := range lines {
			fmt.Fprintln(in, line)
			out.expect()
			out.waitQuiet(quiet)
		}
		out.waitQuiet(quiet)
		cmd.Process.Kill()
		cmd.Wait() // it was killed: a watch has no end
		return out.String()
	}
	script := `echo "$ETCD_WATCH_REVISION $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY $ETCD_WATCH_VALUE"`
	for _, form := range []struct {
		args  []string
		lines []string
	}{
		{args: []string{"watch", "foo", "--rev=2"}},
		{args: []string{"watch", "foo", "--rev=2", "--prev-kv"}},
		{args: []string{"watch", "foo", "--prefix", "--rev=2"}},
		{args: []string{"watch", "foo", "foo2", "--rev=2"}},
		{args: []string{"watch", "--from-key", "foo1", "--rev=3"}},
		{args: []string{"watch", "foo", "--rev=2", "-w", "json"}},
		{args: []string{"watch", "foo", "--rev=2", "-w", "fields"}},
		{args: []string{"watch", "foo", "--rev=7", "--", "sh", "-c", script}},
		{args: []string{"watch", "-i"}, lines: []string{"watch foo --rev=2", "watch foo2 --rev=2", "progress"}},
		{args: []string{"watch", "zoo", "foo", "--rev=2"}},
	} {
		var outputs [2]string
		// Nobody says when a watch has printed all it has to say: on a busy machine it may need longer.
		for _, quiet := range []time.Duration{time.Second, 4 * time.Second} {
			var wait sync.WaitGroup
			for i, s := range []*side{&p.etcd, &p.ours} {
				wait.Go(func() { outputs[i] = printedIDs.ReplaceAllString(run(s, quiet, form.lines, form.args...), "$1 0") })
			}
			wait.Wait()
			if outputs[0] == outputs[1] {
				break
			}
		}
		if outputs[0] != outputs[1] {
			t.Errorf("etcdctl %q\netcd:\n%s\nquorate:\n%s", form.args, outputs[0], outputs[1])
		}
		if outputs[0] == "" {
			t.Errorf("etcdctl %q prints nothing", form.args)
		}
	}
}
