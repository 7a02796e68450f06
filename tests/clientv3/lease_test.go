package clientv3_test

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// calm makes an answer about a lease comparable: what is left of it depends on the moment, the order of
// its keys and of leases on nothing.
func calm(o outcome) outcome {
	switch r := o.resp.(type) {
	case *pb.LeaseTimeToLiveResponse:
		if r.TTL > 0 && r.TTL <= r.GrantedTTL+1 && r.TTL >= r.GrantedTTL-5 {
			r.TTL = r.GrantedTTL
		}
		slices.SortFunc(r.Keys, slices.Compare)
	case *pb.LeaseLeasesResponse:
		slices.SortFunc(r.Leases, func(a, b *pb.LeaseStatus) int { return cmp.Compare(a.ID, b.ID) })
	}
	return o
}

func (p *pair) sameLease(what string, req any) outcome {
	p.t.Helper()
	etcd, ours := p.both(req)
	etcd, ours = calm(etcd), calm(ours)
	p.judge(what, req, etcd, ours)
	return ours
}

func grant(id, ttl int64) *pb.LeaseGrantRequest { return &pb.LeaseGrantRequest{ID: id, TTL: ttl} }
func revoke(id int64) *pb.LeaseRevokeRequest    { return &pb.LeaseRevokeRequest{ID: id} }
func timeToLive(id int64) *pb.LeaseTimeToLiveRequest {
	return &pb.LeaseTimeToLiveRequest{ID: id, Keys: true}
}

// TestSameLeases gives both servers the same grants, revokes, attachments and questions, the wrong ones
// among them, through every member of one and of three.
func TestSameLeases(t *testing.T) {
	for _, members := range []int{1, 3} {
		t.Run(fmt.Sprintf("members=%d", members), func(t *testing.T) {
			p := startPair(t, members)
			for i := range members {
				p.etcd.connect(i)
				p.ours.connect(i)
				sameLeases(p, int64(i+1)*1000)
			}
			for i := range members {
				p.etcd.connect(i)
				p.ours.connect(i)
				// The list is the member's own: a linearizable read sees to it that nothing is missing.
				p.sameLease("a read", &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
				p.sameLease("all leases", &pb.LeaseLeasesRequest{})
			}
		})
	}
}

func sameLeases(p *pair, base int64) {
	a, b := base+1, base+2
	key := func(name string) []byte { return fmt.Appendf(nil, "%s%d", name, base) }
	for _, req := range []any{
		grant(a, 600), grant(a, 600), grant(a, math.MaxInt64), grant(b, 0), grant(base+3, -1),
		grant(base+4, 1), grant(base+5, 9_000_000_000), grant(base+6, 9_000_000_001), grant(-base, 600),
		grant(math.MaxInt64-base, 600), grant(math.MinInt64+base, 600),
		timeToLive(a), timeToLive(0), timeToLive(-7), timeToLive(base + 99),
		revoke(0), revoke(-7), revoke(base + 99),
		&pb.PutRequest{Key: key("x"), Lease: a}, &pb.PutRequest{Key: key("y"), Lease: a},
		&pb.PutRequest{Key: key("z"), Lease: base + 99}, timeToLive(a),
		&pb.LeaseTimeToLiveRequest{ID: a},
		&pb.PutRequest{Key: key("x"), Lease: base + 5}, timeToLive(a), timeToLive(base + 5),
		&pb.PutRequest{Key: key("y"), IgnoreLease: true}, timeToLive(a),
		&pb.PutRequest{Key: key("y")}, timeToLive(a),
		&pb.PutRequest{Key: key("y"), Lease: a}, &pb.PutRequest{Key: key("w"), Lease: a},
		&pb.TxnRequest{Success: []*pb.RequestOp{opPut(&pb.PutRequest{Key: key("v"), Lease: a})}},
		&pb.TxnRequest{Success: []*pb.RequestOp{opPut(&pb.PutRequest{Key: key("u"), Lease: base + 99})}},
		&pb.DeleteRangeRequest{Key: key("w")}, timeToLive(a),
		revoke(a), revoke(a), timeToLive(a), &pb.PutRequest{Key: key("y"), Lease: a},
		&pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}, grant(a, 600), timeToLive(a), revoke(a),
		// It would end soon, and not at both in the same moment.
		revoke(base + 4),
		&pb.LeaseLeasesRequest{},
	} {
		p.sameLease("leases", req)
	}
	p.sameChosenID()
	p.sameKeepAlives(base)
	p.sameHashes("after leases", 0)
}

// sameChosenID asks for leases without an ID: both servers choose a positive one.
func (p *pair) sameChosenID() {
	p.t.Helper()
	etcd, ours := p.both(grant(0, 600))
	for _, o := range []outcome{etcd, ours} {
		r, ok := o.resp.(*pb.LeaseGrantResponse)
		if !ok || r.ID <= 0 || r.TTL != 600 {
			p.differ("a lease without an ID", grant(0, 600), etcd, ours)
			return
		}
	}
	if len(calm(etcd).message) > 0 {
		p.t.Fatal(etcd)
	}
	for _, s := range []*side{&p.etcd, &p.ours} {
		o := etcd
		if s == &p.ours {
			o = ours
		}
		if gone := s.call(testContext(p.t, 10*time.Second), revoke(o.resp.(*pb.LeaseGrantResponse).ID)); gone.code != codes.OK {
			p.t.Errorf("%s does not know the lease that it chose: %v", s.name, gone)
		}
	}
}

