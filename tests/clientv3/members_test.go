package clientv3_test

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// listing is an answer of the Cluster service: each has all members.
type listing interface {
	proto.Message
	GetMembers() []*pb.Member
}

// question is one request to the Cluster service of a side.
type question func(ctx context.Context, s *side, c pb.ClusterClient) (listing, error)

// nobody is a peer URL where nothing listens; servers' own ports have more digits.
const nobody = "http://127.0.0.1:1"

// likeness takes the place of what differs between two clusters: IDs, and the URLs of running members.
func likeness(m *pb.Member) {
	m.ID = 1
	for _, urls := range [][]string{m.PeerURLs, m.ClientURLs} {
		for i, url := range urls {
			if len(url) > len(nobody)+1 && strings.HasPrefix(url, "http://") {
				urls[i] = "own"
			}
		}
	}
}

// sameMembers asks both sides and compares the answers, lists of members too.
func (p *pair) sameMembers(what string, do question) outcome {
	p.t.Helper()
	var outcomes [2]outcome
	for i, s := range []*side{&p.etcd, &p.ours} {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		resp, err := do(ctx, s, pb.NewClusterClient(s.conn))
		if err != nil {
			outcomes[i] = failed(err)
			continue
		}
		members := resp.GetMembers()
		if !slices.IsSortedFunc(members, func(a, b *pb.Member) int { return cmp.Compare(a.ID, b.ID) }) {
			p.t.Errorf("%s: %s does not list members by ID: %v", what, s.name, members)
		}
		if added, ok := resp.(*pb.MemberAddResponse); ok {
			s.added = added.Member.ID
			likeness(added.Member)
		}
		for _, m := range members {
			likeness(m)
		}
		slices.SortFunc(members, func(a, b *pb.Member) int {
			return cmp.Compare(a.Name+strings.Join(a.PeerURLs, " "), b.Name+strings.Join(b.PeerURLs, " "))
		})
		scrub(resp.ProtoReflect())
		outcomes[i] = outcome{resp: resp}
	}
	p.requests++
	p.judge(what, nil, outcomes[0], outcomes[1])
	return outcomes[0]
}

func add(isLearner bool, urls ...string) question {
	return func(ctx context.Context, _ *side, c pb.ClusterClient) (listing, error) {
		return c.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: urls, IsLearner: isLearner})
	}
}

func remove(id func(s *side) uint64) question {
	return func(ctx context.Context, s *side, c pb.ClusterClient) (listing, error) {
		return c.MemberRemove(ctx, &pb.MemberRemoveRequest{ID: id(s)})
	}
}

func promote(id func(s *side) uint64) question {
	return func(ctx context.Context, s *side, c pb.ClusterClient) (listing, error) {
		return c.MemberPromote(ctx, &pb.MemberPromoteRequest{ID: id(s)})
	}
}

func update(id func(s *side) uint64, urls ...string) question {
	return func(ctx context.Context, s *side, c pb.ClusterClient) (listing, error) {
		return c.MemberUpdate(ctx, &pb.MemberUpdateRequest{ID: id(s), PeerURLs: urls})
	}
}

func list(linearizable bool) question {
	return func(ctx context.Context, _ *side, c pb.ClusterClient) (listing, error) {
		return c.MemberList(ctx, &pb.MemberListRequest{Linearizable: linearizable})
	}
}

// memberID is the ID of a side's i-th member.
func memberID(i int) func(s *side) uint64 {
	return func(s *side) uint64 {
		resp, err := client(s.t, s.members[i].endpoint).Status(context.Background(), s.members[i].endpoint)
		if err != nil {
			s.t.Fatal(err)
		}
		return resp.Header.MemberId
	}
}

func stranger(*side) uint64 { return 7 }
func last(s *side) uint64   { return s.added }

