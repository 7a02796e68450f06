package clientv3_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

var isolations = []struct {
	name  string
	level concurrency.Isolation
}{
	{"SerializableSnapshot", concurrency.SerializableSnapshot},
	{"Serializable", concurrency.Serializable},
	{"RepeatableReads", concurrency.RepeatableReads},
	{"ReadCommitted", concurrency.ReadCommitted},
}

// TestSameSTM runs transactions that others disturb between their reads, at every isolation level, and
// compares what each attempt saw: what a level promises, and what it does not, is the same on both.
func TestSameSTM(t *testing.T) {
	t.Parallel()
	w := startTwins(t, 1)
	// Each script is what one attempt does. The disturbance happens in the first attempt only, at "!".
	scripts := []string{
		"get a ! get b put c", "get a ! get a put c", "get b ! get c put a", "! get a put a", "get a put a ! put c",
		"rev a ! rev b put d", "get a del a ! get a", "put b ! get a", "put b ! get b put a", "get a get b ! put d",
		"get nothing ! get a put c", "gets a,b ! get b put c", "put a del b ! get c", "! rev nothing put nothing",
	}
	disturbances := []string{"put a", "put b", "put c", "put a,put b", "del a", "del b,put b", "put nothing", "put z"}
	for _, iso := range isolations {
		for _, script := range scripts {
			for _, disturbance := range disturbances {
				for _, prefetch := range [][]string{nil, {"a", "b"}} {
					what := fmt.Sprintf("%s, %q disturbed by %q, prefetching %v", iso.name, script, disturbance, prefetch)
					w.same(what, func(ctx context.Context, c *clientv3.Client) (any, error) {
						return traceSTM(ctx, c, script, disturbance, concurrency.WithIsolation(iso.level), concurrency.WithPrefetch(prefetch...))
					})
				}
			}
		}
	}
	// What goes wrong within comes out as it is: the program's own error, the server's, the context's.
	for _, iso := range isolations {
		own := errors.New("the program's own")
		w.same(iso.name+", own error", func(ctx context.Context, c *clientv3.Client) (any, error) {
			return concurrency.NewSTM(c, func(s concurrency.STM) error { s.Put("not there", ""); return own }, concurrency.WithIsolation(iso.level))
		})
		for _, key := range []string{"", "x"} {
			w.same(iso.name+", refused", func(ctx context.Context, c *clientv3.Client) (any, error) {
				return concurrency.NewSTM(c, func(s concurrency.STM) error { s.Put(key, "v", clientv3.WithLease(4711)); return nil }, concurrency.WithIsolation(iso.level))
			})
			w.same(iso.name+", aborted", func(ctx context.Context, c *clientv3.Client) (any, error) {
				done, cancel := context.WithCancel(ctx)
				cancel()
				return concurrency.NewSTM(c, func(s concurrency.STM) error { s.Get(key); return nil },
					concurrency.WithIsolation(iso.level), concurrency.WithAbortContext(done))
			})
		}
		w.same(iso.name+", too many writes", func(ctx context.Context, c *clientv3.Client) (any, error) {
			return concurrency.NewSTM(c, func(s concurrency.STM) error {
				for i := range 129 {
					s.Put(strconv.Itoa(i), "")
				}
				return nil
			}, concurrency.WithIsolation(iso.level))
		})
	}
	w.same("everything", get("", clientv3.WithPrefix()))
	t.Logf("%d transactions", w.requests)
}

// traceSTM runs a script as a transaction on a fresh set of keys and tells what each attempt saw.
func traceSTM(ctx context.Context, c *clientv3.Client, script, disturbance string, opts ...concurrency.STMOption) (string, error) {
	if _, err := c.Txn(ctx).Then(clientv3.OpDelete("", clientv3.WithPrefix())).Commit(); err != nil {
		return "", err
	}
	if _, err := c.Txn(ctx).Then(clientv3.OpPut("a", "a0"), clientv3.OpPut("b", "b0"), clientv3.OpPut("c", "c0")).Commit(); err != nil {
		return "", err
	}
	var trace strings.Builder
	attempts := 0
	resp, err := concurrency.NewSTM(c, func(s concurrency.STM) error {
		attempts++
		trace.WriteString(" | ")
		words := strings.Fields(script)
		for i := 0; i < len(words); i++ {
			if words[i] == "!" {
				if attempts == 1 {
					if err := disturb(ctx, c, disturbance); err != nil {
						return err
					}
				}
				continue
			}
			verb, key := words[i], words[i+1]
			i++
			switch verb {
			case "get":
				fmt.Fprintf(&trace, "%s=%q ", key, s.Get(key))
			case "gets":
				fmt.Fprintf(&trace, "%s=%q ", key, s.Get(strings.Split(key, ",")...))
			case "rev":
				fmt.Fprintf(&trace, "%s@%d ", key, s.Rev(key))
			case "put":
				s.Put(key, fmt.Sprintf("by attempt %d", attempts))
			case "del":
				s.Del(key)
			}
		}
		if attempts > 5 {
			return errors.New("five attempts although it was disturbed once")
		}
		return nil
	}, append(opts, concurrency.WithAbortContext(ctx))...)
	if err != nil {
		return trace.String(), err
	}
	after, err := c.Get(ctx, "", clientv3.WithPrefix())
	return fmt.Sprintf("%s: revision %d, then %s", trace.String(), resp.Header.Revision, text(after, err)), err
}

