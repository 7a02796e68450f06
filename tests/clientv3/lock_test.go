package clientv3_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	epb "go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	lpb "go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
)

// ask sends a lock or election request to one server.
func (s *side) concur(ctx context.Context, req any) outcome {
	lock, election := lpb.NewLockClient(s.conn), epb.NewElectionClient(s.conn)
	var resp proto.Message
	var err error
	switch r := req.(type) {
	case *lpb.LockRequest:
		resp, err = lock.Lock(ctx, r)
	case *lpb.UnlockRequest:
		resp, err = lock.Unlock(ctx, r)
	case *epb.CampaignRequest:
		resp, err = election.Campaign(ctx, r)
	case *epb.ProclaimRequest:
		resp, err = election.Proclaim(ctx, r)
	case *epb.LeaderRequest:
		resp, err = election.Leader(ctx, r)
	case *epb.ResignRequest:
		resp, err = election.Resign(ctx, r)
	default:
		return s.call(ctx, req)
	}
	if err != nil {
		return failed(err)
	}
	scrub(resp.ProtoReflect())
	return outcome{resp: resp}
}

// sameAsked sends a request to both servers, one after the other, and fails the test where they differ.
func (p *pair) sameAsked(what string, req any) outcome {
	p.t.Helper()
	ctx := testContext(p.t, 20*time.Second)
	etcd, ours := p.etcd.concur(ctx, req), p.ours.concur(ctx, req)
	p.judge(what, req, etcd, ours)
	return ours
}

// later asks both servers for something that waits; the answers come when both have them.
func (p *pair) later(ctx context.Context, req any) <-chan [2]outcome {
	answers := make(chan [2]outcome, 1)
	var each [2]chan outcome
	for i, s := range []*side{&p.etcd, &p.ours} {
		each[i] = make(chan outcome, 1)
		go func() { each[i] <- s.concur(ctx, req) }()
	}
	go func() { answers <- [2]outcome{<-each[0], <-each[1]} }()
	return answers
}

func (p *pair) sameLater(what string, req any, answers <-chan [2]outcome) outcome {
	p.t.Helper()
	select {
	case both := <-answers:
		p.judge(what, req, both[0], both[1])
		return both[1]
	case <-time.After(15 * time.Second):
		p.t.Fatalf("%s: nobody answers", what)
		return outcome{}
	}
}

