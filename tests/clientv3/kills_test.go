package clientv3_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// onOneAndThree runs a test on one member and on three.
func onOneAndThree(t *testing.T, f func(t *testing.T, ctx context.Context, c *cluster)) {
	t.Parallel()
	for _, n := range []int{1, 3} {
		t.Run(fmt.Sprintf("members-%d", n), func(t *testing.T) {
			t.Parallel()
			f(t, testContext(t, 2*time.Minute), startCluster(t, quorateBin(t), n))
		})
	}
}

// killLeader kills the leader with SIGKILL and waits until the members have a new one. A single member is
// started again at once, one of three by the function that is returned.
func (c *cluster) killLeader(ctx context.Context) (revive func()) {
	c.t.Helper()
	cl := quietClient(c.t, clientv3.Config{Endpoints: c.endpoints()})
	defer cl.Close()
	dead := c.leader(ctx, cl)
	dead.kill()
	revive = sync.OnceFunc(func() { dead.awaitReady(dead.start()) })
	if len(c.members) == 1 {
		revive()
	}
	c.leader(ctx, cl)
	return revive
}

// catchUp returns when each member has what was written before, for it has answered a linearizable read. What
// reads serializably, as List of the naming package and RepeatableReads of STM do, finds it at any of them.
func (c *cluster) catchUp(ctx context.Context) {
	c.t.Helper()
	for _, m := range c.members {
		cl := quietClient(c.t, clientv3.Config{Endpoints: []string{m.endpoint}})
		_, err := cl.Get(ctx, "key")
		must(c.t, err)
	}
}

// eventually tries again what failed for want of a leader or a connection.
func eventually(ctx context.Context, f func() error) error {
	for {
		err := f()
		if err == nil || ctx.Err() != nil || !slices.Contains([]codes.Code{codes.Unavailable, codes.DeadlineExceeded}, errorCode(err)) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