func disturb(ctx context.Context, c *clientv3.Client, what string) error {
	for _, one := range strings.Split(what, ",") {
		verb, key, _ := strings.Cut(one, " ")
		o := clientv3.OpPut(key, "by another")
		if verb == "del" {
			o = clientv3.OpDelete(key)
		}
		if _, err := c.Do(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

// TestSTMTransfers moves money between accounts from many clients at once; nothing of it is made or lost,
// on one member, and on three of which the leader is killed with SIGKILL in between.
func TestSTMTransfers(t *testing.T) {
	t.Parallel()
	for _, members := range []int{1, 3} {
		t.Run(fmt.Sprintf("members-%d", members), func(t *testing.T) {
			t.Parallel()
			c := startCluster(t, quorateBin(t), members)
			for _, iso := range isolations[:3] {
				transfers(t, c, iso.name, iso.level)
			}
		})
	}
}

func transfers(t *testing.T, c *cluster, name string, level concurrency.Isolation) {
	const accounts, workers, total = 5, 6, 500
	ctx := testContext(t, 2*time.Minute)
	cl := client(t, c.endpoints()...)
	account := func(i int) string { return fmt.Sprintf("%s/%d", name, i%accounts) }
	for i := range accounts {
		if _, err := cl.Put(ctx, account(i), strconv.Itoa(total/accounts)); err != nil {
			t.Fatal(err)
		}
	}
	c.catchUp(ctx)
	var work sync.WaitGroup
	var mu sync.Mutex
	committed, attempts, unknown := 0, 0, 0
	enough := make(chan struct{})
	for worker := range workers {
		work.Go(func() {
			own := quietClient(t, clientv3.Config{Endpoints: c.endpoints()})
			for n := 0; ; n++ {
				select {
				case <-enough:
					return
				default:
				}
				from, to := account(worker+n), account(worker+2*n+1)
				if from == to {
					continue
				}
				try, cancel := context.WithTimeout(ctx, patience)
				tried := 0
				_, err := concurrency.NewSTM(own, func(s concurrency.STM) error {
					tried++
					a, errA := strconv.Atoi(s.Get(from))
					b, errB := strconv.Atoi(s.Get(to))
					if err := errors.Join(errA, errB); err != nil {
						t.Errorf("%s: %v", name, err)
						return err
					}
					amount := min(a, 1+n%7)
					s.Put(from, strconv.Itoa(a-amount))
					s.Put(to, strconv.Itoa(b+amount))
					return nil
				}, concurrency.WithIsolation(level), concurrency.WithAbortContext(try))
				cancel()
				mu.Lock()
				attempts += tried
				if err == nil {
					committed++
				} else {
					unknown++ // done or not: the sum is the same
				}
				mu.Unlock()
			}
		})
	}
	count := func() int { mu.Lock(); defer mu.Unlock(); return committed }
	waitFor(t, 20*time.Second, name+": 40 transfers", func() bool { return count() >= 40 })
	if len(c.members) > 1 {
		leader := c.leader(ctx, cl)
		leader.kill()
		c.leader(ctx, cl)
		before := count()
		waitFor(t, 20*time.Second, name+": 40 transfers without the leader", func() bool { return count() >= before+40 })
		leader.awaitReady(leader.start())
	}
	close(enough)
	work.Wait()

	all, err := cl.Get(ctx, name+"/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	sum := 0
	for _, kv := range all.Kvs {
		n, err := strconv.Atoi(string(kv.Value))
		if err != nil || n < 0 {
			t.Errorf("%s holds %q", kv.Key, kv.Value)
		}
		sum += n
	}
	if sum != total || len(all.Kvs) != accounts {
		t.Errorf("%s: %d accounts hold %d, there were %d with %d", name, len(all.Kvs), sum, accounts, total)
	}
	if attempts == committed+unknown {
		t.Logf("%s: no two transfers ever met", name)
	}
	t.Logf("%s: %d transfers in %d attempts, of %d the fate is unknown", name, committed, attempts, unknown)
}

// waitFor asks until it holds, and fails the test when it does not in time.
func waitFor(t testing.TB, limit time.Duration, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}