// What one member says to changes, with no other that could answer.
func TestSameChangesOfMembers(t *testing.T) {
	p := startPair(t, 1)
	const (
		bad    = codes.InvalidArgument
		failed = codes.FailedPrecondition
	)
	own := memberID(0)
	for _, c := range []struct {
		what string
		do   question
		code codes.Code
		text string
	}{
		{"no URL", add(false), bad, "etcdserver: given member URLs are invalid"},
		{"an empty URL", add(false, ""), bad, ""},
		{"no scheme", add(false, "127.0.0.1:1"), bad, ""},
		{"another scheme", add(false, "ftp://127.0.0.1:1"), bad, ""},
		{"no port", add(false, "http://127.0.0.1"), bad, ""},
		{"a port that is none", add(true, "http://127.0.0.1:x"), bad, ""},
		{"a path", add(true, nobody+"/"), bad, ""},
		{"a name in two parts", add(true, "http://a b:1"), bad, ""},
		{"one good URL and a bad one", add(true, nobody, "x"), bad, ""},
		{"remove nobody", remove(stranger), codes.NotFound, "etcdserver: member not found"},
		{"remove the only one", remove(own), codes.Unknown, "etcdserver: re-configuration failed due to not enough started members"},
		{"promote nobody", promote(stranger), codes.NotFound, "etcdserver: member not found"},
		{"promote a voter", promote(own), failed, "etcdserver: can only promote a learner member"},
		{"update nobody", update(stranger, nobody), codes.NotFound, "etcdserver: member not found"},
		{"list", list(true), codes.OK, ""},
		{"add a learner", add(true, "HTTP://127.0.0.1:2", nobody), codes.OK, ""},
		{"add a learner too many", add(true, "http://127.0.0.1:3"), failed, "etcdserver: too many learner members in cluster"},
		{"a URL that is taken", add(true, "http://127.0.0.1:3", nobody), failed, "etcdserver: Peer URLs already exists"},
		{"a taken URL for a voter", add(false, nobody), failed, "etcdserver: Peer URLs already exists"},
		{"update to a taken URL", update(own, nobody), failed, "etcdserver: Peer URLs already exists"},
		{"promote what was never started", promote(last), failed, "etcdserver: can only promote a learner member which is in sync with leader"},
		{"update a learner", update(last, "http://127.0.0.1:4", nobody), codes.OK, ""},
		{"list with a learner", list(false), codes.OK, ""},
		{"remove a learner", remove(last), codes.OK, ""},
		{"remove it again", remove(last), codes.NotFound, "etcdserver: member not found"},
		{"promote what was removed", promote(last), codes.NotFound, "etcdserver: member not found"},
		{"update what was removed", update(last, nobody), codes.NotFound, "etcdserver: member not found"},
		{"add a learner at a URL that is free again", add(true, nobody), codes.OK, ""},
		{"remove that one too", remove(last), codes.OK, ""},
		{"odd, but a URL", add(true, "http://:1"), codes.OK, ""},
		{"remove the odd one", remove(last), codes.OK, ""},
		{"list at the end", list(true), codes.OK, ""},
	} {
		etcd := p.sameMembers(c.what, c.do)
		if etcd.code != c.code || !strings.HasPrefix(etcd.message, c.text) {
			t.Errorf("%s: etcd itself says %v, not %v %q", c.what, etcd, c.code, c.text)
		}
	}
	// A learner takes part in the log of neither: revisions are the same.
	p.same("after all", &pb.PutRequest{Key: []byte("after")})
}

// What three members say, one of them dead: which changes might cost the quorum.
func TestSameChecksOfQuorum(t *testing.T) {
	for _, strict := range []bool{true, false} {
		t.Run(map[bool]string{true: "strict", false: "not strict"}[strict], func(t *testing.T) {
			var flags []string
			if !strict {
				flags = append(flags, "--strict-reconfig-check=false")
			}
			p := startPair(t, 3, flags...)
			for _, s := range []*side{&p.etcd, &p.ours} {
				lead(t, s)
			}
			// Five healthy seconds are wanted, and one more for slow machines.
			time.Sleep(6 * time.Second)
			p.sameMembers("a learner", add(true, nobody))
			for i := range 2 { // the leader and a follower, which asks it
				p.etcd.connect(i)
				p.ours.connect(i)
				p.sameMembers("promote what was never started", promote(last))
				p.sameMembers("promote a voter", promote(memberID(1)))
				p.sameMembers("promote nobody", promote(stranger))
			}
			p.etcd.connect(0)
			p.ours.connect(0)
			p.sameMembers("the learner goes", remove(last))
			dead := map[*side]uint64{&p.etcd: memberID(2)(&p.etcd), &p.ours: memberID(2)(&p.ours)}
			for _, s := range []*side{&p.etcd, &p.ours} {
				s.members[2].kill()
			}
			time.Sleep(2 * time.Second)
			if strict {
				p.sameMembers("a voter, of four with two away", add(false, nobody))
				p.sameMembers("a learner meanwhile", add(true, nobody))
				p.sameMembers("one of two that are left", remove(memberID(1)))
			}
			p.sameMembers("the dead one", remove(func(s *side) uint64 { return dead[s] }))
			if !strict {
				p.sameMembers("a voter that nobody starts", add(false, nobody))
				p.sameMembers("and it goes", remove(last))
			}
			p.sameMembers("who is left", list(true))
		})
	}
}
