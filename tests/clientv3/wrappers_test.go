package clientv3_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/clientv3util"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/client/v3/ordering"
)

// TestSameNamespace runs programs within a part of the key space, and compares what they see there, and what
// is there seen from outside.
func TestSameNamespace(t *testing.T) {
	t.Parallel()
	w := startTwins(t, 1)
	for _, prefix := range []string{"ns/", "\xff", "n\xff\xff"} {
		within := func(what string, f func(ctx context.Context, kv clientv3.KV) (any, error)) {
			t.Helper()
			w.same(fmt.Sprintf("in %q: %s", prefix, what), func(ctx context.Context, c *clientv3.Client) (any, error) {
				return f(ctx, namespace.NewKV(c.KV, prefix))
			})
		}
		do := func(what string, o clientv3.Op) {
			t.Helper()
			within(what, func(ctx context.Context, kv clientv3.KV) (any, error) { return kv.Do(ctx, o) })
		}
		// Neighbours that must stay out of sight. (Not "o": the end that clientv3 makes of the last prefix is
		// "o\x00\x00", and it panics on a key shorter than the prefix.)
		for _, key := range []string{"a", "ns", "ns.", "ns0", "n\xff\xfe", "o\x00\x00", "\xfe\xff"} {
			w.same("outside", op(clientv3.OpPut(key, "outside")))
		}
		for i, key := range append(slices.Clone(optionKeys), "", "\x00") {
			do("put "+key, clientv3.OpPut(key, fmt.Sprint(i), clientv3.WithPrevKV()))
			do("put again "+key, clientv3.OpPut(key, fmt.Sprint(i+1), clientv3.WithPrevKV()))
			within("Put", func(ctx context.Context, kv clientv3.KV) (any, error) { return kv.Put(ctx, key, "3") })
		}
		for _, s := range spans {
			within(s.name, func(ctx context.Context, kv clientv3.KV) (any, error) { return kv.Get(ctx, s.key, s.opts...) })
			within(s.name+", last change", func(ctx context.Context, kv clientv3.KV) (any, error) {
				return kv.Get(ctx, s.key, append(s.opts[:len(s.opts):len(s.opts)], clientv3.WithSort(clientv3.SortByModRevision, clientv3.SortDescend), clientv3.WithLimit(2))...)
			})
		}
		within("stream", func(ctx context.Context, kv clientv3.KV) (any, error) { return kv.GetStream(ctx, "a") })
		for _, cmp := range []clientv3.Cmp{clientv3util.KeyExists("a"), clientv3util.KeyMissing("ns/a"), clientv3util.KeyExists("").WithPrefix(),
			clientv3.Compare(clientv3.Value("a"), "=", "3").WithRange("b")} {
			inner := clientv3.OpTxn([]clientv3.Cmp{cmp}, []clientv3.Op{clientv3.OpPut("b", "then", clientv3.WithPrevKV())}, []clientv3.Op{clientv3.OpDelete("a/", clientv3.WithPrefix(), clientv3.WithPrevKV())})
			do("nested", clientv3.OpTxn(nil, []clientv3.Op{inner, clientv3.OpGet("", clientv3.WithPrefix())}, nil))
			within("Txn", func(ctx context.Context, kv clientv3.KV) (any, error) {
				return kv.Txn(ctx).If(cmp).Then(inner, clientv3.OpGet("a")).Else(clientv3.OpGet("b"), inner).Commit()
			})
		}
		w.same("seen from outside", get("", clientv3.WithPrefix()))
		for _, s := range spans {
			within("delete, "+s.name, func(ctx context.Context, kv clientv3.KV) (any, error) {
				return kv.Delete(ctx, s.key, append(s.opts[:len(s.opts):len(s.opts)], clientv3.WithPrevKV())...)
			})
		}
		rest, err := w.same("seen from outside", get("", clientv3.WithPrefix()))
		if err != nil {
			t.Fatal(err)
		}
		// Nothing outside was touched.
		for _, kv := range rest.(*clientv3.GetResponse).Kvs {
			if string(kv.Value) != "outside" {
				t.Errorf("%q is left: %v", prefix, kv)
			}
		}
		if n := len(rest.(*clientv3.GetResponse).Kvs); n != 7 {
			t.Errorf("after %q %d of the 7 keys outside are left", prefix, n)
		}
	}
}

// TestOrdering cuts a follower off from its peers. It goes on to serve reads that ask for no agreement, and
// they grow old: the ordering wrapper notices, turns to other members, and gives up where there are none.
func TestOrdering(t *testing.T) { bothServers(t, testOrdering) }

