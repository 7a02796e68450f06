package clientv3_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// twins is a pair of servers as a Go program meets them: one clientv3 client on each. The same lines of
// the program run against both, and what they return must be the same.
type twins struct {
	*pair
	clients [2]*clientv3.Client // etcd's, ours
}

func startTwins(t *testing.T, members int, flags ...string) *twins {
	t.Helper()
	w := &twins{pair: startPair(t, members, flags...)}
	for i, s := range w.sides() {
		w.clients[i] = quietClient(t, clientv3.Config{Endpoints: s.endpoints()})
	}
	return w
}

// quietClient is a client that does not log the refusals that tests ask for.
func quietClient(t testing.TB, cfg clientv3.Config) *clientv3.Client {
	t.Helper()
	cfg.Logger = zap.NewNop()
	if cfg.DialTimeout == 0 {
		cfg.DialTimeout = 5 * time.Second
	}
	c, err := clientv3.New(cfg)
	if err != nil {
		t.Fatalf("connect to %v: %v", cfg.Endpoints, err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func (w *twins) sides() [2]*side { return [2]*side{&w.etcd, &w.ours} }

// program is what runs against both. What it returns is compared as text (see text), so it must not
// hold identities of the cluster.
type clientProgram func(ctx context.Context, c *clientv3.Client) (any, error)

// same runs do against both servers at once and returns etcd's result.
func (w *twins) same(what string, do clientProgram) (any, error) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var results [2]any
	var errs [2]error
	var wait sync.WaitGroup
	for i, c := range w.clients {
		wait.Go(func() { results[i], errs[i] = do(ctx, c) })
	}
	wait.Wait()
	w.requests++
	w.alive(what)
	etcd, ours := text(results[0], errs[0]), text(results[1], errs[1])
	if etcd != ours {
		w.differ(what, ours, etcd, ours)
	}
	return results[0], errs[0]
}

// alive ends the test if a server has ended by itself.
func (w *twins) alive(what string) {
	w.t.Helper()
	for _, s := range w.sides() {
		for _, m := range s.members {
			if m.crashed() {
				w.t.Fatalf("%s %s ended by itself: %s", s.name, m.name, what)
			}
		}
	}
}

// op and txn are programs of one request.
func op(o clientv3.Op) clientProgram {
	return func(ctx context.Context, c *clientv3.Client) (any, error) { return c.Do(ctx, o) }
}

func get(key string, opts ...clientv3.OpOption) clientProgram {
	return func(ctx context.Context, c *clientv3.Client) (any, error) { return c.Get(ctx, key, opts...) }
}

func getStream(key string, opts ...clientv3.OpOption) clientProgram {
	return func(ctx context.Context, c *clientv3.Client) (any, error) {
		chunks, err := c.GetStream(ctx, key, opts...)
		if err != nil {
			return nil, err
		}
		return clientv3.GetStreamToGetResponse(chunks)
	}
}

// errorCode is gRPC's code of an error, also where clientv3 has made a value of its own of it.
func errorCode(err error) codes.Code {
	var known rpctypes.EtcdError
	switch {
	case errors.As(err, &known):
		return known.Code()
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	default:
		return status.Code(err)
	}
}

// text is what a program sees of a result: every field but the identities in headers, or the error with
// its Go type, its code and its words.
func text(result any, err error) string {
	if err != nil {
		return fmt.Sprintf("%T %v %q", err, errorCode(err), err)
	}
	switch r := result.(type) {
	case clientv3.OpResponse:
		switch {
		case r.Get() != nil:
			return text(r.Get(), nil)
		case r.Put() != nil:
			return text(r.Put(), nil)
		case r.Del() != nil:
			return text(r.Del(), nil)
		default:
			return text(r.Txn(), nil)
		}
	case *clientv3.GetResponse:
		return text((*pb.RangeResponse)(r), nil)
	case *clientv3.PutResponse:
		return text((*pb.PutResponse)(r), nil)
	case *clientv3.DeleteResponse:
		return text((*pb.DeleteRangeResponse)(r), nil)
	case *clientv3.TxnResponse:
		return text((*pb.TxnResponse)(r), nil)
	case *clientv3.CompactResponse:
		return text((*pb.CompactionResponse)(r), nil)
	case proto.Message:
		m := proto.Clone(r)
		scrub(m.ProtoReflect())
		// Two runs of the formatter differ in their spaces at random, two calls of one process do not.
		return prototext.Format(m)
	default:
		return fmt.Sprintf("%+v", r)
	}
}
