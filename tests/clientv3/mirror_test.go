package clientv3_test

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/mirror"
)

// TestMirror keeps a copy of a part of the keys: a base in pages, then every change in order, across a kill
// of the leader. In the end the copy is the original.
func TestMirror(t *testing.T) { onOneAndThree(t, testMirror) }

func testMirror(t *testing.T, ctx context.Context, c *cluster) {
	const keys = 2300 // three pages of the base
	cl := quietClient(t, clientv3.Config{Endpoints: c.endpoints()})
	for i := 0; i < keys; i += 100 {
		var ops []clientv3.Op
		for n := range 100 {
			ops = append(ops, clientv3.OpPut(fmt.Sprintf("mirror/%05d", i+n), "base"))
		}
		_, err := cl.Txn(ctx).Then(ops...).Commit()
		must(t, err)
	}
	_, err := cl.Put(ctx, "mirrors/next door", "not in the copy")
	must(t, err)

	syncer := mirror.NewSyncer(cl, "mirror/", 0)
	base, errs := syncer.SyncBase(ctx)
	mirrored, pages := map[string]string{}, 0
	for page := range base {
		pages++
		for _, kv := range page.Kvs {
			mirrored[string(kv.Key)] = string(kv.Value)
		}
	}
	must(t, <-errs)
	if len(mirrored) != keys || pages != 3 {
		t.Fatalf("the base has %d keys in %d pages", len(mirrored), pages)
	}

	life, end := context.WithCancel(ctx)
	defer end()
	updates := syncer.SyncUpdates(life)
	var mu sync.Mutex
	last := int64(0) // the revision of the newest event
	var copying sync.WaitGroup
	copying.Go(func() {
		for resp := range updates {
			if err := resp.Err(); err != nil {
				t.Errorf("the watch ended: %v", err)
			}
			mu.Lock()
			for _, ev := range resp.Events {
				if ev.Kv.ModRevision < last {
					t.Errorf("an event of revision %d after one of %d", ev.Kv.ModRevision, last)
				}
				last = ev.Kv.ModRevision
				if ev.Type == clientv3.EventTypeDelete {
					delete(mirrored, string(ev.Kv.Key))
				} else {
					mirrored[string(ev.Kv.Key)] = string(ev.Kv.Value)
				}
			}
			mu.Unlock()
		}
	})
	var written atomic.Int64
	stop := make(chan struct{})
	var writing sync.WaitGroup
	for worker := range 3 {
		writing.Go(func() {
			for n := worker; ; n += 7 {
				select {
				case <-stop:
					return
				default:
				}
				try, cancel := context.WithTimeout(ctx, patience)
				key := fmt.Sprintf("mirror/%05d", n%(keys+200))
				var err error
				if n%5 == 0 {
					_, err = cl.Delete(try, key, clientv3.WithRange(key+"\xff"))
				} else {
					_, err = cl.Txn(try).Then(clientv3.OpPut(key, strconv.Itoa(n)), clientv3.OpPut("mirror/newest", key)).Commit()
				}
				cancel()
				if err == nil {
					written.Add(1)
				}
			}
		})
	}
	waitFor(t, 20*time.Second, "writes", func() bool { return written.Load() > 100 })
	c.killLeader(ctx)()
	from := written.Load()
	waitFor(t, 20*time.Second, "writes after the kill", func() bool { return written.Load() > from+100 })
	close(stop)
	writing.Wait()

	// The last write is one of ours, so that the copy shows when it is complete.
	put, err := cl.Put(ctx, "mirror/end", "")
	must(t, err)
	waitFor(t, 20*time.Second, "the copy to catch up", func() bool { mu.Lock(); defer mu.Unlock(); return last == put.Header.Revision })
	end()
	copying.Wait()
	all, err := cl.Get(ctx, "mirror/", clientv3.WithPrefix(), clientv3.WithRev(put.Header.Revision))
	must(t, err)
	original := map[string]string{}
	for _, kv := range all.Kvs {
		original[string(kv.Key)] = string(kv.Value)
	}
	if !maps.Equal(original, mirrored) {
		t.Errorf("the copy has %d keys, the original %d, and they differ", len(mirrored), len(original))
	}
	t.Logf("%d writes, %d keys", written.Load(), len(original))
}