func testOrdering(t *testing.T, bin string) {
	c, bridges := startBridgedCluster(t, bin, 3)
	ctx := testContext(t, time.Minute)
	cl := client(t, c.endpoints()...)
	put := func(value string) int64 {
		t.Helper()
		resp, err := cl.Put(ctx, "key", value)
		if err != nil {
			t.Fatal(err)
		}
		return resp.Header.Revision
	}
	leader := c.leader(ctx, cl)
	cut := slices.IndexFunc(c.members, func(m *member) bool { return m != leader })
	var others []string
	for i, m := range c.members {
		if i != cut {
			others = append(others, m.endpoint)
		}
	}
	// Both see the first value before the cut.
	put("old")
	lonely := quietClient(t, clientv3.Config{Endpoints: []string{c.members[cut].endpoint}})
	if _, err := lonely.Get(ctx, "key"); err != nil {
		t.Fatal(err)
	}
	c.isolate(ctx, bridges, cut)
	if err := cl.Close(); err != nil {
		t.Fatal(err)
	}
	cl = quietClient(t, clientv3.Config{Endpoints: others})
	newest := put("new")

	// Through one client that is turned to the cut member after it has seen the newest revision.
	turning := quietClient(t, clientv3.Config{Endpoints: others})
	var violations atomic.Int32
	kv := ordering.NewKV(turning.KV, func(_ clientv3.Op, resp clientv3.OpResponse, prev int64) error {
		if prev != newest || (resp.Get() == nil && resp.Txn() == nil) {
			t.Errorf("violation of %d, the newest is %d: %v", prev, newest, resp)
		}
		if violations.Add(1) >= 2 {
			turning.SetEndpoints(others...)
		}
		return nil
	})
	read := func() string {
		t.Helper()
		resp, err := kv.Get(ctx, "key", clientv3.WithSerializable())
		if err != nil || len(resp.Kvs) != 1 {
			t.Fatalf("read: %v, %v", resp, err)
		}
		return string(resp.Kvs[0].Value)
	}
	if _, err := kv.Get(ctx, "key"); err != nil { // linearizable: is at the newest revision
		t.Fatal(err)
	}
	turning.SetEndpoints(c.members[cut].endpoint)
	waitFor(t, 5*time.Second, "the cut member to be asked", func() bool { return read() == "new" && violations.Load() > 0 })
	// The same for transactions.
	violations.Store(0)
	turning.SetEndpoints(c.members[cut].endpoint)
	waitFor(t, 5*time.Second, "the cut member to be asked in a transaction", func() bool {
		resp, err := kv.Txn(ctx).Then(clientv3.OpGet("key", clientv3.WithSerializable())).Commit()
		if err != nil {
			t.Fatal(err)
		}
		if kvs := resp.Responses[0].GetResponseRange().Kvs; string(kvs[0].Value) != "new" {
			t.Fatalf("an old value came through: %v", resp)
		}
		return violations.Load() > 0
	})

	// clientv3's own answer to violations: five times around the members, then an error.
	stuck := quietClient(t, clientv3.Config{Endpoints: others})
	kv = ordering.NewKV(stuck.KV, ordering.NewOrderViolationSwitchEndpointClosure(stuck))
	if _, err := kv.Get(ctx, "key"); err != nil {
		t.Fatal(err)
	}
	stuck.SetEndpoints(c.members[cut].endpoint)
	waitFor(t, 5*time.Second, "nobody newer to be found", func() bool {
		_, err := kv.Get(ctx, "key", clientv3.WithSerializable())
		if err != nil && !errors.Is(err, ordering.ErrNoGreaterRev) {
			t.Fatal(err)
		}
		return err != nil
	})

	// The cut member knows that it has no leader, and says so to who asks for one.
	waitFor(t, 10*time.Second, "the cut member to notice", func() bool {
		_, err := lonely.Get(clientv3.WithRequireLeader(ctx), "key", clientv3.WithSerializable())
		if err != nil && !errors.Is(err, rpctypes.ErrNoLeader) {
			t.Fatalf("with a leader required: %v", err)
		}
		return err != nil
	})

	// Once it is back, it is as good as the others.
	for _, b := range bridges {
		b.restore()
	}
	waitFor(t, 15*time.Second, "the member to be back", func() bool {
		try, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		resp, err := lonely.Get(try, "key", clientv3.WithSerializable())
		return err == nil && string(resp.Kvs[0].Value) == "new"
	})
	if value := read(); value != "new" {
		t.Errorf("after the return: %q", value)
	}
}

// startBridgedCluster is a cluster whose members reach each other through bridges, one in front of each.
func startBridgedCluster(t testing.TB, bin string, n int) (*cluster, []*bridge) {
	t.Helper()
	var bridges []*bridge
	c := prepareCluster(t, n, func(peer int) int {
		b := startBridge(t, fmt.Sprintf("127.0.0.1:%d", peer))
		bridges = append(bridges, b)
		var port int
		fmt.Sscanf(b.endpoint(), "127.0.0.1:%d", &port)
		return port
	}, bin)
	c.startAll()
	return c, bridges
}

// isolate stops the traffic between one member and the others, in both directions.
func (c *cluster) isolate(ctx context.Context, bridges []*bridge, i int) {
	c.t.Helper()
	cl := client(c.t, c.members[i].endpoint)
	status, err := cl.Status(ctx, c.members[i].endpoint)
	if err != nil {
		c.t.Fatal(err)
	}
	for k, b := range bridges {
		if k == i {
			b.silence()
		} else {
			b.cut(status.Header.MemberId)
		}
	}
}

// TestNamespacesAndOrderingTogether puts one wrapper on the other, as applications do.
func TestNamespacesAndOrderingTogether(t *testing.T) {
	c := startCluster(t, quorateBin(t), 1)
	cl := client(t, c.endpoints()...)
	ctx := testContext(t, 20*time.Second)
	violated := func(clientv3.Op, clientv3.OpResponse, int64) error {
		return errors.New("one member is always in order")
	}
	kv := namespace.NewKV(ordering.NewKV(namespace.NewKV(cl.KV, "outer/"), violated), "inner/")
	for i := range 20 {
		if _, err := kv.Put(ctx, fmt.Sprint(i), "x"); err != nil {
			t.Fatal(err)
		}
		got, err := kv.Get(ctx, "", clientv3.WithPrefix(), clientv3.WithSerializable())
		if err != nil || got.Count != int64(i+1) {
			t.Fatalf("after %d puts: %v, %v", i+1, got, err)
		}
	}
	all, err := cl.Get(ctx, "", clientv3.WithPrefix())
	if err != nil || all.Count != 20 || !strings.HasPrefix(string(all.Kvs[0].Key), "outer/inner/") {
		t.Fatalf("from outside: %v, %v", all, err)
	}
}
