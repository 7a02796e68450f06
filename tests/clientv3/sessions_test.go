package clientv3_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

// sessionTTL is longer than an election on a busy machine: no session of a living client is lost by a
// change of the leader.
const sessionTTL = 10

func (c *cluster) session(opts ...concurrency.SessionOption) *concurrency.Session {
	c.t.Helper()
	cl := quietClient(c.t, clientv3.Config{Endpoints: c.endpoints()})
	s, err := concurrency.NewSession(cl, append([]concurrency.SessionOption{concurrency.WithTTL(sessionTTL)}, opts...)...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { s.Orphan() })
	return s
}

// TestMutex has many sessions count up under a lock, by a read and a write that only the lock keeps together,
// while the leader is killed.
func TestMutex(t *testing.T) { onOneAndThree(t, testMutex) }

func testMutex(t *testing.T, ctx context.Context, c *cluster) {
	const workers, before, after = 4, 8, 8
	var inside, counted, unknown atomic.Int64
	var work sync.WaitGroup
	enough := make(chan struct{})
	for range workers {
		s := c.session()
		work.Go(func() {
			for {
				select {
				case <-enough:
					return
				default:
				}
				m := concurrency.NewMutex(s, "lock")
				if err := m.Lock(ctx); err != nil {
					// The leader died under the request: if the key is there, this session's next attempt finds it.
					continue
				}
				if n := inside.Add(1); n != 1 {
					t.Errorf("%d hold the lock", n)
				}
				err := countUnder(ctx, s.Client(), m)
				inside.Add(-1)
				if err != nil {
					unknown.Add(1)
				} else {
					counted.Add(1)
				}
				for m.Unlock(ctx) != nil && ctx.Err() == nil { // another attempt deletes what is left
				}
			}
		})
	}
	waitFor(t, 30*time.Second, "the lock to go round", func() bool { return counted.Load() >= before })
	revive := c.killLeader(ctx)
	from := counted.Load()
	waitFor(t, 60*time.Second, "the lock to go round after the kill", func() bool { return counted.Load() >= from+after })
	revive()
	close(enough)
	work.Wait()

	cl := quietClient(t, clientv3.Config{Endpoints: c.endpoints()})
	got, err := cl.Get(ctx, "counter")
	must(t, err)
	n, _ := strconv.ParseInt(string(got.Kvs[0].Value), 10, 64)
	if n < counted.Load() || n > counted.Load()+unknown.Load() {
		t.Errorf("the counter is at %d after %d increments, and %d of unknown fate", n, counted.Load(), unknown.Load())
	}
	t.Logf("%d increments, %d of unknown fate", counted.Load(), unknown.Load())
}

// countUnder increments by two requests; the second says that the lock is still held, as a careful client does.
func countUnder(ctx context.Context, cl *clientv3.Client, m *concurrency.Mutex) error {
	got, err := cl.Get(ctx, "counter")
	if err != nil {
		return err
	}
	n := 0
	if len(got.Kvs) > 0 {
		n, _ = strconv.Atoi(string(got.Kvs[0].Value))
	}
	try, cancel := context.WithTimeout(ctx, 8*time.Second)
	defer cancel()
	resp, err := cl.Txn(try).If(m.IsOwner()).Then(clientv3.OpPut("counter", strconv.Itoa(n+1))).Commit()
	if err == nil && !resp.Succeeded {
		err = errors.New("the lock was lost")
	}
	return err
}

// TestTryLock goes through the states of a lock that two sessions want.
func TestTryLock(t *testing.T) { onOneAndThree(t, testTryLock) }