// waiting waits until both servers have so many keys under a prefix.
func (p *pair) waiting(prefix string, count int64) {
	p.t.Helper()
	end := []byte(prefix)
	end[len(end)-1]++
	for range 500 {
		etcd, ours := p.both(&pb.RangeRequest{Key: []byte(prefix), RangeEnd: end, CountOnly: true})
		if etcd.code == codes.OK && ours.code == codes.OK &&
			etcd.resp.(*pb.RangeResponse).Count == count && ours.resp.(*pb.RangeResponse).Count == count {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	p.t.Fatalf("there are never %d keys under %s", count, prefix)
}

func lockOf(name string, lease int64) *lpb.LockRequest {
	return &lpb.LockRequest{Name: []byte(name), Lease: lease}
}

func unlockOf(name string, lease int64) *lpb.UnlockRequest {
	return &lpb.UnlockRequest{Key: fmt.Appendf(nil, "%s/%x", name, lease)}
}

// TestSameLocks takes, waits for, gives up and releases locks at both servers.
func TestSameLocks(t *testing.T) {
	for _, members := range []int{1, 3} {
		t.Run(fmt.Sprintf("members=%d", members), func(t *testing.T) {
			p := startPair(t, members)
			for id := range int64(6) {
				p.same("grant", grant(id+1, 600))
			}
			p.same("grant", grant(-7, 600))
			for _, req := range []any{
				lockOf("a", 1), lockOf("a", 1), unlockOf("a", 1), unlockOf("a", 1), unlockOf("a", 99),
				&lpb.UnlockRequest{}, lockOf("a", 99), lockOf("", 1), unlockOf("", 1), lockOf("a", -7), unlockOf("a", -7),
			} {
				p.sameAsked("locks", req)
			}
			p.locksInTurn()
			p.lockGivenUp()
			p.lockWithoutSession()
			p.sameHashes("after locks", 0)
			p.lockOfTheServersLease()
		})
	}
}

// locksInTurn lets four sessions wait for one lock: they get it in the order in which they came.
func (p *pair) locksInTurn() {
	p.t.Helper()
	p.sameAsked("the first", lockOf("turn", 1))
	var waits []<-chan [2]outcome
	for id := range int64(3) {
		waits = append(waits, p.later(testContext(p.t, 30*time.Second), lockOf("turn", id+2)))
		p.waiting("turn/", id+2)
	}
	for id := range int64(3) {
		p.sameAsked("released", unlockOf("turn", id+1))
		p.sameLater("the next", lockOf("turn", id+2), waits[id])
	}
	p.sameAsked("released", unlockOf("turn", 4))
}

// lockGivenUp lets a deadline pass, and a client go away: neither leaves a key behind.
func (p *pair) lockGivenUp() {
	p.t.Helper()
	p.sameAsked("held", lockOf("up", 1))
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	p.sameLater("too late", lockOf("up", 2), p.later(ctx, lockOf("up", 2)))
	p.waiting("up/", 1)
	gone, leave := context.WithCancel(context.Background())
	wait := p.later(gone, lockOf("up", 3))
	p.waiting("up/", 2)
	leave()
	p.sameLater("gone", lockOf("up", 3), wait)
	p.waiting("up/", 1)
	p.sameAsked("released", unlockOf("up", 1))
}

// lockWithoutSession takes the lease from a session that waits.
func (p *pair) lockWithoutSession() {
	p.t.Helper()
	p.sameAsked("held", lockOf("session", 1))
	wait := p.later(testContext(p.t, 30*time.Second), lockOf("session", 5))
	p.waiting("session/", 2)
	p.same("its lease is gone", revoke(5))
	p.sameAsked("released", unlockOf("session", 1))
	p.sameLater("without a session", lockOf("session", 5), wait)
}

// lockOfTheServersLease locks without a lease: the server grants one of a minute.
func (p *pair) lockOfTheServersLease() {
	p.t.Helper()
	for _, s := range []*side{&p.etcd, &p.ours} {
		ctx := testContext(p.t, 10*time.Second)
		o := s.concur(ctx, lockOf("own", 0))
		r, ok := o.resp.(*lpb.LockResponse)
		if !ok || !strings.HasPrefix(string(r.Key), "own/") {
			p.t.Errorf("%s: %v", s.name, o)
			continue
		}
		var id int64
		if _, err := fmt.Sscanf(string(r.Key), "own/%x", &id); err != nil {
			p.t.Error(err)
		}
		o = s.call(ctx, timeToLive(id))
		if r := o.resp.(*pb.LeaseTimeToLiveResponse); r.GrantedTTL != 60 || len(r.Keys) != 1 {
			p.t.Errorf("%s: the lease of a lock: %v", s.name, o)
		}
		s.call(ctx, revoke(id))
	}
}

func campaign(name string, lease int64, value string) *epb.CampaignRequest {
	return &epb.CampaignRequest{Name: []byte(name), Lease: lease, Value: []byte(value)}
}

func leaderKey(o outcome) *epb.LeaderKey {
	r, _ := o.resp.(*epb.CampaignResponse)
	return r.GetLeader()
}

// TestSameElections campaigns, proclaims, observes and resigns at both servers.
func TestSameElections(t *testing.T) {
	for _, members := range []int{1, 3} {
		t.Run(fmt.Sprintf("members=%d", members), func(t *testing.T) {
			p := startPair(t, members)
			for id := range int64(4) {
				p.same("grant", grant(id+1, 600))
			}
			who := &epb.LeaderRequest{Name: []byte("e")}
			for _, req := range []any{
				who, &epb.ProclaimRequest{}, &epb.ResignRequest{}, campaign("e", 99, "x"), campaign("", 1, "x"),
				&epb.LeaderRequest{},
			} {
				p.sameAsked("elections", req)
			}
			noKey := &epb.LeaderKey{Name: []byte("e"), Lease: 1}
			p.sameAsked("no key", &epb.ProclaimRequest{Leader: noKey, Value: []byte("x")})
			p.sameAsked("no key", &epb.ResignRequest{Leader: noKey})
			observed := p.observe("e")
			first := leaderKey(p.sameAsked("the first", campaign("e", 1, "one")))
			p.sameAsked("again", campaign("e", 1, "one"))
			p.sameAsked("another value", campaign("e", 1, "uno"))
			p.sameAsked("who", who)
			wait := p.later(testContext(t, 30*time.Second), campaign("e", 2, "two"))
			p.waiting("e/", 2)
			p.sameAsked("still", who)
			wrong := &epb.LeaderKey{Name: first.Name, Key: first.Key, Rev: first.Rev + 1, Lease: first.Lease}
			for _, req := range []any{
				&epb.ProclaimRequest{Leader: first, Value: []byte("eins")},
				&epb.ProclaimRequest{Leader: wrong, Value: []byte("zwei")},
				who, &epb.ResignRequest{Leader: wrong}, who, &epb.ResignRequest{Leader: first},
			} {
				p.sameAsked("the first", req)
			}
			second := leaderKey(p.sameLater("the second", campaign("e", 2, "two"), wait))
			p.sameAsked("who", who)
			p.sameAsked("the second", &epb.ProclaimRequest{Leader: second, Value: []byte("deux")})
			p.candidateGoes()
			p.same("its lease is gone", revoke(2))
			p.sameAsked("nobody", who)
			p.sameAsked("a leader no more", &epb.ProclaimRequest{Leader: second, Value: []byte("x")})
			p.sameAsked("a leader no more", &epb.ResignRequest{Leader: second})
			p.sameAsked("the third", campaign("e", 3, "three"))
			p.sameObserved(observed, "one uno eins two deux three")
			p.sameHashes("after elections", 0)
		})
	}
}

// candidateGoes lets a client go away while it waits to be elected.
func (p *pair) candidateGoes() {
	p.t.Helper()
	gone, leave := context.WithCancel(context.Background())
	wait := p.later(gone, campaign("e", 4, "four"))
	p.waiting("e/", 2)
	leave()
	p.sameLater("gone", campaign("e", 4, "four"), wait)
	p.waiting("e/", 1)
}

func (p *pair) observe(name string) [2]grpc.ServerStreamingClient[epb.LeaderResponse] {
	var streams [2]grpc.ServerStreamingClient[epb.LeaderResponse]
	for i, s := range []*side{&p.etcd, &p.ours} {
		stream, err := epb.NewElectionClient(s.conn).Observe(testContext(p.t, 60*time.Second), &epb.LeaderRequest{Name: []byte(name)})
		if err != nil {
			p.t.Fatal(err)
		}
		streams[i] = stream
	}
	return streams
}

// sameObserved compares what observers saw, up to the last value. A value that is replaced before the
// observer comes to it may be left out, so only the order counts, and the last.
func (p *pair) sameObserved(streams [2]grpc.ServerStreamingClient[epb.LeaderResponse], all string) {
	p.t.Helper()
	values := strings.Fields(all)
	for i, name := range []string{"etcd", "quorate"} {
		at := 0
		var seen []string
		for at < len(values) {
			r, err := streams[i].Recv()
			if err != nil {
				p.t.Fatalf("%s: observed %v, then %v", name, seen, err)
			}
			value := string(r.Kv.Value)
			seen = append(seen, value)
			for at < len(values) && values[at] != value {
				at++
			}
			if at == len(values) {
				p.t.Fatalf("%s: observed %v, which is not in the order of %v", name, seen, values)
			}
			if r.Header.GetRevision() < r.Kv.ModRevision {
				p.t.Errorf("%s: %q of revision %d observed at %d", name, value, r.Kv.ModRevision, r.Header.GetRevision())
			}
			at++
		}
	}
}
