package clientv3_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// seed is the program that quorate began with: what a Go service does with etcd.
func seed(t *testing.T, ctx context.Context, c *clientv3.Client, key string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}

	put, err := c.Put(ctx, key, "one")
	must(err)
	if put.PrevKv != nil || put.Header.Revision < 2 || put.Header.ClusterId == 0 || put.Header.MemberId == 0 || put.Header.RaftTerm < 2 {
		t.Fatalf("put: %v", put)
	}
	created := put.Header.Revision

	for name, opts := range map[string][]clientv3.OpOption{"linearizable": nil, "serializable": {clientv3.WithSerializable()}} {
		// A serializable read may be served by a member that is behind the one that acknowledged the put.
		var get *clientv3.GetResponse
		for {
			get, err = c.Get(ctx, key, opts...)
			must(err)
			if name == "linearizable" || get.Header.Revision >= created {
				break
			}
			time.Sleep(time.Millisecond)
		}
		if get.Count != 1 || len(get.Kvs) != 1 || get.More || get.Header.Revision < created {
			t.Fatalf("%s get: %v", name, get)
		}
		kv := get.Kvs[0]
		if string(kv.Key) != key || string(kv.Value) != "one" || kv.CreateRevision != created || kv.ModRevision != created || kv.Version != 1 || kv.Lease != 0 {
			t.Fatalf("%s get: %v", name, kv)
		}
	}

	put, err = c.Put(ctx, key, "two", clientv3.WithPrevKV())
	must(err)
	second := put.Header.Revision
	if put.PrevKv == nil || string(put.PrevKv.Value) != "one" || put.PrevKv.ModRevision != created || second <= created {
		t.Fatalf("put with prev_kv: %v", put)
	}

	// A put on the condition that nobody wrote since: true once, then no more.
	conditional := func(rev int64, value string) *clientv3.TxnResponse {
		t.Helper()
		txn, err := c.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(key), "=", rev)).
			Then(clientv3.OpPut(key, value)).
			Else(clientv3.OpGet(key)).
			Commit()
		must(err)
		return txn
	}
	txn := conditional(second, "three")
	if !txn.Succeeded || len(txn.Responses) != 1 || txn.Responses[0].GetResponsePut() == nil || txn.Header.Revision <= second {
		t.Fatalf("txn that holds: %v", txn)
	}
	third := txn.Header.Revision
	txn = conditional(second, "four")
	if txn.Succeeded || len(txn.Responses) != 1 {
		t.Fatalf("txn that does not hold: %v", txn)
	}
	if kvs := txn.Responses[0].GetResponseRange().GetKvs(); len(kvs) != 1 || string(kvs[0].Value) != "three" || kvs[0].ModRevision != third || kvs[0].Version != 3 || kvs[0].CreateRevision != created {
		t.Fatalf("txn that does not hold: %v", txn)
	}
	// Version 0 = the key does not exist: the usual "create if absent".
	txn, err = c.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key+"/lock"), "=", 0)).Then(clientv3.OpPut(key+"/lock", "")).Commit()
	must(err)
	if !txn.Succeeded {
		t.Fatalf("create if absent: %v", txn)
	}

	old, err := c.Get(ctx, key, clientv3.WithRev(second))
	must(err)
	if len(old.Kvs) != 1 || string(old.Kvs[0].Value) != "two" {
		t.Fatalf("get at revision %d: %v", second, old)
	}

	del, err := c.Delete(ctx, key, clientv3.WithPrevKV())
	must(err)
	if del.Deleted != 1 || len(del.PrevKvs) != 1 || string(del.PrevKvs[0].Value) != "three" || del.Header.Revision <= third {
		t.Fatalf("delete with prev_kv: %v", del)
	}
	gone := del.Header.Revision
	del, err = c.Delete(ctx, key, clientv3.WithPrevKV())
	must(err)
	if del.Deleted != 0 || len(del.PrevKvs) != 0 || del.Header.Revision < gone {
		t.Fatalf("second delete: %v", del)
	}
	get, err := c.Get(ctx, key)
	must(err)
	if get.Count != 0 || len(get.Kvs) != 0 {
		t.Fatalf("get after delete: %v", get)
	}
	get, err = c.Get(ctx, key, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	must(err)
	if get.Count != 1 || string(get.Kvs[0].Key) != key+"/lock" || len(get.Kvs[0].Value) != 0 {
		t.Fatalf("get of the prefix: %v", get)
	}

	if _, err := c.Put(ctx, "", "x"); !errors.Is(err, rpctypes.ErrEmptyKey) {
		t.Fatalf("put of the empty key: %v", err)
	}
	if _, err := c.Get(ctx, key, clientv3.WithRev(1<<40)); !errors.Is(err, rpctypes.ErrFutureRev) {
		t.Fatalf("get of a future revision: %v", err)
	}
}

