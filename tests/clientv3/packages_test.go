package clientv3_test

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/leasing"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/client/v3/naming/endpoints"
	"go.etcd.io/etcd/client/v3/naming/resolver"
)

// TestNamespace works within a part of the key space with all that a client has: keys, leases, watches.
func TestNamespace(t *testing.T) { onOneAndThree(t, testNamespace) }

func testNamespace(t *testing.T, ctx context.Context, c *cluster) {
	outer := quietClient(t, clientv3.Config{Endpoints: c.endpoints()})
	inner := quietClient(t, clientv3.Config{Endpoints: c.endpoints()})
	inner.KV = namespace.NewKV(inner.KV, "app/")
	inner.Watcher = namespace.NewWatcher(inner.Watcher, "app/")
	inner.Lease = namespace.NewLease(inner.Lease, "app/")

	events := make(chan string, 100)
	watch := func(opts ...clientv3.OpOption) {
		go func() {
			for resp := range inner.Watch(ctx, "k", append(opts, clientv3.WithPrefix(), clientv3.WithPrevKV())...) {
				for _, ev := range resp.Events {
					previous := "-"
					if ev.PrevKv != nil {
						previous = fmt.Sprintf("%s=%s", ev.PrevKv.Key, ev.PrevKv.Value)
					}
					events <- fmt.Sprintf("%v %s=%s %s", ev.Type, ev.Kv.Key, ev.Kv.Value, previous)
				}
			}
		}()
	}
	expect := func(want ...string) {
		t.Helper()
		for _, w := range want {
			select {
			case got := <-events:
				if got != w {
					t.Errorf("event %q, expected %q", got, w)
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("no event, expected %q", w)
			}
		}
	}
	first, err := outer.Put(ctx, "k1", "outside")
	must(t, err)
	watch(clientv3.WithRev(first.Header.Revision))
	lease, err := inner.Grant(ctx, 60)
	must(t, err)
	_, err = inner.Put(ctx, "k1", "a", clientv3.WithLease(lease.ID))
	must(t, err)
	_, err = outer.Put(ctx, "app/k2", "b")
	must(t, err)
	expect("PUT k1=a -", "PUT k2=b -")
	revive := c.killLeader(ctx)
	must(t, eventually(ctx, func() error { _, err := inner.Put(ctx, "k1", "a2", clientv3.WithIgnoreLease()); return err }))
	expect("PUT k1=a2 k1=a")
	revive()

	held, err := inner.TimeToLive(ctx, lease.ID, clientv3.WithAttachedKeys())
	must(t, err)
	if len(held.Keys) != 1 || string(held.Keys[0]) != "k1" || held.GrantedTTL != 60 || held.TTL <= 0 {
		t.Errorf("the lease within: %v", held)
	}
	seen, err := outer.TimeToLive(ctx, lease.ID, clientv3.WithAttachedKeys())
	must(t, err)
	if len(seen.Keys) != 1 || string(seen.Keys[0]) != "app/k1" {
		t.Errorf("the lease seen from outside: %v", seen)
	}
	must(t, eventually(ctx, func() error { _, err := inner.Revoke(ctx, lease.ID); return err }))
	_, err = inner.Delete(ctx, "k2")
	must(t, err)
	expect("DELETE k1= k1=a2", "DELETE k2= k2=b")
	got, err := outer.Get(ctx, "", clientv3.WithPrefix())
	must(t, err)
	if got.Count != 1 || string(got.Kvs[0].Value) != "outside" {
		t.Errorf("left: %v", got)
	}
}

// TestNaming publishes the addresses of services as keys and calls them by name through gRPC's resolver.
func TestNaming(t *testing.T) { onOneAndThree(t, testNaming) }

func testNaming(t *testing.T, ctx context.Context, c *cluster) {
	cl := quietClient(t, clientv3.Config{Endpoints: c.endpoints()})
	manager, err := endpoints.NewManager(cl, "services/greeter")
	must(t, err)
	var addresses []string
	for range 3 {
		addresses = append(addresses, startService(t))
	}
	add := func(i int, opts ...clientv3.OpOption) {
		t.Helper()
		must(t, eventually(ctx, func() error {
			return manager.AddEndpoint(ctx, fmt.Sprintf("services/greeter/%d", i), endpoints.Endpoint{Addr: addresses[i], Metadata: map[string]any{"weight": i}}, opts...)
		}))
	}
	add(0)
	life, end := context.WithCancel(ctx)
	defer end()
	channel, err := manager.NewWatchChannel(life)
	must(t, err)
	builder, err := resolver.NewBuilder(cl)
	must(t, err)
	conn, err := grpc.NewClient("etcd:///services/greeter", grpc.WithResolvers(builder), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin":{}}]}`))
	must(t, err)
	defer conn.Close()
	reaches := func(want ...int) {
		t.Helper()
		var expected []string
		for _, i := range want {
			expected = append(expected, addresses[i])
		}
		slices.Sort(expected)
		var reached []string
		waitFor(t, 20*time.Second, fmt.Sprintf("calls to reach %v", want), func() bool {
			found := map[string]bool{}
			for range 6 {
				var at peer.Peer
				if _, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}, grpc.Peer(&at), grpc.WaitForReady(true)); err == nil {
					found[at.Addr.String()] = true
				}
			}
			reached = slices.Sorted(maps.Keys(found))
			return slices.Equal(reached, expected)
		})
	}
	reaches(0)
	lease, err := cl.Grant(ctx, 60)
	must(t, err)
	add(1, clientv3.WithLease(lease.ID))
	reaches(0, 1)
	revive := c.killLeader(ctx)
	add(2)
	reaches(0, 1, 2)
	revive()
	must(t, eventually(ctx, func() error { _, err := cl.Revoke(ctx, lease.ID); return err })) // as if its service had died
	reaches(0, 2)
	must(t, eventually(ctx, func() error {
		return manager.Update(ctx, []*endpoints.UpdateWithOpts{endpoints.NewDeleteUpdateOpts("services/greeter/0"),
			endpoints.NewAddUpdateOpts("services/greeter/9", endpoints.Endpoint{Addr: addresses[1]})})
	}))
	reaches(1, 2)
	must(t, eventually(ctx, func() error { return manager.DeleteEndpoint(ctx, "services/greeter/9") }))
	reaches(2)

	c.catchUp(ctx)
	list, err := manager.List(ctx)
	must(t, err)
	if len(list) != 1 || list["services/greeter/2"].Addr != addresses[2] {
		t.Errorf("list: %v", list)
	}
	if err := manager.AddEndpoint(ctx, "elsewhere/1", endpoints.Endpoint{Addr: "x"}); err == nil {
		t.Error("an endpoint outside of the target")
	}
	// All of that was seen as changes, in order.
	var changes []string
	for len(changes) < 7 {
		select {
		case updates, ok := <-channel:
			if !ok {
				t.Fatalf("the channel ended after %v", changes)
			}
			for _, u := range updates {
				changes = append(changes, fmt.Sprintf("%v%s", u.Op, strings.TrimPrefix(u.Key, "services/greeter")))
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("no more changes after %v", changes)
		}
	}
	if got := strings.Join(changes, " "); got != "0/0 0/1 0/2 1/1 1/0 0/9 1/9" {
		t.Errorf("changes: %s", got)
	}
}

// startService is a gRPC server that answers health checks.
func startService(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s := grpc.NewServer()
	healthpb.RegisterHealthServer(s, health.NewServer())
	go s.Serve(l)
	t.Cleanup(s.Stop)
	return l.Addr().String()
}

// TestLeasing has two clients that keep what they read, and own it until another writes.
func TestLeasing(t *testing.T) { onOneAndThree(t, testLeasing) }

func testLeasing(t *testing.T, ctx context.Context, c *cluster) {
	var bridges []*bridge
	var through []string
	for _, m := range c.members {
		b := startBridge(t, m.endpoint)
		bridges = append(bridges, b)
		through = append(through, b.endpoint())
	}
	one, closeOne, err := leasing.NewKV(quietClient(t, clientv3.Config{Endpoints: through}), "leasing/")
	must(t, err)
	defer closeOne()
	two, closeTwo, err := leasing.NewKV(quietClient(t, clientv3.Config{Endpoints: c.endpoints()}), "leasing/")
	must(t, err)
	defer closeTwo()
	plain := quietClient(t, clientv3.Config{Endpoints: c.endpoints()})
	read := func(kv clientv3.KV, key string) string {
		t.Helper()
		var got *clientv3.GetResponse
		must(t, eventually(ctx, func() (err error) {
			try, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			got, err = kv.Get(try, key)
			return err
		}))
		if len(got.Kvs) == 0 {
			return ""
		}
		return string(got.Kvs[0].Value)
	}
	put := func(kv clientv3.KV, key, value string) {
		t.Helper()
		must(t, eventually(ctx, func() error {
			try, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			_, err := kv.Put(try, key, value)
			return err
		}))
	}

	_, err = plain.Put(ctx, "a", "1")
	must(t, err)
	if v := read(one, "a"); v != "1" {
		t.Errorf("read %q", v)
	}
	owned, err := plain.Get(ctx, "leasing/a")
	must(t, err)
	if owned.Count != 1 || owned.Kvs[0].Lease == 0 {
		t.Errorf("the key that says who owns: %v", owned)
	}
	// What is owned is read without the server.
	for _, b := range bridges {
		b.silence()
	}
	quick, cancel := context.WithTimeout(ctx, time.Second)
	if got, err := one.Get(quick, "a"); err != nil || string(got.Kvs[0].Value) != "1" {
		t.Errorf("without the server: %v, %v", got, err)
	}
	cancel()
	for _, b := range bridges {
		b.restore()
	}
	// Another's write takes the ownership away first.
	put(two, "a", "2")
	if v := read(one, "a"); v != "2" {
		t.Errorf("the other's write is not seen: %q", v)
	}
	txn, err := two.Txn(ctx).If(clientv3.Compare(clientv3.Value("a"), "=", "2")).
		Then(clientv3.OpPut("a", "3"), clientv3.OpPut("b", "3"), clientv3.OpDelete("c")).Else(clientv3.OpGet("a")).Commit()
	must(t, err)
	if !txn.Succeeded || read(one, "a") != "3" || read(one, "b") != "3" {
		t.Errorf("the other's transaction is not seen: %v", txn)
	}

	// Both count up on condition while the leader dies; none is lost.
	var counted, unknown atomic.Int64
	stop := make(chan struct{})
	var work sync.WaitGroup
	for _, kv := range []clientv3.KV{one, two} {
		work.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				try, cancel := context.WithTimeout(ctx, 4*time.Second)
				ok, err := countOnCondition(try, kv)
				cancel()
				switch {
				case err != nil:
					unknown.Add(1)
				case ok:
					counted.Add(1)
				}
			}
		})
	}
	waitFor(t, 30*time.Second, "counting", func() bool { return counted.Load() >= 10 })
	revive := c.killLeader(ctx)
	from := counted.Load()
	waitFor(t, 60*time.Second, "counting after the kill", func() bool { return counted.Load() >= from+10 })
	revive()
	close(stop)
	work.Wait()
	for name, kv := range map[string]clientv3.KV{"one": one, "two": two, "plain": plain.KV} {
		n, err := strconv.ParseInt(read(kv, "n"), 10, 64)
		if err != nil || n < counted.Load() || n > counted.Load()+unknown.Load() {
			t.Errorf("%s reads %d (%v) after %d increments, and %d of unknown fate", name, n, err, counted.Load(), unknown.Load())
		}
	}
	t.Logf("%d increments, %d of unknown fate", counted.Load(), unknown.Load())

	put(one, "range/1", "x")
	put(two, "range/2", "y")
	read(one, "range/1")
	var deleted *clientv3.DeleteResponse
	must(t, eventually(ctx, func() (err error) {
		deleted, err = two.Delete(ctx, "range/", clientv3.WithPrefix())
		return err
	}))
	if v := read(one, "range/1"); v != "" || deleted.Deleted != 2 {
		t.Errorf("after %v: %q", deleted, v)
	}
}

func countOnCondition(ctx context.Context, kv clientv3.KV) (bool, error) {
	got, err := kv.Get(ctx, "n")
	if err != nil {
		return false, err
	}
	n, rev := 0, int64(0)
	if len(got.Kvs) > 0 {
		n, _ = strconv.Atoi(string(got.Kvs[0].Value))
		rev = got.Kvs[0].ModRevision
	}
	resp, err := kv.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision("n"), "=", rev)).Then(clientv3.OpPut("n", strconv.Itoa(n+1))).Commit()
	if err != nil {
		return false, err
	}
	return resp.Succeeded, nil
}