// sameKeepAlives sends keepalives of many leases on one stream, of unknown ones among them.
func (p *pair) sameKeepAlives(base int64) {
	p.t.Helper()
	ids := []int64{base + 5, base + 99, 0, -7, base + 2, base + 5, base + 1, -base, math.MaxInt64 - base}
	var answers [2][]string
	for i, s := range []*side{&p.etcd, &p.ours} {
		stream, err := pb.NewLeaseClient(s.conn).LeaseKeepAlive(testContext(p.t, 30*time.Second))
		if err != nil {
			p.t.Fatal(err)
		}
		for _, id := range ids {
			if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: id}); err != nil {
				p.t.Fatal(err)
			}
		}
		for range ids {
			r, err := stream.Recv()
			if err != nil {
				answers[i] = append(answers[i], failed(err).String())
				break
			}
			scrub(r.ProtoReflect())
			answers[i] = append(answers[i], fmt.Sprint(r.ID, r.TTL, r.GetHeader().GetRevision()))
		}
		if err := stream.CloseSend(); err != nil {
			p.t.Fatal(err)
		}
		_, err = stream.Recv()
		answers[i] = append(answers[i], fmt.Sprint("end: ", err))
	}
	if !slices.Equal(answers[0], answers[1]) {
		p.differ("keepalives", nil, answers[0], answers[1])
	}
}

// TestLeaseEnds keeps one lease alive and leaves another alone, through every member: the first stays,
// the second goes with its keys, not early and not late.
func TestLeaseEnds(t *testing.T) {
	for _, members := range []int{1, 3} {
		t.Run(fmt.Sprintf("members=%d", members), func(t *testing.T) {
			c := startCluster(t, quorateBin(t), members)
			for i := range members {
				t.Run(fmt.Sprintf("through=%d", i), func(t *testing.T) {
					t.Parallel()
					leaseEnds(t, client(t, c.members[i].endpoint))
				})
			}
		})
	}
}

func leaseEnds(t *testing.T, cl *clientv3.Client) {
	const ttl = 3
	ctx := testContext(t, 30*time.Second)
	kept, err := cl.Grant(ctx, ttl)
	if err != nil {
		t.Fatal(err)
	}
	alive, err := cl.KeepAlive(ctx, kept.ID)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for range alive {
		}
	}()
	left, err := cl.Grant(ctx, ttl)
	granted := time.Now()
	if err != nil {
		t.Fatal(err)
	}
	for id, key := range map[clientv3.LeaseID]string{kept.ID: "kept", left.ID: "left"} {
		if _, err := cl.Put(ctx, fmt.Sprintf("%s/%x", key, id), "", clientv3.WithLease(id)); err != nil {
			t.Fatal(err)
		}
	}
	exists := func(name string, id clientv3.LeaseID) bool {
		r, err := cl.Get(ctx, fmt.Sprintf("%s/%x", name, id))
		if err != nil {
			t.Fatal(err)
		}
		return r.Count == 1
	}
	for exists("left", left.ID) {
		if time.Since(granted) > (ttl+4)*time.Second {
			t.Fatal("a lease that nobody keeps alive does not end")
		}
		time.Sleep(20 * time.Millisecond)
	}
	if took := time.Since(granted); took < ttl*time.Second-50*time.Millisecond {
		t.Errorf("a lease of %d s ended after %v", ttl, took)
	}
	time.Sleep(time.Second)
	if !exists("kept", kept.ID) {
		t.Error("a lease that is kept alive has ended")
	}
	ttlOf := func(id clientv3.LeaseID) int64 {
		r, err := cl.TimeToLive(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		return r.TTL
	}
	if got := ttlOf(left.ID); got != -1 {
		t.Errorf("what is left of a lease that has ended: %d s", got)
	}
	if got := ttlOf(kept.ID); got < 0 || got > ttl+1 {
		t.Errorf("what is left of a lease that is kept alive: %d s", got)
	}
}

// TestKeepAliveOfRevoked revokes a lease under a stream that keeps it alive: the client is told that it
// is gone, and the stream goes on for others.
func TestKeepAliveOfRevoked(t *testing.T) {
	p := startPair(t, 3)
	for i := range 3 {
		p.etcd.connect(i)
		p.ours.connect(i)
		id := int64(i) + 1
		p.same("grant", grant(id, 60))
		p.same("grant", grant(id+10, 60))
		var answers [2]string
		for at, s := range []*side{&p.etcd, &p.ours} {
			ctx := testContext(t, 20*time.Second)
			stream, err := pb.NewLeaseClient(s.conn).LeaseKeepAlive(ctx)
			if err != nil {
				t.Fatal(err)
			}
			ask := func(id int64) {
				if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: id}); err != nil {
					t.Fatal(err)
				}
				r, err := stream.Recv()
				answers[at] += fmt.Sprintln(id, r.GetTTL(), err)
			}
			ask(id)
			answers[at] += fmt.Sprintln(s.call(context.Background(), revoke(id)).code)
			ask(id)
			ask(id + 10)
		}
		if answers[0] != answers[1] {
			p.differ("keepalive of a revoked lease", nil, answers[0], answers[1])
		}
	}
}