func TestSeedOneMember(t *testing.T) {
	c := startCluster(t, quorateBin(t), 1)
	ctx := testContext(t, time.Minute)
	cl := client(t, c.endpoints()...)
	seed(t, ctx, cl, "seed")
	if get, err := cl.Get(ctx, "seed", clientv3.WithPrefix()); err != nil || get.Header.Revision != 6 {
		t.Fatalf("five effective writes must end at revision 6: %v, %v", get, err)
	}

	// Everything is there after SIGTERM and after SIGKILL.
	for i, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		m := c.members[0]
		m.signal(sig)
		m.awaitReady(m.start())
		get, err := cl.Get(ctx, "seed/lock")
		if err != nil || get.Count != 1 {
			t.Fatalf("after %v: %v, %v", sig, get, err)
		}
		seed(t, ctx, cl, fmt.Sprintf("again-%d", i))
	}
}

// Nothing but a data directory on the command line: a client finds the server where etcd would be.
func TestSeedDefaultPorts(t *testing.T) {
	if !portFree(t, 2379) || !portFree(t, 2380) {
		t.Skip("port 2379 or 2380 is in use on this machine")
	}
	m := newMember(t, quorateBin(t), "default", "localhost:2379", "--data-dir", filepath.Join(t.TempDir(), "data"))
	m.awaitReady(m.start())
	seed(t, testContext(t, time.Minute), client(t, "localhost:2379"), "seed")
}

// Each member serves the program alone: reads and writes at followers go to the leader by themselves.
func TestSeedThreeMembers(t *testing.T) {
	c := startCluster(t, quorateBin(t), 3)
	ctx := testContext(t, time.Minute)
	for i, endpoint := range c.endpoints() {
		seed(t, ctx, client(t, endpoint), fmt.Sprintf("via-%d", i))
	}
}