func testTryLock(t *testing.T, ctx context.Context, c *cluster) {
	a, b := c.session(), c.session()
	ma, mb := concurrency.NewMutex(a, "try"), concurrency.NewMutex(b, "try")
	must(t, ma.TryLock(ctx))
	must(t, ma.TryLock(ctx)) // one session takes it as often as it likes
	if err := mb.TryLock(ctx); !errors.Is(err, concurrency.ErrLocked) {
		t.Errorf("taken: %v", err)
	}
	c.killLeader(ctx)() // a lock outlives the leader
	waitFor(t, 15*time.Second, "the members to answer", func() bool {
		err := mb.TryLock(ctx)
		if err == nil {
			t.Fatal("the lock of another was taken after the kill")
		}
		return errors.Is(err, concurrency.ErrLocked)
	})
	if err := mb.Unlock(ctx); !errors.Is(err, concurrency.ErrLockReleased) {
		t.Errorf("unlock of what is not held: %v", err)
	}
	waiting := make(chan error, 1)
	go func() { waiting <- mb.Lock(ctx) }()
	select {
	case err := <-waiting:
		t.Fatalf("two hold the lock: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	must(t, ma.Unlock(ctx))
	must(t, <-waiting)
	if !strings.HasPrefix(mb.Key(), "try/") || mb.Header().Revision == 0 {
		t.Errorf("key %q, header %v", mb.Key(), mb.Header())
	}

	// Who stops waiting leaves nothing behind.
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	if err := ma.Lock(short); errorCode(err) != codes.DeadlineExceeded {
		t.Errorf("waited too long: %v", err)
	}
	waitFor(t, 5*time.Second, "one key", func() bool {
		left, err := a.Client().Get(ctx, "try/", clientv3.WithPrefix())
		must(t, err)
		return left.Count == 1
	})
	// Whose lease is gone while it waits learns of it when its turn comes.
	lost := c.session()
	waiting = make(chan error, 1)
	go func() { waiting <- concurrency.NewMutex(lost, "try").Lock(ctx) }()
	waitFor(t, 5*time.Second, "the third to wait", func() bool {
		all, err := a.Client().Get(ctx, "try/", clientv3.WithPrefix())
		must(t, err)
		return all.Count == 2
	})
	_, err := a.Client().Revoke(ctx, lost.Lease())
	must(t, err)
	must(t, mb.Unlock(ctx))
	if err := <-waiting; !errors.Is(err, concurrency.ErrSessionExpired) {
		t.Errorf("the lock of a revoked session: %v", err)
	}
	select {
	case <-lost.Done():
	case <-time.After(10 * time.Second):
		t.Error("a session does not notice that its lease is revoked")
	}

	locker := concurrency.NewLocker(a, "locker")
	locker.Lock()
	if err := concurrency.NewMutex(b, "locker").TryLock(ctx); !errors.Is(err, concurrency.ErrLocked) {
		t.Errorf("a Locker's lock: %v", err)
	}
	locker.Unlock()
}

// TestSessionExpires lets a session go without a word: its lock falls to the next when the lease is over,
// never before, also where the leader dies meanwhile.
func TestSessionExpires(t *testing.T) { onOneAndThree(t, testSessionExpires) }

func testSessionExpires(t *testing.T, ctx context.Context, c *cluster) {
	next := c.session()
	for _, kill := range []bool{false, true} {
		const ttl = 3 // seconds
		began := time.Now()
		silent := c.session(concurrency.WithTTL(ttl))
		must(t, concurrency.NewMutex(silent, "falls").Lock(ctx))
		silent.Orphan()
		taken := make(chan time.Duration, 1)
		m := concurrency.NewMutex(next, "falls")
		go func() {
			for m.Lock(ctx) != nil && ctx.Err() == nil {
			}
			taken <- time.Since(began)
		}()
		slack := 4 * time.Second
		if kill {
			// A new leader gives each lease its whole time again, unless the old one's checkpoints say better.
			c.killLeader(ctx)()
			slack += ttl*time.Second + 3*time.Second
		}
		select {
		case after := <-taken:
			if after < ttl*time.Second {
				t.Errorf("killed %v: the lock fell after %v, the lease was for %d s", kill, after, ttl)
			}
			t.Logf("killed %v: fell after %v", kill, after.Round(10*time.Millisecond))
		case <-time.After(ttl*time.Second + slack):
			t.Fatalf("killed %v: the lock of a session that is gone did not fall", kill)
		}
		must(t, m.Unlock(ctx))
	}
	// A lease of one's own, and a context that ends the session.
	grant, err := next.Client().Grant(ctx, sessionTTL)
	must(t, err)
	life, end := context.WithCancel(ctx)
	own := c.session(concurrency.WithLease(grant.ID), concurrency.WithContext(life))
	if own.Lease() != grant.ID {
		t.Errorf("session of lease %x has %x", grant.ID, own.Lease())
	}
	end()
	<-own.Done()
	if left, err := next.Client().TimeToLive(ctx, grant.ID); err != nil || left.TTL <= 0 {
		t.Errorf("an ended session takes its lease with it: %v, %v", left, err)
	}
	closed := c.session()
	_, err = closed.Client().Put(ctx, "of the session", "", clientv3.WithLease(closed.Lease()))
	must(t, err)
	must(t, closed.Close())
	if got, err := next.Client().Get(ctx, "of the session"); err != nil || got.Count != 0 {
		t.Errorf("after Close: %v, %v", got, err)
	}
	if _, err := concurrency.NewSession(next.Client(), concurrency.WithLease(4711)); err == nil {
		// The keepalive of a lease that is not there ends the session.
		s := c.session(concurrency.WithLease(4711))
		select {
		case <-s.Done():
		case <-time.After(5 * time.Second):
			t.Error("a session on a lease that is not there goes on")
		}
	} else if !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		t.Errorf("session of an unknown lease: %v", err)
	}
}

// TestElection has candidates follow each other while one watches; the cluster's leader dies meanwhile.
func TestElection(t *testing.T) { onOneAndThree(t, testElection) }

func testElection(t *testing.T, ctx context.Context, c *cluster) {
	watcher := c.session()
	seen := make(chan string, 100)
	observer := concurrency.NewElection(watcher, "office")
	if _, err := observer.Leader(ctx); !errors.Is(err, concurrency.ErrElectionNoLeader) {
		t.Errorf("before any campaign: %v", err)
	}
	go func() {
		defer close(seen)
		for resp := range observer.Observe(ctx) {
			seen <- string(resp.Kvs[0].Value)
		}
	}()
	sees := func(want string) {
		t.Helper()
		limit := time.After(30 * time.Second)
		for {
			select {
			case got, ok := <-seen:
				if !ok {
					t.Fatalf("the observer ended before it saw %q", want)
				}
				if got == want {
					return
				}
			case <-limit:
				t.Fatalf("the observer did not see %q", want)
			}
		}
	}

	names := []string{"ann", "bob", "cid"}
	sessions, elections := make([]*concurrency.Session, 3), make([]*concurrency.Election, 3)
	elected := make([]chan error, 3)
	campaign := func(i int) {
		elected[i] = make(chan error, 1)
		sessions[i] = c.session()
		elections[i] = concurrency.NewElection(sessions[i], "office")
		go func() {
			// The leader may die under the request: if the key is there, the next attempt finds it.
			elected[i] <- eventually(ctx, func() error { return elections[i].Campaign(ctx, names[i]) })
		}()
	}
	campaign(0)
	must(t, <-elected[0])
	sees("ann")
	for i := 1; i < 3; i++ {
		campaign(i)
		waitFor(t, 5*time.Second, names[i]+" to stand in line", func() bool {
			all, err := watcher.Client().Get(ctx, "office/", clientv3.WithPrefix())
			must(t, err)
			return int(all.Count) == i+1
		})
	}
	must(t, elections[0].Proclaim(ctx, "ann, again"))
	sees("ann, again")

	revive := c.killLeader(ctx)
	leader := func() string {
		try, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		resp, err := observer.Leader(try)
		if err != nil {
			return err.Error()
		}
		return string(resp.Kvs[0].Value)
	}
	if got := leader(); got != "ann, again" {
		t.Errorf("after the kill the office has %q", got)
	}
	resumed := concurrency.ResumeElection(sessions[0], "office/", elections[0].Key(), elections[0].Rev())
	must(t, eventually(ctx, func() error { return resumed.Proclaim(ctx, "ann, resumed") }))
	sees("ann, resumed")
	must(t, eventually(ctx, func() error { return resumed.Resign(ctx) }))
	must(t, <-elected[1])
	sees("bob")
	revive()
	if err := elections[0].Proclaim(ctx, "ann, too late"); !errors.Is(err, concurrency.ErrElectionNotLeader) {
		t.Errorf("proclaimed by who has resigned: %v", err)
	}
	must(t, sessions[1].Close()) // who is gone has left the office
	must(t, <-elected[2])
	sees("cid")
	if got := leader(); got != "cid" {
		t.Errorf("the office has %q", got)
	}
	// Who gives up waiting is out of the line.
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	dan := concurrency.NewElection(c.session(), "office")
	if err := dan.Campaign(short, "dan"); errorCode(err) != codes.DeadlineExceeded {
		t.Errorf("a campaign that is given up: %v", err)
	}
	waitFor(t, 5*time.Second, "one key", func() bool {
		all, err := watcher.Client().Get(ctx, "office/", clientv3.WithPrefix())
		must(t, err)
		return all.Count == 1
	})
}