// The leader is killed with SIGKILL again and again, and brought back, while the program runs, while
// one client writes and one counts up by conditional puts.
func TestSeedThreeMembersLeaderKilled(t *testing.T) {
	c := startCluster(t, quorateBin(t), 3)
	ctx := testContext(t, 3*time.Minute)
	cl := client(t, c.endpoints()...)

	type ack struct {
		key string
		rev int64
		at  time.Time
	}
	const writers = 4
	acks := make([][]ack, writers)
	var counted int
	var acknowledged atomic.Int64
	stopped := make(chan struct{})
	var work sync.WaitGroup
	errs := make(chan error, 2)

	// Each writes new keys; a write whose fate is unknown is not tried again.
	for w := range writers {
		work.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stopped:
					return
				default:
				}
				key := fmt.Sprintf("log/%d/%06d", w, n)
				try, cancel := context.WithTimeout(ctx, patience)
				put, err := cl.Put(try, key, strconv.Itoa(n))
				cancel()
				if err == nil {
					acks[w] = append(acks[w], ack{key, put.Header.Revision, time.Now()})
					acknowledged.Add(1)
				} else if ctx.Err() != nil {
					return
				}
			}
		})
	}

	// Counts up: reads, then puts the next number on the condition that nobody wrote since. Where the fate
	// of a put is unknown it may still be done, and even later, but only as long as its condition holds.
	work.Go(func() {
		unsure := int64(-1) // the revision that such a put depends on
		for ctx.Err() == nil {
			select {
			case <-stopped:
				return
			default:
			}
			try, cancel := context.WithTimeout(ctx, patience)
			get, err := cl.Get(try, "counter")
			if err != nil {
				cancel()
				continue
			}
			value, rev := 0, int64(0)
			if get.Count == 1 {
				value, _ = strconv.Atoi(string(get.Kvs[0].Value))
				rev = get.Kvs[0].ModRevision
			}
			if value != counted && (value != counted+1 || unsure < 0) {
				errs <- fmt.Errorf("a linearizable read shows %d after %d increments (unsure: %d)", value, counted, unsure)
				cancel()
				return
			}
			counted = value
			if rev != unsure {
				unsure = -1
			}
			txn, err := cl.Txn(try).If(clientv3.Compare(clientv3.ModRevision("counter"), "=", rev)).
				Then(clientv3.OpPut("counter", strconv.Itoa(value+1))).Commit()
			cancel()
			switch {
			case err != nil:
				unsure = rev
			case txn.Succeeded:
				counted++
				unsure = -1
			case unsure != rev:
				errs <- fmt.Errorf("a conditional put failed although nobody else writes: %v", txn)
				return
			}
		}
	})

	kills := envInt(t, "QUORATE_LEADER_KILLS", 4)
	var killedAt []time.Time
	for i := range kills {
		time.Sleep(300 * time.Millisecond)
		leader := c.leader(ctx, cl)
		killedAt = append(killedAt, time.Now())
		leader.kill()
		// The two others elect a leader and go on; the whole program runs meanwhile.
		next := c.leader(ctx, cl)
		if next == leader {
			t.Fatalf("%s was killed and leads", leader.name)
		}
		seed(t, ctx, client(t, survivors(c, leader)...), fmt.Sprintf("without-leader-%d", i))
		leader.awaitReady(leader.start())
		for from, deadline := acknowledged.Load(), time.Now().Add(15*time.Second); acknowledged.Load() < from+2*writers; {
			if time.Now().After(deadline) {
				t.Fatalf("after kill %d writes do not go on", i)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	close(stopped)
	work.Wait()
	select {
	case err := <-errs:
		t.Fatal(err)
	default:
	}

	// Every acknowledged write is there at its revision, in the order of the acknowledgements.
	get, err := cl.Get(ctx, "log/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]int64{}
	for _, kv := range get.Kvs {
		found[string(kv.Key)] = kv.ModRevision
	}
	total := 0
	for w := range acks {
		last := int64(0)
		for _, a := range acks[w] {
			if rev, ok := found[a.key]; !ok || rev != a.rev {
				t.Errorf("%s was acknowledged at revision %d and is at %d", a.key, a.rev, rev)
			}
			if a.rev <= last {
				t.Errorf("%s was acknowledged at revision %d after %d", a.key, a.rev, last)
			}
			last = a.rev
			total++
		}
	}
	if total < 10*kills || counted < kills {
		t.Errorf("only %d writes were acknowledged, and the counter came to %d", total, counted)
	}

	// All members come to the same state.
	var hashes []*clientv3.HashKVResponse
	for _, m := range c.members {
		single := client(t, m.endpoint)
		if _, err := single.Get(ctx, "any"); err != nil { // waits until this member has applied everything
			t.Fatalf("%s: %v", m.name, err)
		}
		hash, err := single.HashKV(ctx, m.endpoint, get.Header.Revision)
		if err != nil {
			t.Fatalf("%s: %v", m.name, err)
		}
		hashes = append(hashes, hash)
	}
	for i, h := range hashes {
		if h.Hash != hashes[0].Hash || h.CompactRevision != hashes[0].CompactRevision || h.HashRevision != hashes[0].HashRevision {
			t.Errorf("HashKV of %s is %v, of %s %v", c.members[i].name, h, c.members[0].name, hashes[0])
		}
	}
	for i, at := range killedAt {
		next := time.Duration(-1)
		for w := range acks {
			for _, a := range acks[w] {
				// The first acknowledgement after the kill may answer a request from before it.
				if after := a.at.Sub(at); after > 5*time.Millisecond && (next < 0 || after < next) {
					next = after
				}
			}
		}
		t.Logf("kill %d: next acknowledged write after %v", i, next.Round(time.Millisecond))
	}
	t.Logf("%d writes acknowledged, counted to %d, over %d kills of the leader", total, counted, kills)
}

func survivors(c *cluster, dead *member) []string {
	var list []string
	for _, m := range c.members {
		if m != dead {
			list = append(list, m.endpoint)
		}
	}
	return list
}
